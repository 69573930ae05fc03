//! Taps: network interfaces of the host whose other end is a file of a process. [`Taps`] is the port.

use std::fmt;
use std::io;

use crate::links::LinkName;
use crate::open::OpenFile;

/// The port to taps.
pub trait Taps: fmt::Debug {
    /// Makes a tap for Ethernet packets with a name that no link has. It is down. The kernel removes it when no process has the file
    /// open any more.
    ///
    /// # Errors
    /// The system's error: [`Errno::EXIST`](rustix::io::Errno::EXIST) or [`Errno::BUSY`](rustix::io::Errno::BUSY) if a link has the name.
    fn open(&self, name: &LinkName) -> io::Result<OpenFile>;
}
