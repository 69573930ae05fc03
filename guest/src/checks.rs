//! Reports checks, one line each, and the checks that both guest types share.

use core::fmt;

use testguest_logic::ranges::Ranges;

use crate::{events, say};

unsafe extern "C" {
    static image_start: u8;
    static image_end: u8;
    static image_tail: u64;
    static bss_probe: [u64; 512];
}

/// The value that link.ld puts behind the image's data.
const IMAGE_TAIL: u64 = 0x7461_696c_6461_7461;

/// First and one-past-last byte of the loaded kernel, zeroed memory included.
pub fn image() -> (u64, u64) {
    (
        (&raw const image_start) as u64,
        (&raw const image_end) as u64,
    )
}

/// Adds the kernel itself to the memory that is in use.
pub fn reserve_image(ranges: &mut Ranges) {
    let (start, end) = image();
    reserve(ranges, start, end - start);
}

/// Adds the whole pages that hold `size` bytes at `start`.
pub fn reserve(ranges: &mut Ranges, start: u64, size: u64) {
    let first = start & !0xfff;
    let end = start.saturating_add(size).next_multiple_of(4096);
    if size > 0 && ranges.add(first, end - first).is_err() {
        say!("too many ranges in use, {start:#x} is not protected from the memory test");
    }
}

/// Counts the checks.
#[derive(Debug, Clone, Copy, Default)]
pub struct Checks {
    /// Number of checks that passed.
    pub passed: u32,
    /// Number of checks that failed.
    pub failed: u32,
}

impl Checks {
    /// Reports one check.
    pub fn report(&mut self, name: impl fmt::Display, ok: bool, detail: fmt::Arguments<'_>) {
        if ok {
            self.passed += 1;
            say!("check {name} ok {detail}");
        } else {
            self.failed += 1;
            say!("check {name} FAIL {detail}");
        }
    }

    /// Reports what came out of fallible work.
    pub fn report_result<T: fmt::Display, E: fmt::Display>(
        &mut self,
        name: impl fmt::Display,
        result: Result<T, E>,
    ) {
        match result {
            Ok(detail) => self.report(name, true, format_args!("{detail}")),
            Err(detail) => self.report(name, false, format_args!("{detail}")),
        }
    }

    /// The image was loaded whole, what is to be zero is zero, and the clock ticks.
    pub fn common(&mut self) {
        let (start, end) = image();
        // SAFETY: both symbols are in the image; volatile, because the compiler must not assume
        // what a loader made of them.
        let (tail, dirty) = unsafe {
            let tail = (&raw const image_tail).read_volatile();
            let words = (&raw const bss_probe).cast::<u64>();
            (
                tail,
                (0..512)
                    .filter(|&i| words.add(i).read_volatile() != 0)
                    .count(),
            )
        };
        self.report(
            "image",
            tail == IMAGE_TAIL,
            format_args!("at {start:#x}-{end:#x}"),
        );
        self.report(
            "zeroed-memory",
            dirty == 0,
            format_args!("{dirty} words of 512 not zero"),
        );
        let before_ns = events::now_ns();
        let after_ns = events::now_ns();
        self.report(
            "clock",
            before_ns > 0 && after_ns >= before_ns,
            format_args!("system time {before_ns} ns"),
        );
    }
}
