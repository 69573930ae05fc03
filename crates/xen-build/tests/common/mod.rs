//! Kernels made to measure, and a host to start them on.

#![allow(dead_code, reason = "each test uses a part of it")]

use std::io::Write;
use std::path::Path;

use tempfile::NamedTempFile;
use xen_build::{BootModule, BuildRequest, Channel, ModuleContent, memory};
use xen_image::elfnote::types;
use xen_image::{Image, Limits, Module};
use xen_port::{CreateDomain, DomId, EvtchnPort, GuestKind, Hypervisor};
use xen_sim::model::Model;

pub const MIB: u64 = 1 << 20;
pub const PAGE: u64 = 4096;
pub const STORE_PORT: u32 = 1;
pub const CONSOLE_PORT: u32 = 2;

/// A segment: where it goes, what it holds, and how many zeros follow.
#[derive(Clone, Debug)]
pub struct Part {
    pub paddr: u64,
    pub content: Vec<u8>,
    pub bss: u64,
}

/// A 64-bit ELF kernel.
#[derive(Clone, Debug, Default)]
pub struct Kernel {
    pub parts: Vec<Part>,
    notes: Vec<u8>,
}

impl Kernel {
    pub fn part(mut self, paddr: u64, content: Vec<u8>, bss: u64) -> Kernel {
        self.parts.push(Part {
            paddr,
            content,
            bss,
        });
        self
    }

    pub fn note(mut self, number: u32, content: &[u8]) -> Kernel {
        for word in [4, content.len() as u32, number] {
            self.notes.extend(word.to_le_bytes());
        }
        self.notes.extend(types::NAME);
        self.notes.push(0);
        self.notes.extend(content);
        self.notes.resize(self.notes.len().next_multiple_of(4), 0);
        self
    }

    pub fn number(self, number: u32, value: u64) -> Kernel {
        self.note(number, &value.to_le_bytes())
    }

    pub fn text(self, number: u32, text: &str) -> Kernel {
        self.note(number, &[text.as_bytes(), &[0]].concat())
    }

    pub fn build(&self) -> Image {
        Image::parse("test-kernel", self.elf(), &Limits::default()).unwrap()
    }

    pub fn elf(&self) -> Vec<u8> {
        const HEADER: usize = 64;
        const PROGRAM_HEADER: usize = 56;
        let nr_headers = self.parts.len() + 1;
        let mut blobs: Vec<u8> = Vec::new();
        let base = HEADER + PROGRAM_HEADER * nr_headers;
        let mut headers = Vec::new();
        let mut blob = |bytes: &[u8]| {
            let offset = base + blobs.len();
            blobs.extend(bytes);
            offset as u64
        };
        for part in &self.parts {
            let offset = blob(&part.content);
            let file_size = part.content.len() as u64;
            headers.push((
                1_u32,
                7_u32,
                [
                    offset,
                    part.paddr,
                    part.paddr,
                    file_size,
                    file_size + part.bss,
                    1,
                ],
            ));
        }
        let offset = blob(&self.notes);
        let size = self.notes.len() as u64;
        headers.push((4, 4, [offset, 0, 0, size, size, 4]));
        let entry = self.parts.first().map_or(0, |part| part.paddr);
        let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
        elf.extend(2_u16.to_le_bytes());
        elf.extend(62_u16.to_le_bytes());
        elf.extend(1_u32.to_le_bytes());
        elf.extend(
            [entry, HEADER as u64, 0]
                .iter()
                .flat_map(|word| word.to_le_bytes()),
        );
        elf.extend(0_u32.to_le_bytes());
        elf.extend(
            [
                HEADER as u16,
                PROGRAM_HEADER as u16,
                nr_headers as u16,
                64,
                0,
                0,
            ]
            .map(u16::to_le_bytes)
            .as_flattened(),
        );
        for (kind, flags, words) in headers {
            elf.extend(kind.to_le_bytes());
            elf.extend(flags.to_le_bytes());
            elf.extend(words.iter().flat_map(|word: &u64| word.to_le_bytes()));
        }
        assert_eq!(elf.len(), base);
        elf.extend(blobs);
        elf
    }
}

