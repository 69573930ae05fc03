//! The `xyl` command.

fn main() {}
