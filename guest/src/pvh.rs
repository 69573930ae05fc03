//! The PVH guest: its start info, memory map, modules and ACPI tables.
//!
//! boot.S has mapped the first 4 GiB one to one.

use core::arch::asm;
use core::arch::x86_64::__cpuid;

use testguest_logic::acpi::{self, Fault, PhysicalMemory};
use testguest_logic::command::Reason;
use testguest_logic::crc32::crc32;
use testguest_logic::ranges::Ranges;
use testguest_logic::text::Text;

use crate::checks::{self, Checks};
use crate::hypercall::{self, E820Entry, Errno, HvmParam};
use crate::memtest::Memory;
use crate::platform::CMDLINE_MAX;
use crate::{console, events, store, traps};

const PAGE_SIZE: u64 = 4096;
const MAPPED_END: u64 = 1 << 32;
/// Address of the shared info page. No PVH memory map has RAM there.
const SHARED_INFO_GFN: u64 = 0xfe700;

/// HVM_PARAM_CALLBACK_IRQ: type 2 (a vector) in the top byte, the vector in the lowest.
const CALLBACK_BY_VECTOR: u64 = (2 << 56) | 0xf3;

const START_MAGIC: u32 = 0x336e_c578;
const TYPE_RAM: u32 = 1;
/// More entries than this in a list from the builder are garbage.
const LIST_MAX: u32 = 128;

/// Xen's `hvm_start_info` (public/arch-x86/hvm/start_info.h).
#[derive(Clone, Copy)]
#[repr(C)]
struct StartInfo {
    magic: u32,
    version: u32,
    flags: u32,
    nr_modules: u32,
    modules: u64,
    cmdline: u64,
    rsdp: u64,
    memory_map: u64,
    memory_map_entries: u32,
    reserved: u32,
}

/// Xen's `hvm_modlist_entry` (public/arch-x86/hvm/start_info.h).
#[derive(Clone, Copy)]
#[repr(C)]
struct Module {
    address: u64,
    size: u64,
    cmdline: u64,
    reserved: u64,
}

/// Xen's `hvm_memmap_table_entry` (public/arch-x86/hvm/start_info.h).
#[derive(Clone, Copy)]
#[repr(C)]
struct MemoryMapEntry {
    address: u64,
    size: u64,
    kind: u32,
    reserved: u32,
}

/// The state of a PVH guest.
pub struct Pvh {
    address: u64,
    info: StartInfo,
    mapped_window: Option<u64>,
}

/// Physical memory, through the identity map.
struct Identity;

impl PhysicalMemory for Identity {
    fn bytes(&self, address: u64, len: usize) -> Option<&[u8]> {
        let end = address.checked_add(len as u64)?;
        if address == 0 || end > MAPPED_END {
            return None;
        }
        // SAFETY: the range is mapped, and used only for what the builder left, which nothing
        // writes to. Where there is no RAM, reads give ones.
        Some(unsafe { core::slice::from_raw_parts(address as *const u8, len) })
    }
}

impl Identity {
    /// Reads the `T` at `address`.
    fn read<T: Copy>(&self, address: u64) -> Option<T> {
        let bytes = self.bytes(address, size_of::<T>())?;
        // SAFETY: the bytes are there; the structures read here are plain numbers, for which any
        // bytes are valid.
        Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
    }

    /// The text at `address` up to its zero.
    fn text(&self, address: u64) -> Text<CMDLINE_MAX> {
        let mut text = Text::new();
        let bytes = (address..).map_while(|at| self.read::<u8>(at));
        for byte in bytes.take_while(|&byte| byte != 0).take(CMDLINE_MAX) {
            text.push_bytes(&[byte]);
        }
        text
    }
}

impl Pvh {
    /// # Safety
    /// `address` is that of the start info, below 4 GiB.
    pub unsafe fn new(address: u64) -> Self {
        // SAFETY: by the caller's promise; any bytes make a valid StartInfo.
        let info = unsafe { (address as *const StartInfo).read_unaligned() };
        Self {
            address,
            info,
            mapped_window: None,
        }
    }

