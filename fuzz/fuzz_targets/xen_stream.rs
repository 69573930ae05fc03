//! A stream: any bytes as a file of xl, as a libxl stream and as a libxc stream, and as the records behind right headers. What is
//! accepted is written again with the same bytes, unless a record was skipped.

#![no_main]

use libfuzzer_sys::fuzz_target;
use xen_stream::{Event, HvmContext, Limits, Reader, StreamKind, Writer};

const HEADERS: [&[u8]; 2] = [
    b"\xff\xff\xff\xff\xff\xff\xff\xffXENF\0\0\0\x03\0\0\0\0\0\0\0\0\x01\0\0\0\x0c\0\0\0\x04\0\0\0\x11\0\0\0",
    b"\xff\xff\xff\xff\xff\xff\xff\xffXENF\0\0\0\x03\0\0\0\0\0\0\0\0\x02\0\0\0\x0c\0\0\0\x04\0\0\0\x11\0\0\0",
];

fuzz_target!(|bytes: &[u8]| {
    for kind in [StreamKind::XlFile, StreamKind::Libxl, StreamKind::Libxc] {
        check(bytes, kind);
    }
    for header in HEADERS {
        check(&[header, bytes].concat(), StreamKind::Libxc);
    }
    let _ = HvmContext::parse(bytes);
});

fn check(bytes: &[u8], kind: StreamKind) {
    let mut reader = Reader::new(bytes, kind, Limits::default());
    let mut writer = Writer::new(Vec::new(), kind, Limits::default());
    let mut is_all_written = true;
    loop {
        match reader.next_event() {
            Ok(Some(Event::Skipped { .. })) => is_all_written = false,
            Ok(Some(event)) => writer.event(&event).expect("what was read can be written"),
            Ok(None) => break,
            Err(error) => {
                let _ = error.to_string();
                return;
            }
        }
    }
    let read = reader.offset_bytes() as usize;
    if is_all_written {
        assert_eq!(&bytes[..read], &writer.into_inner()[..]);
    }
}
