//! The 64-bit PV guest: start info, the machine addresses behind it, page tables.
//!
//! The kernel asks for VIRT_BASE 0, so within the builder's bootstrap mapping a virtual address is
//! a pseudo-physical address.

use core::arch::asm;

use testguest_logic::command::Reason;
use testguest_logic::crc32::crc32;
use testguest_logic::ranges::Ranges;
use testguest_logic::text::Text;

use crate::checks::{self, Checks};
use crate::events::{self, SharedInfo};
use crate::hypercall::{self, Errno};
use crate::memtest::Memory;
use crate::platform::CMDLINE_MAX;
use crate::{console, say, store, traps};

const PAGE_SIZE: u64 = 4096;
/// The machine-to-pseudophysical table that Xen maps into every PV guest.
const M2P: u64 = 0xffff_8000_0000_0000;

const PRESENT: u64 = 1;
const WRITABLE: u64 = 2;
/// Present, writable, user, accessed, dirty.
const PAGE_RW: u64 = 0x67;
const ADDRESS_MASK: u64 = 0x000f_ffff_ffff_f000;

/// `start_info` (public/xen.h), with the console fields of an unprivileged domain.
#[repr(C)]
pub struct StartInfo {
    magic: [u8; 32],
    nr_pages: u64,
    shared_info: u64,
    flags: u32,
    store_mfn: u64,
    store_evtchn: u32,
    console_mfn: u64,
    console_evtchn: u32,
    pt_base: u64,
    nr_pt_frames: u64,
    mfn_list: u64,
    mod_start: u64,
    mod_len: u64,
    cmd_line: [u8; CMDLINE_MAX],
    first_p2m_pfn: u64,
    nr_p2m_frames: u64,
}

const _: () = assert!(core::mem::offset_of!(StartInfo, pt_base) == 88);

const SIF_MOD_START_PFN: u32 = 1 << 3;

/// Reads a field of the start info. Volatile: the toolstack changes it while the guest is suspended.
macro_rules! field {
    ($pv:expr, $name:ident) => {
        // SAFETY: `Pv::new` was promised that the page is mapped.
        unsafe { (&raw const (*$pv.start_info).$name).read_volatile() }
    };
}

/// A page of address space: what is mapped there changes, its own frame stays unused.
#[repr(C, align(4096))]
struct Window([u64; 512]);

static mut SHARED_INFO_WINDOW: Window = Window([0; 512]);
static mut MEMORY_WINDOW: Window = Window([0; 512]);

/// The state of a PV guest.
pub struct Pv {
    start_info: *mut StartInfo,
    boot_stack: u64,
    max_mfn: u64,
}

impl Pv {
    /// # Safety
    /// `start_info` is the page that the builder made, and stays mapped and writable.
    pub unsafe fn new(start_info: *mut StartInfo, boot_stack: u64) -> Self {
        Self {
            start_info,
            boot_stack,
            max_mfn: 0,
        }
    }

    /// Number of pages, and of p2m entries.
    pub fn nr_pages(&self) -> u64 {
        field!(self, nr_pages)
    }

    /// The command line.
    pub fn cmdline(&self) -> Text<CMDLINE_MAX> {
        let bytes = field!(self, cmd_line);
        let end = bytes
            .iter()
            .position(|&byte| byte == 0)
            .unwrap_or(bytes.len());
        Text::from_bytes(bytes.get(..end).unwrap_or_default())
    }

    /// Attaches console and xenstore, registers exceptions, and maps the shared info page. The
    /// console comes first: it can tell if something else fails.
    pub fn attach(&mut self) -> Result<(), Errno> {
        self.max_mfn = hypercall::maximum_ram_page()?;
        if let Some(page) = self.ring_page(field!(self, console_mfn)) {
            let port = field!(self, console_evtchn);
            // SAFETY: the page is the console ring in the bootstrap mapping.
            unsafe { console::attach(page as *mut _, port) };
        }
        if let Some(page) = self.ring_page(field!(self, store_mfn)) {
            let port = field!(self, store_evtchn);
            // SAFETY: the page is the xenstore ring in the bootstrap mapping.
            unsafe { store::attach(page as *mut _, port) };
        }
        traps::install_pv()?;
        let window = &raw mut SHARED_INFO_WINDOW;
        let frame = field!(self, shared_info) / PAGE_SIZE;
        // SAFETY: Rust code never touches the window but through the pointer given here.
        unsafe {
            hypercall::update_va_mapping(window as u64, page_entry(frame))?;
            events::attach(window.cast::<SharedInfo>());
        }
        self.publish_p2m();
        Ok(())
    }

