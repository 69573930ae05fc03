//! The user's terminal in raw mode for as long as a session lasts.

use std::io::Stdin;

use rustix::termios::{self, OptionalActions, Termios};

/// Standard input in raw mode. Dropping it gives the terminal its old modes back: at the session's
/// end, on an error, and when a panic unwinds. Signals that end the process are caught by the
/// session, which then ends in order.
pub struct RawTerminal {
    stdin: Stdin,
    before: Termios,
}

impl RawTerminal {
    /// Makes standard input raw. None if that and standard output are not both terminals: then
    /// nobody types there.
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
        // A terminal that has gone away has no modes to give back.
        let _ = termios::tcsetattr(&self.stdin, OptionalActions::Now, &self.before);
    }
}
