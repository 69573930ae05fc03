//! The `xyl` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    xyl::run(std::env::args_os())
}
