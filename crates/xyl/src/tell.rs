//! Words on standard error. That nobody can take them, as on a full disk, is no reason to end: `eprintln!` would panic.

use std::fmt::Arguments;
use std::io::{self, Write};

/// Writes a line.
pub fn line(text: Arguments<'_>) {
    part(format_args!("{text}\n"));
}

/// Writes what is not a whole line.
pub fn part(text: Arguments<'_>) {
    let mut out = io::stderr().lock();
    let _ = out.write_all(text.to_string().as_bytes());
    let _ = out.flush();
}
