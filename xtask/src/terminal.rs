//! Connects the user's terminal to dom0's console.

use crate::error::{Error, Result};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use std::io::{Read, Write, stdin, stdout};
use std::process::ChildStdin;
use std::sync::atomic::{AtomicBool, Ordering};

/// Set when the user has pressed Ctrl-].
static LEFT: AtomicBool = AtomicBool::new(false);

const CTRL_RIGHT_BRACKET: u8 = 0x1d;

/// Whether the user asked to leave.
pub fn left() -> bool {
    LEFT.load(Ordering::Relaxed)
}

/// While this lives, keys go through one by one and unechoed.
pub struct RawMode {
    before: Termios,
}

impl RawMode {
    /// Switches the terminal over.
    pub fn enter() -> Result<Self> {
        let missing = |_| Error::Missing {
            what: "the lab's shell needs a terminal".into(),
            remedy: "use `cargo xtask lab run SCRIPT` without one".into(),
        };
        let before = tcgetattr(stdin()).map_err(missing)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin(), OptionalActions::Now, &raw).map_err(missing)?;
        Ok(Self { before })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        let _ = tcsetattr(stdin(), OptionalActions::Now, &self.before);
    }
}

/// Rows and columns of the terminal.
pub fn size() -> (u16, u16) {
    match tcgetwinsize(stdout()) {
        Ok(size) if size.ws_row > 0 => (size.ws_row, size.ws_col),
        _ => (24, 80),
    }
}

/// Sends the user's keys to dom0, from a thread that ends with the process.
pub fn send_keys(to_dom0: Option<ChildStdin>) {
    std::thread::spawn(move || {
        let Some(mut to_dom0) = to_dom0 else { return };
        let mut buffer = [0; 1024];
        while let Ok(count @ 1..) = stdin().read(&mut buffer) {
            let keys = buffer.get(..count).unwrap_or_default();
            if keys.contains(&CTRL_RIGHT_BRACKET) {
                LEFT.store(true, Ordering::Relaxed);
            }
            if to_dom0
                .write_all(keys)
                .and_then(|()| to_dom0.flush())
                .is_err()
            {
                return;
            }
        }
    });
}
