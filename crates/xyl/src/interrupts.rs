//! Ctrl-C and similar signals, for commands that undo their operation when they are interrupted.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use xyl_engine::Cancel;

use crate::error::{Failure, Outcome};

/// Signal handlers for SIGHUP, SIGINT, SIGTERM. While they are installed, a signal cancels the operation.
pub struct Interrupts {
    /// The flag that a signal sets.
    pub cancel: Cancel,
    is_too_late: Arc<AtomicBool>,
    handlers: Vec<signal_hook::SigId>,
}

impl Interrupts {
    /// Installs the handlers.
    ///
    /// # Errors
    /// An error of the system if a handler cannot be installed.
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

    /// Restores the default: a signal ends the process at once. If one came after the last point for cancelling, ends
    /// the command now.
    ///
    /// # Errors
    /// [`Failure::Signal`] if a signal has come.
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