    /// The command line.
    pub fn cmdline(&self) -> Text<CMDLINE_MAX> {
        Identity.text(self.info.cmdline)
    }

    fn memory_map(&self) -> impl Iterator<Item = MemoryMapEntry> + '_ {
        let usable = self.info.magic == START_MAGIC && self.info.version >= 1;
        let count = if usable {
            self.info.memory_map_entries.min(LIST_MAX)
        } else {
            0
        };
        (0..u64::from(count)).filter_map(|i| {
            Identity.read(self.info.memory_map + i * size_of::<MemoryMapEntry>() as u64)
        })
    }

    fn modules(&self) -> impl Iterator<Item = Module> + '_ {
        let count = self.info.nr_modules.min(LIST_MAX);
        (0..u64::from(count))
            .filter_map(|i| Identity.read(self.info.modules + i * size_of::<Module>() as u64))
    }

    /// RAM, by the memory map.
    pub fn ram(&self) -> Ranges {
        let mut ram = Ranges::new();
        for entry in self.memory_map().filter(|entry| entry.kind == TYPE_RAM) {
            let _ = ram.add(entry.address, entry.size);
        }
        ram
    }

    /// Sets up exceptions and hypercalls, attaches console and xenstore, and maps the shared info
    /// page. The console comes first: it can tell if something else fails.
    pub fn attach(&mut self) -> Result<(), Errno> {
        traps::install_pvh();
        fill_hypercall_page();
        let (pfn, port) = ring(HvmParam::ConsolePfn, HvmParam::ConsoleEvtchn)?;
        if pfn != 0 {
            // SAFETY: the frame is the console ring, and the identity map covers it.
            unsafe { console::attach((pfn * PAGE_SIZE) as *mut _, port) };
        }
        let (pfn, port) = ring(HvmParam::StorePfn, HvmParam::StoreEvtchn)?;
        if pfn != 0 {
            // SAFETY: the frame is the xenstore ring, and the identity map covers it.
            unsafe { store::attach((pfn * PAGE_SIZE) as *mut _, port) };
        }
        hypercall::map_shared_info(SHARED_INFO_GFN)?;
        // SAFETY: the page has just been put there, and the identity map covers it.
        unsafe { events::attach((SHARED_INFO_GFN * PAGE_SIZE) as *mut _) };
        // No event is ever delivered, but a toolstack tells by this parameter that the guest can
        // be asked to suspend and understands how it was resumed.
        hypercall::set_hvm_param(HvmParam::CallbackIrq, CALLBACK_BY_VECTOR)
    }

    /// Checks what the builder made.
    pub fn check(&self, checks: &mut Checks) {
        let StartInfo {
            magic,
            version,
            flags,
            reserved,
            ..
        } = self.info;
        checks.report(
            "start-info",
            magic == START_MAGIC && version == 1 && reserved == 0,
            format_args!(
                "magic {magic:#x} version {version} flags {flags:#x} at {:#x}",
                self.address
            ),
        );
        self.check_memory_map(checks);
        self.check_rings(checks);
        self.check_acpi(checks);
        self.check_modules(checks);
    }

    fn check_memory_map(&self, checks: &mut Checks) {
        let mut seen = Ranges::new();
        let mut sound = self.memory_map().count() > 0;
        for entry in self.memory_map() {
            sound &= !seen.overlaps(entry.address, entry.size) && entry.reserved == 0;
            sound &= seen.add(entry.address, entry.size).is_ok();
        }
        let ram = self.ram();
        let (start, end) = checks::image();
        sound &= ram.contains(start, end - start);
        sound &= ram.contains(self.address, size_of::<StartInfo>() as u64);
        let count = self.memory_map().count();
        checks.report(
            "memory-map",
            sound,
            format_args!("{count} entries, {} KiB of RAM", ram.total() / 1024),
        );

        let mut buffer = [E820Entry::default(); LIST_MAX as usize];
        let told = hypercall::memory_map(&mut buffer).unwrap_or(0);
        let same = told == count
            && buffer.iter().zip(self.memory_map()).all(|(e820, entry)| {
                let E820Entry {
                    address,
                    size,
                    kind,
                } = *e820;
                (address, size, kind) == (entry.address, entry.size, entry.kind)
            });
        checks.report("memory-map-hypercall", same, format_args!("{told} entries"));

        // With maxmem above memory, the map promises what the domain does not own yet.
        let owned_kib = hypercall::current_pages().unwrap_or(0) * 4;
        let limit_kib = hypercall::maximum_pages().unwrap_or(0) * 4;
        checks.report(
            "reservation",
            owned_kib > 0 && limit_kib >= ram.total() / 1024,
            format_args!("the domain owns {owned_kib} KiB and may own {limit_kib} KiB"),
        );
    }

    fn check_rings(&self, checks: &mut Checks) {
        for (name, pfn, port) in [
            ("console", HvmParam::ConsolePfn, HvmParam::ConsoleEvtchn),
            ("store", HvmParam::StorePfn, HvmParam::StoreEvtchn),
        ] {
            match ring(pfn, port) {
                Ok((pfn, port)) => checks.report(
                    name,
                    pfn != 0 && port != 0,
                    format_args!("pfn {pfn:#x} event channel {port}"),
                ),
                Err(error) => checks.report(name, false, format_args!("{error}")),
            }
        }
    }

    fn check_acpi(&self, checks: &mut Checks) {
        let xsdt = acpi::rsdp(&Identity, self.info.rsdp);
        checks.report_result("acpi-rsdp", xsdt.map(|_| Hex(self.info.rsdp)));
        let xsdt = xsdt.and_then(|address| acpi::table(&Identity, address, b"XSDT"));
        checks.report_result("acpi-xsdt", xsdt.map(Bytes::of));
        let listed = |signature: &[u8; 4]| -> Result<&'static [u8], Fault> {
            let address = acpi::find(&Identity, xsdt?, signature)?;
            acpi::table(&Identity, address, signature)
        };
        let fadt = listed(b"FACP");
        checks.report_result("acpi-fadt", fadt.map(Bytes::of));
        let dsdt = fadt.and_then(|fadt| acpi::table(&Identity, acpi::dsdt_address(fadt), b"DSDT"));
        checks.report_result("acpi-dsdt", dsdt.map(Bytes::of));
        match listed(b"APIC") {
            Ok(madt) => {
                let (enabled, all) = acpi::count_lapics(madt);
                checks.report(
                    "acpi-madt",
                    enabled > 0,
                    format_args!("{} bytes, {all} lapics, {enabled} enabled", madt.len()),
                );
            }
            Err(fault) => checks.report("acpi-madt", false, format_args!("{fault}")),
        }
    }

    fn check_modules(&self, checks: &mut Checks) {
        for (i, module) in self.modules().enumerate() {
            let name = format_args!("module{i}");
            match Identity.bytes(module.address, module.size as usize) {
                Some(bytes) => {
                    let cmdline = Identity.text(module.cmdline);
                    checks.report(
                        name,
                        true,
                        format_args!(
                            "{} bytes at {:#x} crc32 {:08x} cmdline \"{}\"",
                            module.size,
                            module.address,
                            crc32(bytes),
                            testguest_logic::escape::Escaped(cmdline.as_str())
                        ),
                    );
                }
                None => checks.report(
                    name,
                    false,
                    format_args!(
                        "{:#x} bytes at {:#x} cannot be",
                        module.size, module.address
                    ),
                ),
            }
        }
    }

    /// Suspends the domain; see `Platform::suspend`.
    pub fn suspend(&mut self) -> Result<bool, Errno> {
        let cancelled = hypercall::shutdown(Reason::Suspend, 0)? != 0;
        events::detach();
        Ok(cancelled)
    }
}

