//! The `__xen_guest` section, from before there were Xen notes: `KEY=value` pairs with commas between them.

use super::{NotesFrom, PaeMode, XenNotes, bad_note, set_once, text};
use crate::error::Malformed;

/// A page number is turned into an address by this.
const PAGE_SHIFT: u32 = 12;

pub(super) fn parse(section: &[u8]) -> Result<XenNotes, Malformed> {
    let mut notes = XenNotes::empty(NotesFrom::Legacy);
    let mut hypercall_page_number = None;
    for pair in text("__xen_guest", section)?.split(',') {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let string = || value.to_owned();
        match key {
            "LOADER" => set_once("LOADER", &mut notes.loader, string())?,
            "GUEST_OS" => set_once("GUEST_OS", &mut notes.guest_os, string())?,
            "GUEST_VER" => set_once("GUEST_VER", &mut notes.guest_version, string())?,
            "XEN_VER" => set_once("XEN_VER", &mut notes.xen_version, string())?,
            "PAE" => set_once("PAE", &mut notes.pae_mode, pae_mode(value))?,
            // The name has no value. Its presence counts.
            "BSD_SYMTAB" => notes.bsd_symtab = true,
            "VIRT_BASE" => set_once(
                "VIRT_BASE",
                &mut notes.virt_base,
                number("VIRT_BASE", value)?,
            )?,
            "VIRT_ENTRY" => set_once("VIRT_ENTRY", &mut notes.entry, number("VIRT_ENTRY", value)?)?,
            "ELF_PADDR_OFFSET" => {
                set_once(
                    "ELF_PADDR_OFFSET",
                    &mut notes.paddr_offset,
                    number("ELF_PADDR_OFFSET", value)?,
                )?;
            }
            "HYPERCALL_PAGE" => {
                set_once(
                    "HYPERCALL_PAGE",
                    &mut hypercall_page_number,
                    number("HYPERCALL_PAGE", value)?,
                )?;
            }
            "FEATURES" => notes.features.add_names(value)?,
            _ => {}
        }
    }
    notes.hypercall_page = hypercall_page_number
        .map(|page| hypercall_page(page, notes.virt_base.unwrap_or(0)))
        .transpose()?;
    Ok(notes)
}

/// This key, other than the note, holds the number of a physical page.
fn hypercall_page(page_number: u64, virt_base: u64) -> Result<u64, Malformed> {
    let offset = page_number.checked_mul(1 << PAGE_SHIFT);
    offset
        .and_then(|offset| virt_base.checked_add(offset))
        .ok_or_else(|| {
            bad_note(
                "HYPERCALL_PAGE",
                format!("page {page_number:#x} has no address"),
            )
        })
}

fn pae_mode(value: &str) -> PaeMode {
    if value == "yes[extended-cr3]" {
        PaeMode::ExtendedCr3
    } else if value.starts_with("yes") {
        PaeMode::Yes
    } else {
        PaeMode::No
    }
}

/// A number as C writes them: decimal, `0x` and hexadecimal, or `0` and octal.
fn number(key: &'static str, value: &str) -> Result<u64, Malformed> {
    let digits_of = |prefix| value.strip_prefix(prefix);
    let parsed = match (digits_of("0x").or_else(|| digits_of("0X")), digits_of("0")) {
        (Some(hex), _) => u64::from_str_radix(hex, 16),
        (None, Some(octal)) if !octal.is_empty() => u64::from_str_radix(octal, 8),
        _ => value.parse(),
    };
    parsed.map_err(|_| bad_note(key, format!("`{value}` is not a number of 64 bits")))
}