    /// Shows the p2m to the toolstack, which needs it to save the domain.
    fn publish_p2m(&self) {
        use core::sync::atomic::Ordering::Relaxed;
        if let Some(shared) = events::shared_info() {
            shared.max_pfn.store(self.nr_pages(), Relaxed);
            shared.p2m_vaddr.store(self.p2m_address(), Relaxed);
            shared.p2m_cr3.store(root_address(), Relaxed);
        }
    }

    /// The virtual address of the page that holds machine frame `mfn`, when it is mapped.
    fn ring_page(&self, mfn: u64) -> Option<u64> {
        let address = self.m2p(mfn)? * PAGE_SIZE;
        (self.translate(address)? & ADDRESS_MASK == mfn * PAGE_SIZE).then_some(address)
    }

    fn p2m_address(&self) -> u64 {
        field!(self, mfn_list)
    }

    /// The machine frame of `pfn`.
    fn p2m(&self, pfn: u64) -> Option<u64> {
        if pfn >= self.nr_pages() {
            return None;
        }
        let entry = (self.p2m_address() + pfn * 8) as *const u64;
        // SAFETY: the builder maps the whole list; `pfn` is inside it.
        Some(unsafe { entry.read_volatile() })
    }

    /// The pseudo-physical frame of `mfn`, when it is this domain's by both tables.
    fn m2p(&self, mfn: u64) -> Option<u64> {
        if mfn > self.max_mfn {
            return None;
        }
        let entry = (M2P + mfn * 8) as *const u64;
        // SAFETY: Xen maps the table up to the machine's highest frame.
        let pfn = unsafe { entry.read_volatile() };
        (self.p2m(pfn)? == mfn).then_some(pfn)
    }

    /// The level-1 page table entry of a virtual address, found by walking the tables.
    fn translate(&self, address: u64) -> Option<u64> {
        let mut table = field!(self, pt_base);
        for level in (0..4).rev() {
            let index = (address >> (12 + 9 * level)) & 511;
            // SAFETY: page tables of the bootstrap mapping are mapped at their own address.
            let entry = unsafe { ((table + index * 8) as *const u64).read_volatile() };
            if entry & PRESENT == 0 {
                return None;
            }
            if level == 0 {
                return Some(entry);
            }
            table = self.m2p((entry & ADDRESS_MASK) / PAGE_SIZE)? * PAGE_SIZE;
        }
        None
    }

    /// One past the last element of the bootstrap layout. The builder puts them one after the
    /// other, the boot stack last.
    fn bootstrap_end(&self) -> u64 {
        let info = self.start_info as u64 + PAGE_SIZE;
        let p2m = self.p2m_address() + self.nr_pages() * 8;
        let tables = field!(self, pt_base) + field!(self, nr_pt_frames) * PAGE_SIZE;
        let (_, image) = checks::image();
        let (module, module_len) = self.module();
        [
            info,
            p2m,
            tables,
            image,
            module + module_len,
            self.boot_stack,
        ]
        .into_iter()
        .max()
        .unwrap_or(0)
        .next_multiple_of(PAGE_SIZE)
    }

    /// The module: (virtual address, bytes); (0, 0) when there is none.
    fn module(&self) -> (u64, u64) {
        let start = field!(self, mod_start);
        let by_pfn = field!(self, flags) & SIF_MOD_START_PFN != 0;
        let address = if by_pfn { start * PAGE_SIZE } else { start };
        (address, field!(self, mod_len))
    }

    /// Checks what the builder made.
    pub fn check(&self, checks: &mut Checks) {
        self.check_start_info(checks);
        self.check_p2m(checks);
        self.check_page_tables(checks);
        self.check_rings(checks);
        self.check_hypercall_page(checks);
        self.check_module(checks);
    }

    fn check_start_info(&self, checks: &mut Checks) {
        let magic = field!(self, magic);
        let end = magic
            .iter()
            .position(|&byte| byte == 0)
            .unwrap_or(magic.len());
        let magic = Text::<32>::from_bytes(magic.get(..end).unwrap_or_default());
        let flags = field!(self, flags);
        checks.report(
            "start-info",
            // The shim has a `p` behind it, as Xen has for dom0.
            matches!(magic.as_str(), "xen-3.0-x86_64" | "xen-3.0-x86_64p"),
            format_args!(
                "magic {} flags {flags:#x} at {:#x}",
                magic.as_str(),
                self.start_info as u64
            ),
        );
        let (told, owned) = (self.nr_pages(), hypercall::current_pages().unwrap_or(0));
        checks.report(
            "nr-pages",
            told > 0 && told == owned,
            format_args!("start info says {told}, Xen says {owned}"),
        );
    }