impl Memory for Pvh {
    fn ram(&self) -> Ranges {
        self.ram()
    }

    fn in_use(&self) -> Ranges {
        let mut in_use = Ranges::new();
        checks::reserve_image(&mut in_use);
        let info = &self.info;
        checks::reserve(&mut in_use, self.address, size_of::<StartInfo>() as u64);
        checks::reserve(&mut in_use, info.cmdline, CMDLINE_MAX as u64);
        checks::reserve(
            &mut in_use,
            info.memory_map,
            u64::from(info.memory_map_entries) * size_of::<MemoryMapEntry>() as u64,
        );
        checks::reserve(
            &mut in_use,
            info.modules,
            u64::from(info.nr_modules) * size_of::<Module>() as u64,
        );
        // The RSDP may lie in RAM, in the last bytes of the first MiB.
        checks::reserve(&mut in_use, info.rsdp, 64);
        for module in self.modules() {
            checks::reserve(&mut in_use, module.address, module.size);
            if module.cmdline != 0 {
                checks::reserve(&mut in_use, module.cmdline, CMDLINE_MAX as u64);
            }
        }
        for param in [HvmParam::ConsolePfn, HvmParam::StorePfn] {
            if let Ok(pfn) = hypercall::hvm_param(param) {
                checks::reserve(&mut in_use, pfn * PAGE_SIZE, PAGE_SIZE);
            }
        }
        in_use
    }

