//! One table of every structure and constant: what the compiler asserts is what the header check compares with C.
//!
//! `abi!` makes, from one list of members, the Rust structure, compile-time assertions of its size and of every
//! member's offset, and a [`Layout`] row. `c_constants!` does the same for constants. `examples/header_check.rs` turns the
//! rows into a C program and compares what the C compiler says with what stands here.

use crate::Release;

/// A structure of this crate beside the C type that it mirrors.
#[derive(Debug, Clone, Copy)]
pub struct Layout {
    /// The name of the Rust structure.
    pub rust_name: &'static str,
    /// The C type, as C spells it (`struct xen_domctl`).
    pub c_name: &'static str,
    /// The size of the structure in bytes.
    pub size_bytes: usize,
    /// Its members, in order.
    pub members: &'static [Member],
    /// The first release whose header has this layout.
    pub since: Release,
    /// The last release whose header has this layout.
    pub until: Release,
}

/// A member of a [`Layout`].
#[derive(Debug, Clone, Copy)]
pub struct Member {
    /// The C member, with dots where it is nested; empty where C has none (padding).
    pub c_name: &'static str,
    /// Its offset in bytes.
    pub offset_bytes: usize,
    /// Its size in bytes.
    pub size_bytes: usize,
    /// The first release whose header names this member.
    pub since: Release,
}

/// A constant of this crate beside the C expression that it mirrors.
#[derive(Debug, Clone, Copy)]
pub struct Constant {
    /// The C expression.
    pub c_name: &'static str,
    /// Its value, sign-extended to 64 bits.
    pub value: u64,
    /// The first release whose header has it.
    pub since: Release,
    /// The last release whose header has it.
    pub until: Release,
}

/// Every structure of this crate.
pub fn layouts() -> impl Iterator<Item = &'static Layout> {
    [
        crate::domctl::LAYOUTS,
        crate::event_channel::LAYOUTS,
        crate::grant_table::LAYOUTS,
        crate::hvm::LAYOUTS,
        crate::io::LAYOUTS,
        crate::linux::LAYOUTS,
        crate::memory::LAYOUTS,
        crate::mmu::LAYOUTS,
        crate::physdev::LAYOUTS,
        crate::sched::LAYOUTS,
        crate::start::LAYOUTS,
        crate::sysctl::LAYOUTS,
        crate::vcpu::LAYOUTS,
        crate::version::LAYOUTS,
        crate::x86_32::LAYOUTS,
        crate::xen::LAYOUTS,
    ]
    .into_iter()
    .flatten()
}

/// Every constant of this crate that C headers define.
pub fn constants() -> impl Iterator<Item = &'static Constant> {
    [
        crate::domctl::CONSTANTS,
        crate::event_channel::CONSTANTS,
        crate::grant_table::CONSTANTS,
        crate::hvm::CONSTANTS,
        crate::io::CONSTANTS,
        crate::linux::CONSTANTS,
        crate::memory::CONSTANTS,
        crate::mmu::CONSTANTS,
        crate::physdev::CONSTANTS,
        crate::sched::CONSTANTS,
        crate::start::CONSTANTS,
        crate::sysctl::CONSTANTS,
        crate::vcpu::CONSTANTS,
        crate::version::CONSTANTS,
        crate::x86_32::CONSTANTS,
        crate::xen::CONSTANTS,
    ]
    .into_iter()
    .flatten()
}

/// Makes C-layout structures, their assertions and their rows in `LAYOUTS`.
///
/// `OFFSET member: Type;` is a member that C names alike; `= "c.path"` gives C's name where it differs, `= ""` says that C has
/// no such member; `since V4_21` says that older headers do not name it yet. `in V4_19..=V4_20` after the size limits a
/// structure to the releases that have it.
macro_rules! abi {
    ($(
        $(#[$attr:meta])*
        struct $name:ident = $c:literal, $size:literal $(in $since:ident ..= $until:ident)? {
            $( $(#[$fattr:meta])* $off:literal $field:ident : $ty:ty $(= $cfield:literal)? $(=> since $fsince:ident)? ; )*
        }
    )*) => {
        $(
            $(#[$attr])*
            #[derive(Debug, Clone, Copy, PartialEq, Eq,
                zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout, zerocopy::Immutable)]
            #[repr(C)]
            pub struct $name {
                $( $(#[$fattr])* pub $field: $ty, )*
            }

            const _: () = assert!(core::mem::size_of::<$name>() == $size, concat!("size of ", stringify!($name)));
            $(
                const _: () = assert!(
                    core::mem::offset_of!($name, $field) == $off,
                    concat!("offset of ", stringify!($name), "::", stringify!($field))
                );
            )*
        )*

        /// The rows of this module for the header check.
        pub(crate) const LAYOUTS: &[crate::layout::Layout] = &[$(
            crate::layout::Layout {
                rust_name: stringify!($name),
                c_name: $c,
                size_bytes: $size,
                members: &[$(
                    crate::layout::Member {
                        c_name: crate::layout::pick!(stringify!($field) $(, $cfield)?),
                        offset_bytes: $off,
                        size_bytes: core::mem::size_of::<$ty>(),
                        since: crate::layout::pick!(crate::Release::V4_17 $(, crate::Release::$fsince)?),
                    },
                )*],
                since: crate::layout::pick!(crate::Release::V4_17 $(, crate::Release::$since)?),
                until: crate::layout::pick!(crate::Release::V4_22 $(, crate::Release::$until)?),
            },
        )*];
    };
}

/// Makes constants and their rows in `CONSTANTS`: `NAME: type = value, "C expression";`, with `in V4_17..=V4_21` where only
/// some releases have it.
macro_rules! c_constants {
    ($(
        $(#[$attr:meta])*
        $name:ident : $ty:ty = $value:expr, $c:literal $(in $since:ident ..= $until:ident)? ;
    )*) => {
        $(
            $(#[$attr])*
            pub const $name: $ty = $value;
        )*

        /// The constants of this module for the header check.
        pub(crate) const CONSTANTS: &[crate::layout::Constant] = &[$(
            crate::layout::Constant {
                c_name: $c,
                value: $name as u64,
                since: crate::layout::pick!(crate::Release::V4_17 $(, crate::Release::$since)?),
                until: crate::layout::pick!(crate::Release::V4_22 $(, crate::Release::$until)?),
            },
        )*];
    };
}

/// The second value where there is one, else the first.
macro_rules! pick {
    ($default:expr) => {
        $default
    };
    ($default:expr, $given:expr) => {
        $given
    };
}

pub(crate) use {abi, c_constants, pick};
