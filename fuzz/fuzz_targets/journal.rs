//! A journal: any bytes. What is whole of it tells of operations, of which the last alone may be under way.

#![no_main]

use libfuzzer_sys::fuzz_target;
use xyl_saga::{Past, parse};

fuzz_target!(|bytes: &[u8]| {
    let with_first_line = [b"xyl-journal 1\n", bytes].concat();
    for text in [bytes, &with_first_line] {
        let Ok(contents) = parse(text) else { continue };
        let past = Past::of(&contents);
        let ended = past.operations.iter().filter(|one| one.outcome.is_some());
        assert!(ended.count() + 1 >= past.operations.len());
    }
});
