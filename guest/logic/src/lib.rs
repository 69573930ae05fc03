//! The parts of the test guest that touch neither Xen nor hardware, so that they can be tested on
//! the host. The kernel around them supplies memory and hypercalls.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod acpi;
pub mod clock;
pub mod command;
pub mod crc32;
pub mod escape;
pub mod options;
pub mod ranges;
pub mod ring;
pub mod text;
pub mod wire;