    fn check_p2m(&self, checks: &mut Checks) {
        let bad = |pfn: &u64| self.p2m(*pfn).and_then(|mfn| self.m2p(mfn)) != Some(*pfn);
        let total = self.nr_pages();
        match (0..total).find(bad) {
            None => checks.report(
                "p2m",
                total > 0,
                format_args!("{total} entries at {:#x}", self.p2m_address()),
            ),
            Some(pfn) => checks.report(
                "p2m",
                false,
                format_args!(
                    "pfn {pfn:#x} has mfn {:#x}, which is not its own",
                    self.p2m(pfn).unwrap_or(0)
                ),
            ),
        }
    }

    fn check_page_tables(&self, checks: &mut Checks) {
        let (base, frames) = (field!(self, pt_base), field!(self, nr_pt_frames));
        let root_pfn = self.m2p(root_address() / PAGE_SIZE).unwrap_or(!0);
        checks.report(
            "page-table-root",
            root_pfn == base / PAGE_SIZE,
            format_args!("cr3 has pfn {root_pfn:#x}, pt_base {base:#x}, {frames} frames"),
        );

        let windows = [
            (&raw const SHARED_INFO_WINDOW) as u64,
            (&raw const MEMORY_WINDOW) as u64,
        ];
        let tables = base..base + frames * PAGE_SIZE;
        let right = |address: u64| {
            self.translate(address).is_some_and(|entry| {
                let writable = entry & WRITABLE != 0;
                self.p2m(address / PAGE_SIZE) == Some((entry & ADDRESS_MASK) / PAGE_SIZE)
                    && writable != tables.contains(&address)
            })
        };
        let (start, _) = checks::image();
        let end = self.bootstrap_end();
        let wrong = (start..end)
            .step_by(PAGE_SIZE as usize)
            .find(|address| !windows.contains(address) && !right(*address));
        match wrong {
            None => checks.report(
                "bootstrap-mapping",
                true,
                format_args!("{start:#x}-{end:#x}"),
            ),
            Some(address) => checks.report(
                "bootstrap-mapping",
                false,
                format_args!(
                    "{address:#x} has entry {:#x}",
                    self.translate(address).unwrap_or(0)
                ),
            ),
        }

        const PADDING: u64 = 512 << 10;
        let mapped = (end..)
            .step_by(PAGE_SIZE as usize)
            .take_while(|&address| right(address))
            .count();
        checks.report(
            "bootstrap-padding",
            mapped as u64 * PAGE_SIZE >= PADDING,
            format_args!("{} KiB mapped behind the boot stack", mapped * 4),
        );
    }

    fn check_rings(&self, checks: &mut Checks) {
        let rings = [
            (
                "console",
                field!(self, console_mfn),
                field!(self, console_evtchn),
            ),
            ("store", field!(self, store_mfn), field!(self, store_evtchn)),
        ];
        for (name, mfn, port) in rings {
            let pfn = self.m2p(mfn);
            checks.report(
                name,
                self.ring_page(mfn).is_some() && port != 0,
                format_args!("pfn {:#x} event channel {port}", pfn.unwrap_or(!0)),
            );
        }
    }

    fn check_hypercall_page(&self, checks: &mut Checks) {
        let page = &raw const hypercall::hypercall_page;
        // SAFETY: the page is part of the image; volatile, because Xen writes it, not Rust.
        let filled = (0..4096).any(|i| unsafe { page.cast::<u8>().add(i).read_volatile() } != 0);
        checks.report(
            "hypercall-page",
            filled,
            format_args!("at {:#x}", page as u64),
        );
    }

    fn check_module(&self, checks: &mut Checks) {
        let (address, len) = self.module();
        if len == 0 {
            return;
        }
        let end = address.saturating_add(len);
        let mapped = (address..end)
            .step_by(PAGE_SIZE as usize)
            .all(|page| self.translate(page).is_some());
        if !mapped || address == 0 {
            checks.report(
                "module",
                false,
                format_args!("{address:#x}-{end:#x} is not mapped"),
            );
            return;
        }
        // SAFETY: every page of the module is mapped, and nothing writes to it.
        let bytes = unsafe { core::slice::from_raw_parts(address as *const u8, len as usize) };
        checks.report(
            "module",
            true,
            format_args!("{len} bytes at {address:#x} crc32 {:08x}", crc32(bytes)),
        );
    }

