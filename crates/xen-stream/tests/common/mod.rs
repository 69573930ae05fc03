//! Small streams, built byte by byte, and what tests do with them.
#![allow(dead_code)]

use xen_stream::{Cause, Event, Limits, Reader, StreamError, StreamKind, Writer};

/// A record: type, length, body, zeros to a multiple of 8.
pub fn record(code: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = [code.to_le_bytes(), (body.len() as u32).to_le_bytes()].concat();
    bytes.extend(body);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes
}

pub fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

pub fn longs(longs: &[u64]) -> Vec<u8> {
    longs.iter().flat_map(|long| long.to_le_bytes()).collect()
}

/// The header of xl's file with a configuration in JSON.
pub fn file_header(json: &str) -> Vec<u8> {
    let mut bytes = b"Xen saved domain, xl format\n \0 \r".to_vec();
    let config = [json.as_bytes(), b"\0"].concat();
    let length = config.len() as u32;
    bytes.extend(words(&[0x0102_0304, 3, 0, 4 + length, length]));
    bytes.extend(config);
    bytes
}

pub fn libxl_header() -> Vec<u8> {
    b"LibxlFmt\0\0\0\x02\0\0\0\0".to_vec()
}

/// The headers of a libxc stream: 1 is PV, 2 is HVM.
pub fn image_header(version: u8, guest: u32) -> Vec<u8> {
    let mut bytes = vec![0xff; 8];
    bytes.extend(b"XENF\0\0\0");
    bytes.push(version);
    bytes.extend([0; 8]);
    bytes.extend(words(&[guest, 12, 4, 17]));
    bytes
}

/// A PAGE_DATA record: entries, and a byte that fills each page.
pub fn pages(entries: &[u64], fills: &[u8]) -> Vec<u8> {
    let mut body = words(&[entries.len() as u32, 0]);
    body.extend(longs(entries));
    for fill in fills {
        body.extend([*fill; 4096]);
    }
    record(1, &body)
}

pub fn hvm_record(code: u16, instance: u16, body: &[u8]) -> Vec<u8> {
    let head = [code.to_le_bytes(), instance.to_le_bytes()].concat();
    [&head, &words(&[body.len() as u32])[..], body].concat()
}

pub fn hvm_header() -> Vec<u8> {
    let mut body = words(&[0x5438_1286, 1]);
    body.extend(longs(&[u64::MAX]));
    body.extend(words(&[0x6fb, 2_000_000]));
    hvm_record(1, 0, &body)
}

/// The state of a guest with so many vCPUs.
pub fn hvm_context(nr_vcpus: u16) -> Vec<u8> {
    let mut state = hvm_header();
    for vcpu in 0..nr_vcpus {
        state.extend(hvm_record(2, vcpu, &[7; 40]));
    }
    state.extend(hvm_record(0, 0, &[]));
    state
}

pub fn cpuid_policy() -> Vec<u8> {
    record(
        0x11,
        &words(&[0, u32::MAX, 13, 1, 2, 3, 1, u32::MAX, 4, 5, 6, 7]),
    )
}

pub fn msr_policy() -> Vec<u8> {
    let mut body = words(&[0xce, 0]);
    body.extend(longs(&[1 << 31]));
    record(0x12, &body)
}

pub fn tsc_info() -> Vec<u8> {
    let mut body = words(&[0, 2_400_000]);
    body.extend(longs(&[123_456_789]));
    body.extend(words(&[1, 0]));
    record(8, &body)
}

/// Further registers of a vCPU: its number, the size that they claim, and their real size.
pub fn extended(vcpu: u32, size_bytes: u32, real_bytes: usize) -> Vec<u8> {
    let mut state = words(&[vcpu, size_bytes]);
    state.resize(real_bytes, 2);
    state
}

/// MSRs of a vCPU with these numbers.
pub fn vcpu_msrs(numbers: &[u64]) -> Vec<u8> {
    numbers
        .iter()
        .flat_map(|number| longs(&[*number, 4]))
        .collect()
}

