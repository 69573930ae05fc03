//! The project tasks: lab, demo, test, bench.

fn main() {}