    /// Suspends the domain; see `Platform::suspend`.
    pub fn suspend(&mut self) -> Result<bool, Errno> {
        // The saved image must hold no machine address but those that the toolstack translates:
        // page tables of own pages, and the two ring frames as pseudo-physical ones.
        let own = self.start_info as u64 / PAGE_SIZE;
        let start_info_mfn = self.p2m(own).unwrap_or(0);
        self.unmap_shared_info()?;
        self.swap_ring_frames(|pv, mfn| pv.m2p(mfn));
        let result = hypercall::shutdown(Reason::Suspend, start_info_mfn);
        let in_new_domain = result == Ok(0);
        if !in_new_domain {
            self.swap_ring_frames(|pv, pfn| pv.p2m(pfn));
        }
        result.map(|cancelled| cancelled != 0)
    }

    fn unmap_shared_info(&mut self) -> Result<(), Errno> {
        events::detach();
        let window = (&raw const SHARED_INFO_WINDOW) as u64;
        let own = self.p2m(window / PAGE_SIZE).unwrap_or(0);
        // SAFETY: the window gets back the frame that it was loaded with.
        unsafe { hypercall::update_va_mapping(window, page_entry(own)) }
    }

    fn swap_ring_frames(&mut self, translate: impl Fn(&Self, u64) -> Option<u64>) {
        let store = field!(self, store_mfn);
        let console = field!(self, console_mfn);
        let (Some(store), Some(console)) = (translate(self, store), translate(self, console))
        else {
            say!("the ring frames cannot be translated");
            return;
        };
        // SAFETY: `new` was promised that the page is mapped and writable.
        unsafe {
            (&raw mut (*self.start_info).store_mfn).write_volatile(store);
            (&raw mut (*self.start_info).console_mfn).write_volatile(console);
        }
    }
}

impl Memory for Pv {
    fn ram(&self) -> Ranges {
        let mut ram = Ranges::new();
        let _ = ram.add(0, self.nr_pages() * PAGE_SIZE);
        ram
    }

    fn in_use(&self) -> Ranges {
        let mut in_use = Ranges::new();
        let (start, _) = checks::image();
        checks::reserve(&mut in_use, start, self.bootstrap_end() - start);
        in_use
    }

    fn map(&mut self, pfn: u64) -> Option<*mut u64> {
        let window = &raw mut MEMORY_WINDOW;
        let mfn = self.p2m(pfn)?;
        // SAFETY: Rust code never touches the window but through the pointer given here.
        unsafe { hypercall::update_va_mapping(window as u64, page_entry(mfn)) }.ok()?;
        Some(window.cast())
    }

    fn unmap(&mut self) {
        let window = (&raw const MEMORY_WINDOW) as u64;
        let own = self.p2m(window / PAGE_SIZE).unwrap_or(0);
        // SAFETY: the window gets back the frame that it was loaded with.
        let _ = unsafe { hypercall::update_va_mapping(window, page_entry(own)) };
    }
}

/// A page table entry for machine frame `mfn`.
fn page_entry(mfn: u64) -> u64 {
    (mfn * PAGE_SIZE) | PAGE_RW
}

/// The machine address of the top page table. Xen emulates the read.
fn root_address() -> u64 {
    let cr3: u64;
    // SAFETY: Xen lets a PV kernel read CR3; nothing changes.
    unsafe { asm!("mov {}, cr3", out(reg) cr3, options(nomem, nostack)) };
    cr3 & ADDRESS_MASK
}

/// An answer of the CPUID instruction from Xen: EAX, EBX, ECX, EDX. Without Xen's prefix the CPU itself may answer (`XEN_EMULATE_PREFIX` of
/// Xen's public header).
pub fn cpuid(leaf: u32, subleaf: u32) -> [u32; 4] {
    let (mut eax, mut ecx) = (leaf, subleaf);
    let (ebx, edx): (u64, u32);
    // SAFETY: Xen emulates the instruction, which changes these registers alone. The compiler keeps RBX for itself.
    unsafe {
        asm!(
            "mov {kept}, rbx",
            ".byte 0x0f, 0x0b, 0x78, 0x65, 0x6e",
            "cpuid",
            "xchg {kept}, rbx",
            kept = out(reg) ebx,
            inout("eax") eax,
            inout("ecx") ecx,
            out("edx") edx,
            options(nostack, nomem),
        );
    }
    [eax, ebx as u32, ecx, edx]
}
