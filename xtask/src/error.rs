//! The errors of the tasks.

use std::io;
use std::path::PathBuf;

/// A failed task: which step, on what, why, and where it helps, what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A program could not be started at all.
    #[error("cannot start {program}: {source}")]
    Start { program: String, source: io::Error },
    /// A program ran and failed.
    #[error("{command} failed ({status})")]
    Command { command: String, status: String },
    /// A file or folder could not be read, written, made or removed.
    #[error("cannot {operation} {}: {source}", path.display())]
    File {
        operation: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    /// Ctrl-C, or a signal that asks to end.
    #[error("interrupted")]
    Interrupted,
    /// The machine lacks something that the lab needs.
    #[error("{what}; {remedy}")]
    Missing { what: String, remedy: String },
    /// Something that has to be fetched cannot be had.
    #[error("{what} cannot be had: {source}; look whether this machine's Debian mirror has it")]
    Unreachable { what: String, source: Box<Error> },
    /// A boot ended before the script did.
    #[error("the boot failed after {elapsed_s} s: {cause}")]
    Boot { cause: String, elapsed_s: u64 },
    /// The requested object does not exist.
    #[error("{0}")]
    Usage(String),
}

/// The result of a task's step.
pub type Result<T> = std::result::Result<T, Error>;

/// Says which file operation failed, and on which path.
pub fn at(operation: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Error {
    let path = path.into();
    move |source| Error::File {
        operation,
        path,
        source,
    }
}
