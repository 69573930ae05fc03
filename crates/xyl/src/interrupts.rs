//! Ctrl-C and its like, for commands that take back what they have begun.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use xyl_engine::Cancel;

use crate::error::{Failure, Outcome};

/// The signals that ask a command to end. While this lives they ask for the operation to be taken back.
pub struct Interrupts {
    /// What they raise.
    pub cancel: Cancel,
    is_too_late: Arc<AtomicBool>,
    handlers: Vec<signal_hook::SigId>,
}

impl Interrupts {
    /// Catches them.
    ///
    /// # Errors
    /// The system's, where signals cannot be caught.
    pub fn catch() -> Result<Interrupts, Failure> {
        let mut interrupts = Interrupts {
            cancel: Cancel::new(),
            is_too_late: Arc::default(),
            handlers: Vec::new(),
        };
        for signal in [SIGHUP, SIGINT, SIGTERM] {
            interrupts
                .add(signal)
                .map_err(|source| Failure::io("catch signals", source))?;
        }
        Ok(interrupts)
    }

    fn add(&mut self, signal: i32) -> std::io::Result<()> {
        use signal_hook::flag::{register, register_conditional_default};
        let is_too_late = Arc::clone(&self.is_too_late);
        self.handlers
            .push(register_conditional_default(signal, is_too_late)?);
        self.handlers.push(register(signal, self.cancel.flag())?);
        Ok(())
    }

    /// From now on such a signal ends the process at once; one that came too late to take the
    /// operation back ends it now.
    ///
    /// # Errors
    /// [`Failure::Signal`], if one came.
    pub fn end_the_command(mut self) -> Outcome {
        self.is_too_late.store(true, Ordering::SeqCst);
        self.handlers.clear();
        if self.cancel.is_requested() {
            return Err(Failure::Signal(SIGTERM));
        }
        Ok(())
    }
}

impl Drop for Interrupts {
    fn drop(&mut self) {
        for handler in self.handlers.drain(..) {
            signal_hook::low_level::unregister(handler);
        }
    }
}
