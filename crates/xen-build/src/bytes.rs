//! Structures of the boot contracts, written field by field.

/// Bytes in the making. Numbers are little-endian.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    pub(crate) fn new() -> Writer {
        Writer::default()
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn u8(mut self, value: u8) -> Writer {
        self.bytes.push(value);
        self
    }

    pub(crate) fn u16(self, value: u16) -> Writer {
        self.bytes(&value.to_le_bytes())
    }

    pub(crate) fn u32(self, value: u32) -> Writer {
        self.bytes(&value.to_le_bytes())
    }

    pub(crate) fn u64(self, value: u64) -> Writer {
        self.bytes(&value.to_le_bytes())
    }

    pub(crate) fn bytes(mut self, bytes: &[u8]) -> Writer {
        self.bytes.extend_from_slice(bytes);
        self
    }

    pub(crate) fn zeros(mut self, count: usize) -> Writer {
        self.bytes.resize(self.bytes.len() + count, 0);
        self
    }

    /// Appends zeros up to `offset`. Does nothing if there are more bytes already.
    pub(crate) fn pad_to(self, offset: usize) -> Writer {
        let count = offset.saturating_sub(self.len());
        self.zeros(count)
    }

    /// Zeros up to a multiple of `alignment`.
    pub(crate) fn align(self, alignment: usize) -> Writer {
        let offset = self.len().next_multiple_of(alignment);
        self.pad_to(offset)
    }

    /// `text`, cut or padded with zeros to `len` bytes.
    pub(crate) fn text(self, text: &str, len: usize) -> Writer {
        let end = self.len() + len;
        let kept = text.as_bytes().get(..len).unwrap_or(text.as_bytes());
        self.bytes(kept).pad_to(end)
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.bytes
    }
}

/// Sets the byte at `offset`, zero so far, so that the first `len` bytes add up to zero.
pub(crate) fn with_checksum(mut bytes: Vec<u8>, len: usize, offset: usize) -> Vec<u8> {
    let sum = bytes
        .iter()
        .take(len)
        .fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    if let Some(byte) = bytes.get_mut(offset) {
        *byte = sum.wrapping_neg();
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_stand_where_they_were_put() {
        let bytes = Writer::new()
            .u8(1)
            .align(4)
            .u32(0x0403_0201)
            .text("ab", 3)
            .pad_to(16)
            .u64(7)
            .finish();
        assert_eq!(
            bytes,
            [
                1, 0, 0, 0, 1, 2, 3, 4, b'a', b'b', 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0
            ]
        );
        assert_eq!(Writer::new().text("abcdef", 3).finish(), b"abc");
    }
}
