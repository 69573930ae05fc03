//! The structures of Xen's public ABI, for the interface versions of Xen 4.17 to 4.22; no I/O.
//!
//! Each module mirrors one of Xen's public headers. Structures are plain `repr(C)` with every pad byte named, so that their
//! bytes can be copied to and from a hypercall buffer without `unsafe`. All is for x86-64 with little-endian numbers.
//!
//! Of the interfaces that change between releases, only `createdomain` changed its layout from 4.17 to 4.22; it has one structure
//! for each layout, and [`domctl::CreateDomain`] picks by [`Release`]. Everything else has one layout for all of them, which
//! `examples/header_check.rs` compares with the C headers of any release.

pub mod domctl;
pub mod event_channel;
pub mod grant_table;
pub mod hvm;
pub mod io;
pub mod layout;
pub mod linux;
pub mod memory;
pub mod mmu;
pub mod physdev;
pub mod sched;
pub mod start;
pub mod sysctl;
pub mod vcpu;
pub mod version;
pub mod x86_32;
pub mod xen;

pub use version::{Interface, KnownReleases, Release, UnknownRelease};

use zerocopy::{FromBytes, Immutable, IntoBytes};

/// The address of an object in the caller's memory, as hypercalls take it (`XEN_GUEST_HANDLE_64`); 0 for none.
pub type GuestHandle = u64;

/// A union of 128 bytes with `payload` at its start; the caller asserts that it fits.
fn payload<T: IntoBytes + Immutable>(payload: &T) -> [u64; 16] {
    let mut union = [0_u64; 16];
    for (to, from) in union.as_mut_bytes().iter_mut().zip(payload.as_bytes()) {
        *to = *from;
    }
    union
}

/// A `T` from the start of `bytes`; zeros where they are too short, which callers rule out.
fn from_prefix<T: FromBytes>(bytes: &[u8]) -> T {
    T::read_from_prefix(bytes).map_or_else(|_| T::new_zeroed(), |(value, _rest)| value)
}
