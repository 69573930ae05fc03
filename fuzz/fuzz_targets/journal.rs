//! A journal: any bytes, and any records with the numbers and checksums that would let them pass. The valid part of it is a list
//! of operations. Only the last one may be under way.

#![no_main]

use libfuzzer_sys::fuzz_target;
use xyl_saga::{Past, parse};

const FIRST_LINES: [&[u8]; 2] = [b"xyl-journal 1\n", b"xyl-journal 2\n"];

fuzz_target!(|bytes: &[u8]| {
    check(bytes);
    for first_line in FIRST_LINES {
        check(&[first_line, bytes].concat());
        check(&sealed(first_line, bytes));
    }
});

fn check(text: &[u8]) {
    if let Ok(contents) = parse(text) {
        let past = Past::of(&contents);
        let ended = past.operations.iter().filter(|one| one.outcome.is_some());
        assert!(ended.count() + 1 >= past.operations.len());
    }
}

/// A journal whose records are these lines: no fuzzer finds a checksum by trying.
fn sealed(first_line: &[u8], lines: &[u8]) -> Vec<u8> {
    let mut journal = first_line.to_vec();
    for (number, line) in (1_u64..).zip(lines.split(|byte| *byte == b'\n')) {
        let rest = [format!("{number} 1700000000000 ").as_bytes(), line].concat();
        journal.extend(format!("{:08x} ", crc32fast::hash(&rest)).bytes());
        journal.extend(rest);
        journal.push(b'\n');
    }
    journal
}