/// Bytes that are nowhere zero, and differ from place to place.
/// A kernel's ELF as a 32-bit one: the headers are narrower, the rest is as it was.
pub fn narrow(wide: &[u8]) -> Vec<u8> {
    let word = |at: usize| u32::from_le_bytes(wide[at..at + 4].try_into().unwrap());
    let half = |at: usize| u16::from_le_bytes(wide[at..at + 2].try_into().unwrap());
    let nr_headers = half(56) as usize;
    let (base, new_base) = (64 + 56 * nr_headers, 52 + 32 * nr_headers);
    let mut elf = wide[..16].to_vec();
    elf[4] = 1;
    for value in [2_u16, 3] {
        elf.extend(value.to_le_bytes());
    }
    for value in [1, word(24), 52, 0, 0] {
        elf.extend(value.to_le_bytes());
    }
    for value in [52, 32, nr_headers as u16, 40, 0, 0] {
        elf.extend(value.to_le_bytes());
    }
    for at in (0..nr_headers).map(|index| 64 + 56 * index) {
        let offset = word(at + 8) - (base - new_base) as u32;
        let [vaddr, paddr] = [word(at + 16), word(at + 24)];
        let [file_size, mem_size, align] = [word(at + 32), word(at + 40), word(at + 48)];
        let flags = word(at + 4);
        for value in [
            word(at),
            offset,
            vaddr,
            paddr,
            file_size,
            mem_size,
            flags,
            align,
        ] {
            elf.extend(value.to_le_bytes());
        }
    }
    assert_eq!(elf.len(), new_base);
    elf.extend(&wide[base..]);
    elf
}

pub fn pattern(len: u64, seed: u64) -> Vec<u8> {
    (0..len)
        .map(|i| ((i * 7 + i / 251 + seed) % 255) as u8 + 1)
        .collect()
}

/// A file with bytes in it.
pub fn file(bytes: &[u8]) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    file
}

/// A file with bytes in it, and what the builder makes of it.
pub struct Ramdisk {
    pub bytes: Vec<u8>,
    pub module: Module,
    pub file: NamedTempFile,
}

pub fn ramdisk(len: u64) -> Ramdisk {
    let bytes = pattern(len, 99);
    let file = file(&bytes);
    let module = Module::open(Path::new(file.path()), 1 << 40).unwrap();
    Ramdisk {
        bytes,
        module,
        file,
    }
}

pub fn request<'a>(domid: DomId, kernel: &'a Image, target_kib: u64) -> BuildRequest<'a> {
    BuildRequest {
        domid,
        kernel,
        cmdline: "root=/dev/xvda1 quiet",
        modules: &[],
        target_kib,
        max_kib: target_kib,
        max_vcpus: 2,
        online_vcpus: 1,
        store: Channel {
            port: EvtchnPort(STORE_PORT),
            backend: DomId(0),
        },
        console: Channel {
            port: EvtchnPort(CONSOLE_PORT),
            backend: DomId(0),
        },
        claim: true,
        allow_bare_pv32: false,
        hvm_params: &[],
    }
}

pub fn boot_modules<'a>(ramdisks: &'a [&'a Ramdisk], cmdline: &'a str) -> Vec<BootModule<'a>> {
    ramdisks
        .iter()
        .map(|ramdisk| BootModule {
            content: ModuleContent::File(&ramdisk.module),
            cmdline,
        })
        .collect()
}

/// A domain as the builder wants to find it.
pub fn new_domain(model: &Model, kind: GuestKind, target_kib: u64) -> DomId {
    let domid = model
        .create_domain(&CreateDomain {
            domid: None,
            kind,
            handle: [1; 16],
            ssidref: 0,
            hap: kind != GuestKind::Pv,
            oos_off: false,
            nested_virt: false,
            vpmu: false,
            iommu: false,
            max_vcpus: 2,
            max_evtchn_port: 1023,
            max_grant_frames: None,
            max_maptrack_frames: None,
            max_grant_version: 1,
            cpupool: 0,
            msr_relaxed: false,
            vmtrace_size_bytes: 0,
            hvm_pirq: false,
        })
        .unwrap();
    model.set_max_vcpus(domid, 2).unwrap();
    model
        .set_max_mem(domid, memory::max_mem_kib(target_kib))
        .unwrap();
    if kind != GuestKind::Pv {
        model
            .set_paging_mempool(
                domid,
                memory::paging_mempool_size_bytes(target_kib, 2, true),
            )
            .unwrap();
    }
    domid
}

pub fn u16_at(bytes: &[u8], offset: usize) -> u16 {
    u16::from_le_bytes(bytes[offset..offset + 2].try_into().unwrap())
}

pub fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(bytes[offset..offset + 4].try_into().unwrap())
}

pub fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(bytes[offset..offset + 8].try_into().unwrap())
}

/// What follows every build: no claim, no mapping, the rings granted to the backend.
pub fn check_aftermath(model: &Model, domid: DomId, store_gfn: u64, console_gfn: u64) {
    let domain = model.domain(domid).unwrap();
    assert_eq!(domain.claimed_pages, 0, "claim");
    assert_eq!(model.live_mappings(), 0, "mappings");
    let grants = model.frame(domain.grant_table);
    for (index, gfn) in [console_gfn, store_gfn].into_iter().enumerate() {
        assert_eq!(u16_at(&grants, index * 8), 1, "GTF_permit_access");
        assert_eq!(u16_at(&grants, index * 8 + 2), 0, "backend");
        assert_eq!(u64::from(u32_at(&grants, index * 8 + 4)), gfn, "frame");
    }
    assert!(grants[16..].iter().all(|byte| *byte == 0));
}