    fn map(&mut self, pfn: u64) -> Option<*mut u64> {
        const WINDOW: u64 = 1 << 39;
        const LARGE_PAGE: u64 = 2 << 20;
        const PRESENT_WRITABLE_LARGE: u64 = 0x83;
        let address = pfn * PAGE_SIZE;
        let chunk = address & !(LARGE_PAGE - 1);
        if self.mapped_window != Some(chunk) {
            // SAFETY: the entry belongs to the window alone, whose last pointer is not used any
            // more; the old translation is flushed.
            unsafe {
                (&raw mut window_dir)
                    .cast::<u64>()
                    .write_volatile(chunk | PRESENT_WRITABLE_LARGE);
                asm!("invlpg [{}]", in(reg) WINDOW, options(nostack));
            }
            self.mapped_window = Some(chunk);
        }
        Some((WINDOW + address - chunk) as *mut u64)
    }
}

unsafe extern "C" {
    /// The page directory of the memory test's window; see boot.S.
    static mut window_dir: [u64; 512];
}

/// Has Xen fill the hypercall page: the leaf at the hypervisor's CPUID base + 2 names the MSR.
fn fill_hypercall_page() {
    const FIRST_BASE: u32 = 0x4000_0000;
    const LAST_BASE: u32 = 0x4000_ff00;
    const SIGNATURE: [u32; 3] = [0x566e_6558, 0x6558_4d4d, 0x4d4d_566e];
    let base = (FIRST_BASE..=LAST_BASE).step_by(0x100).find(|&leaf| {
        let id = __cpuid(leaf);
        [id.ebx, id.ecx, id.edx] == SIGNATURE
    });
    let msr = __cpuid(base.unwrap_or(FIRST_BASE) + 2).ebx;
    let page = (&raw const hypercall::hypercall_page) as u64;
    // SAFETY: the MSR is Xen's; it writes the page, which is set aside for that.
    unsafe {
        asm!("wrmsr", in("ecx") msr, in("eax") page as u32, in("edx") (page >> 32) as u32,
             options(nostack));
    }
    hypercall::use_page();
}

fn ring(pfn: HvmParam, port: HvmParam) -> Result<(u64, u32), Errno> {
    Ok((
        hypercall::hvm_param(pfn)?,
        hypercall::hvm_param(port)? as u32,
    ))
}

struct Hex(u64);

impl core::fmt::Display for Hex {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "at {:#x}", self.0)
    }
}

struct Bytes(usize);

impl Bytes {
    fn of(bytes: &[u8]) -> Self {
        Self(bytes.len())
    }
}

impl core::fmt::Display for Bytes {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{} bytes", self.0)
    }
}
