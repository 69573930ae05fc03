//! `hvm_start_info` of a PVH domain, and of an HVM domain for hvmloader, with its lists.
//!
//! Source: `xen/include/public/arch-x86/hvm/start_info.h`, version 1 of the structure. It exists since Xen 4.11, and
//! every kernel reads it, because it only adds fields. The structure, the module list, the memory map and the command
//! lines are contiguous.

use xen_port::E820Entry;

use crate::bytes::Writer;
use crate::request::BuildRequest;
use crate::span::PageSpan;

const MAGIC: u32 = 0x336e_c578;
const VERSION: u32 = 1;
const START_INFO_BYTES: u64 = 56;
const MODULE_BYTES: u64 = 32;
const MEMORY_MAP_ENTRY_BYTES: u64 = 24;

/// Offsets of the parts from the structure.
struct Offsets {
    modules: u64,
    memory_map: u64,
    cmdline: u64,
    module_cmdlines: u64,
}

impl Offsets {
    fn new(request: &BuildRequest<'_>, map_entries: usize) -> Offsets {
        let modules = START_INFO_BYTES;
        let memory_map = modules + MODULE_BYTES * request.modules.len() as u64;
        let cmdline = memory_map + MEMORY_MAP_ENTRY_BYTES * map_entries as u64;
        let module_cmdlines = cmdline + with_end(request.cmdline);
        Offsets {
            modules,
            memory_map,
            cmdline,
            module_cmdlines,
        }
    }
}

/// Bytes of a command line and the zero byte that ends it.
fn with_end(cmdline: &str) -> u64 {
    cmdline.len() as u64 + 1
}

/// Total size in bytes, with a memory map of `map_entries` entries.
pub(crate) fn len(request: &BuildRequest<'_>, map_entries: usize) -> u64 {
    let module_cmdlines: u64 = request
        .modules
        .iter()
        .map(|module| with_end(module.cmdline))
        .sum();
    Offsets::new(request, map_entries).module_cmdlines + module_cmdlines
}

/// Builds the bytes for guest-physical address `base`. `modules` has the modules' addresses, in the order of the
/// request. `rsdp_address` is 0 without ACPI tables.
pub(crate) fn start_info(
    request: &BuildRequest<'_>,
    base: u64,
    modules: &[PageSpan],
    map: &[E820Entry],
    rsdp_address: u64,
) -> Vec<u8> {
    let offsets = Offsets::new(request, map.len());
    let module_list = if modules.is_empty() {
        0
    } else {
        base + offsets.modules
    };
    let start_info = Writer::new()
        .u32(MAGIC)
        .u32(VERSION)
        .u32(0)
        .u32(request.modules.len() as u32)
        .u64(module_list)
        .u64(base + offsets.cmdline)
        .u64(rsdp_address)
        .u64(base + offsets.memory_map)
        .u32(map.len() as u32)
        .u32(0);
    let bytes = module_entries(start_info, request, modules, base + offsets.module_cmdlines);
    let bytes = map.iter().fold(bytes, |bytes, entry| {
        bytes
            .u64(entry.start)
            .u64(entry.size_bytes)
            .u32(entry.kind.number())
            .u32(0)
    });
    let cmdlines =
        std::iter::once(request.cmdline).chain(request.modules.iter().map(|module| module.cmdline));
    cmdlines
        .fold(bytes, |bytes, cmdline| {
            bytes.bytes(cmdline.as_bytes()).u8(0)
        })
        .finish()
}

fn module_entries(
    bytes: Writer,
    request: &BuildRequest<'_>,
    places: &[PageSpan],
    cmdlines: u64,
) -> Writer {
    let mut next_cmdline = cmdlines;
    request
        .modules
        .iter()
        .zip(places)
        .fold(bytes, |bytes, (module, place)| {
            let cmdline = if module.cmdline.is_empty() {
                0
            } else {
                next_cmdline
            };
            next_cmdline += with_end(module.cmdline);
            bytes
                .u64(place.address())
                .u64(module.content.size_bytes())
                .u64(cmdline)
                .u64(0)
        })
}
