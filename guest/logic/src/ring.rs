//! Index arithmetic of Xen's byte rings (console, xenstore): free-running 32-bit producer and
//! consumer indices over a buffer whose size is a power of two.

/// Bytes waiting in the ring, or `None` when the indices make no sense (more than `size` apart).
pub fn used(producer: u32, consumer: u32, size: u32) -> Option<u32> {
    let used = producer.wrapping_sub(consumer);
    (used <= size).then_some(used)
}

/// The longest piece that can be copied in one go: at ring offset of `index`, at most `available`
/// bytes, not past the end of the buffer. Gives (offset, length).
pub fn piece(index: u32, available: u32, size: u32) -> (u32, u32) {
    let offset = index & (size - 1);
    (offset, available.min(size - offset))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn indices_wrap() {
        assert_eq!(used(5, 5, 1024), Some(0));
        assert_eq!(used(3, u32::MAX - 4, 1024), Some(8));
        assert_eq!(used(1024, 0, 1024), Some(1024));
        assert_eq!(used(1025, 0, 1024), None);
        assert_eq!(used(0, 1, 1024), None);
    }

    proptest! {
        #[test]
        fn pieces_stay_inside(index: u32, available in 0u32..=2048) {
            let (offset, len) = piece(index, available, 2048);
            prop_assert!(offset + len <= 2048);
            prop_assert!(len <= available);
            prop_assert!(len > 0 || available == 0);
        }
    }
}
