//! A journal: any bytes, and any records with the numbers and checksums that would let them pass. What is whole of it tells
//! of operations, of which the last alone may be under way.

#![no_main]

use libfuzzer_sys::fuzz_target;
use xyl_saga::{Past, parse};

const FIRST_LINE: &[u8] = b"xyl-journal 1\n";

fuzz_target!(|bytes: &[u8]| {
    let with_first_line = [FIRST_LINE, bytes].concat();
    for text in [bytes, &with_first_line, &sealed(bytes)] {
        let Ok(contents) = parse(text) else { continue };
        let past = Past::of(&contents);
        let ended = past.operations.iter().filter(|one| one.outcome.is_some());
        assert!(ended.count() + 1 >= past.operations.len());
    }
});

/// A journal whose records are these lines: no fuzzer finds a checksum by trying.
fn sealed(lines: &[u8]) -> Vec<u8> {
    let mut journal = FIRST_LINE.to_vec();
    for (number, line) in (1_u64..).zip(lines.split(|byte| *byte == b'\n')) {
        let rest = [format!("{number} 1700000000000 ").as_bytes(), line].concat();
        journal.extend(format!("{:08x} ", crc32fast::hash(&rest)).bytes());
        journal.extend(rest);
        journal.push(b'\n');
    }
    journal
}
