//! The consoles of a simulated host, as xenconsoled serves them: a pty per domain, and a log of its output.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::pty::{self, OpenptFlags};
use rustix::termios::{self, OptionalActions};

use super::folder;

/// Maximum number of bytes that are kept for a later reader.
const KEPT_MAX_BYTES: usize = 64 << 10;
/// Longest line that is taken from a reader's keyboard.
const LINE_MAX_BYTES: usize = 256;

/// The console of one domain.
pub(super) struct Console {
    master: OwnedFd,
    /// Held open, so that the pty outlives its readers.
    slave: OwnedFd,
    tty: String,
    log: Option<File>,
    kept: Vec<u8>,
    line: Vec<u8>,
}

impl Console {
    /// A new pty, and the log at that path.
    pub fn open(log: &Path) -> io::Result<Console> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = pty::openpt(flags)?;
        pty::grantpt(&master)?;
        pty::unlockpt(&master)?;
        let tty = pty::ptsname(&master, Vec::new())?;
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let slave = rustix::fs::open(tty.as_c_str(), flags, Mode::empty())?;
        let mut modes = termios::tcgetattr(&slave)?;
        modes.make_raw();
        termios::tcsetattr(&slave, OptionalActions::Now, &modes)?;
        rustix::io::ioctl_fionbio(&master, true)?;
        Ok(Console {
            master,
            slave,
            tty: tty.to_string_lossy().into_owned(),
            log: folder::open_log(log).ok(),
            kept: Vec::new(),
            line: Vec::new(),
        })
    }

    /// The name of the tty that readers open.
    pub fn tty(&self) -> &str {
        &self.tty
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.master.as_fd()
    }

    /// Whether bytes wait for a reader.
    pub fn is_full(&self) -> bool {
        !self.kept.is_empty()
    }

    /// Whether a reader has not read all output yet. Closing the pty loses the rest.
    pub fn is_unread(&self) -> bool {
        self.is_full() || rustix::io::ioctl_fionread(&self.slave).is_ok_and(|bytes| bytes > 0)
    }

    /// The guest prints.
    pub fn print(&mut self, text: &str) {
        if let Some(log) = &mut self.log {
            // A full disk costs the log, not the console.
            let _ = log.write_all(text.as_bytes());
        }
        self.kept.extend_from_slice(text.as_bytes());
        let excess = self.kept.len().saturating_sub(KEPT_MAX_BYTES);
        self.kept.drain(..excess);
        self.flush();
    }

    /// Writes to the pty as much as it takes.
    pub fn flush(&mut self) {
        while !self.kept.is_empty() {
            match rustix::io::write(&self.master, &self.kept) {
                Ok(written) => drop(self.kept.drain(..written)),
                Err(_) => return,
            }
        }
    }

    /// The lines that were typed since, each echoed as it is typed.
    pub fn typed(&mut self) -> Vec<String> {
        let mut bytes = [0; 512];
        let count = rustix::io::read(&self.master, &mut bytes).unwrap_or(0);
        let mut lines = Vec::new();
        for byte in bytes.iter().take(count) {
            match byte {
                b'\r' | b'\n' => {
                    self.print("\r\n");
                    let line = std::mem::take(&mut self.line);
                    lines.push(String::from_utf8_lossy(&line).trim().to_owned());
                }
                b' '..=b'~' if self.line.len() < LINE_MAX_BYTES => {
                    self.line.push(*byte);
                    self.print(&char::from(*byte).to_string());
                }
                _ => {}
            }
        }
        lines
    }
}
