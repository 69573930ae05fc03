//! The user's terminal in raw mode, for the time of a session.

use std::io::Stdin;

use rustix::termios::{self, OptionalActions, Termios};

/// Standard input in raw mode. Dropping it restores the old modes: at the session's end, after an error, and when a
/// panic unwinds. The session catches the signals that would end the process.
pub struct RawTerminal {
    stdin: Stdin,
    before: Termios,
}

impl RawTerminal {
    /// Sets raw mode. `None` if standard input and standard output are not both terminals.
    pub fn enter() -> Option<RawTerminal> {
        let stdin = std::io::stdin();
        if !termios::isatty(&stdin) || !termios::isatty(std::io::stdout()) {
            return None;
        }
        let before = termios::tcgetattr(&stdin).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        termios::tcsetattr(&stdin, OptionalActions::Now, &raw).ok()?;
        Some(RawTerminal { stdin, before })
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // If the terminal is gone, its modes need not be restored.
        let _ = termios::tcsetattr(&self.stdin, OptionalActions::Now, &self.before);
    }
}
