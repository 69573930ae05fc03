//! The paravirtual console: output for lines, input byte by byte.

use core::arch::asm;
use core::fmt::{self, Write as _};
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicU32, Ordering};

use testguest_logic::ring;

use crate::{events, hypercall};

/// Xen's `xencons_interface` (public/io/console.h).
#[repr(C)]
pub struct ConsoleRing {
    input: [AtomicU8; 1024],
    output: [AtomicU8; 2048],
    in_consumer: AtomicU32,
    in_producer: AtomicU32,
    out_consumer: AtomicU32,
    out_producer: AtomicU32,
}

const INPUT_SIZE: u32 = 1024;
const OUTPUT_SIZE: u32 = 2048;
/// If no reader takes output for this long, the guest drops output until a reader comes back.
const STALL_NS: u64 = 5_000_000_000;
const STALL_POLL_NS: u64 = 100_000_000;

static RING: AtomicPtr<ConsoleRing> = AtomicPtr::new(ptr::null_mut());
static PORT: AtomicU32 = AtomicU32::new(0);
static STALLED: AtomicBool = AtomicBool::new(false);

/// Uses `ring` and event channel `port` from now on.
///
/// # Safety
/// The ring stays mapped there, until the next call of this function.
pub unsafe fn attach(ring: *mut ConsoleRing, port: u32) {
    RING.store(ring, Ordering::Relaxed);
    PORT.store(port, Ordering::Relaxed);
    STALLED.store(false, Ordering::Relaxed);
}

fn attached() -> Option<&'static ConsoleRing> {
    // SAFETY: `attach` was promised that the ring is mapped; all of it are atomics.
    unsafe { RING.load(Ordering::Relaxed).as_ref() }
}

/// The console's event channel.
pub fn port() -> u32 {
    PORT.load(Ordering::Relaxed)
}

/// Writes `bytes`, waiting while the ring is full.
pub fn write(mut bytes: &[u8]) {
    let Some(ring) = attached() else { return };
    while !bytes.is_empty() {
        let producer = ring.out_producer.load(Ordering::Relaxed);
        let consumer = ring.out_consumer.load(Ordering::Acquire);
        let free = OUTPUT_SIZE - ring::used(producer, consumer, OUTPUT_SIZE).unwrap_or(OUTPUT_SIZE);
        if free == 0 {
            hypercall::notify(port());
            if !wait_for_reader(ring, consumer) {
                return;
            }
            continue;
        }
        let (offset, len) = ring::piece(producer, free.min(bytes.len() as u32), OUTPUT_SIZE);
        let (now, rest) = bytes.split_at(len as usize);
        for (slot, &byte) in ring.output.iter().skip(offset as usize).zip(now) {
            slot.store(byte, Ordering::Relaxed);
        }
        ring.out_producer
            .store(producer.wrapping_add(len), Ordering::Release);
        bytes = rest;
    }
}

/// Waits until the reader has moved on from `consumer`. `false` when it does not, or when there is
/// no clock to wait by.
fn wait_for_reader(ring: &ConsoleRing, consumer: u32) -> bool {
    if events::shared_info().is_none() {
        return false;
    }
    let moved = || ring.out_consumer.load(Ordering::Acquire) != consumer;
    let give_up_ns = events::now_ns() + STALL_NS;
    while !moved() {
        if STALLED.load(Ordering::Relaxed) {
            return false;
        }
        let now_ns = events::now_ns();
        if now_ns >= give_up_ns {
            STALLED.store(true, Ordering::Relaxed);
            return false;
        }
        events::clear_pending(port());
        if !moved() {
            events::wait(&[port()], now_ns + STALL_POLL_NS);
        }
    }
    STALLED.store(false, Ordering::Relaxed);
    true
}

/// Sends an event to the other end, after bytes were written.
pub fn flush() {
    if attached().is_some() {
        hypercall::notify(port());
    }
}

/// The next byte of input.
pub fn read() -> Option<u8> {
    let ring = attached()?;
    let consumer = ring.in_consumer.load(Ordering::Relaxed);
    let producer = ring.in_producer.load(Ordering::Acquire);
    if ring::used(producer, consumer, INPUT_SIZE).unwrap_or(0) == 0 {
        return None;
    }
    let (offset, _) = ring::piece(consumer, 1, INPUT_SIZE);
    let byte = ring.input.get(offset as usize)?.load(Ordering::Relaxed);
    ring.in_consumer
        .store(consumer.wrapping_add(1), Ordering::Release);
    if producer == consumer.wrapping_add(1) {
        // The writer may be waiting for room.
        hypercall::notify(port());
    }
    Some(byte)
}

struct Output;

impl fmt::Write for Output {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if attached().is_some() {
            write(text.as_bytes());
        } else {
            early(text);
        }
        Ok(())
    }
}

/// Output before the console is attached goes to Xen's log, as far as Xen lets it.
fn early(text: &str) {
    const DEBUG_CONSOLE_PORT: u16 = 0xe9;
    if !hypercall::through_page() {
        hypercall::xen_console(text);
        return;
    }
    for byte in text.bytes() {
        // SAFETY: Xen logs what an HVM kind of guest writes to this port.
        unsafe {
            asm!("out dx, al", in("dx") DEBUG_CONSOLE_PORT, in("al") byte, options(nomem, nostack));
        }
    }
}

/// Writes one line.
pub fn line(text: fmt::Arguments<'_>) {
    let _ = Output.write_fmt(text);
    let _ = Output.write_str("\r\n");
    flush();
}

/// Writes a line that begins with `testguest: `.
#[macro_export]
macro_rules! say {
    ($($text:tt)*) => {
        $crate::console::line(format_args!("testguest: {}", format_args!($($text)*)))
    };
}