/// The records of a libxc stream of a PV guest with 64 bits, 4 pages and 2 vCPUs, in parts.
pub fn pv_parts(version: u8) -> Vec<Vec<u8>> {
    let mut parts = vec![
        image_header(version, 1),
        record(2, &[8, 4, 0, 0, 0, 0, 0, 0]),
    ];
    if version > 2 {
        parts.extend([cpuid_policy(), msr_policy(), record(0x10, &[])]);
    }
    let mut p2m = words(&[0, 3]);
    p2m.extend(longs(&[2]));
    parts.push(record(3, &p2m));
    // Page 0 has data, 1 is a pinned table of level 4, 2 has data, 3 is absent.
    let entries = [0, 0xc << 60 | 1, 2, 0xf << 60 | 3];
    parts.push(pages(&entries, &[0xaa, 0xbb, 0xcc]));
    parts.push(tsc_info());
    parts.push(record(7, &[5; 4096]));
    for vcpu in 0..2 {
        let head = words(&[vcpu, 0]);
        parts.push(record(4, &[&head[..], &[1; 5168]].concat()));
        parts.push(record(
            5,
            &[head.clone(), extended(vcpu, 120, 128)].concat(),
        ));
        parts.push(record(6, &[&head[..], &[3; 16]].concat()));
        parts.push(record(12, &[head, vcpu_msrs(&[0x174, 0x175])].concat()));
    }
    parts.push(record(0, &[]));
    parts
}

/// The records of a libxc stream of an HVM guest with 3 pages and 1 vCPU, in parts.
pub fn hvm_parts(version: u8) -> Vec<Vec<u8>> {
    let mut parts = vec![image_header(version, 2)];
    if version > 2 {
        parts.extend([cpuid_policy(), msr_policy(), record(0x10, &[])]);
    }
    parts.push(pages(&[0, 0xe << 60 | 1], &[0x11]));
    parts.push(pages(&[0x100], &[0x22]));
    parts.push(tsc_info());
    parts.push(record(9, &hvm_context(1)));
    let mut params = words(&[2, 0]);
    params.extend(longs(&[1, 0xfefff, 17, 0xfeffe]));
    parts.push(record(10, &params));
    parts.push(record(0, &[]));
    parts
}

/// A file of xl with this libxc stream, and records about QEMU.
pub fn xl_file(libxc: &[Vec<u8>], emulators: &[Vec<u8>]) -> Vec<u8> {
    let json = r#"{"c_info": {"type": "pv", "name": "guest"}}"#;
    let mut bytes = file_header(json);
    bytes.extend(libxl_header());
    bytes.extend(record(1, &[]));
    bytes.extend(libxc.concat());
    bytes.extend(emulators.concat());
    bytes.extend(record(0, &[]));
    bytes
}

pub fn emulators() -> Vec<Vec<u8>> {
    let mut nodes = words(&[2, 0]);
    nodes.extend(b"physmap/f0000000/start_addr\0f0000000\0physmap/f0000000/size\x00800000\0");
    let mut state = words(&[2, 0]);
    state.extend(b"QEVM and more");
    vec![record(2, &nodes), record(3, &state)]
}

pub fn pv_file() -> Vec<u8> {
    xl_file(&pv_parts(3), &[])
}

pub fn hvm_file() -> Vec<u8> {
    xl_file(&hvm_parts(3), &emulators())
}

/// Reads a stream and writes it again. Returns the bytes that were written.
pub fn again(bytes: &[u8], kind: StreamKind) -> Result<Vec<u8>, StreamError> {
    let mut reader = Reader::new(bytes, kind, Limits::default());
    let mut writer = Writer::new(Vec::new(), kind, Limits::default());
    while let Some(event) = reader.next_event()? {
        if !matches!(event, Event::Skipped { .. }) {
            writer.event(&event).expect("what was read can be written");
        }
    }
    assert!(writer.is_complete());
    assert_eq!(reader.offset_bytes(), bytes.len() as u64);
    Ok(writer.into_inner())
}

/// The cause for which a stream is refused.
pub fn cause(bytes: &[u8], kind: StreamKind) -> Cause {
    again(bytes, kind).unwrap_err().cause
}
