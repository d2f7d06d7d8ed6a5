//! The byte level of everything the shim reads and writes: little-endian numbers, length-prefixed bytes, and a
//! decoder that never reads past its input and never allocates more than the input holds. No IO, no clock.

use std::fmt;

/// Why bytes from the other side were refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DecodeError {
    /// The input ends inside a field.
    Truncated,
    /// A length is above its limit.
    TooLong { what: &'static str, found: usize, allowed: usize },
    /// A value that no version defines.
    BadValue { what: &'static str, found: u64 },
    /// Text that is not UTF-8.
    NotText,
    /// The checksum does not match.
    BadChecksum,
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated => f.write_str("the input ends inside a field"),
            Self::TooLong { what, found, allowed } => {
                write!(f, "{what} is {found} long, at most {allowed} is allowed")
            }
            Self::BadValue { what, found } => write!(f, "{what} has the unknown value {found}"),
            Self::NotText => f.write_str("a text field is not UTF-8"),
            Self::BadChecksum => f.write_str("the checksum does not match"),
        }
    }
}

impl std::error::Error for DecodeError {}

/// At most `allowed` bytes of a text, cut between characters.
pub fn cut(text: &str, allowed: usize) -> &str {
    let end = (0..=allowed.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or(0)]
}

/// Appends fields to a buffer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Encoder(pub Vec<u8>);

impl Encoder {
    /// Where a later version has more fields than this one: nothing, but in a build that stands for such a version.
    pub fn later_fields(&mut self) {
        if cfg!(feature = "next-level") {
            self.text("of the next level");
        }
    }

    pub fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    pub fn u16(&mut self, value: u16) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub fn i32(&mut self, value: i32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    /// A u32 length and the bytes.
    pub fn bytes(&mut self, value: &[u8]) {
        self.u32(u32::try_from(value.len()).unwrap_or(u32::MAX));
        self.0.extend_from_slice(value);
    }

    pub fn text(&mut self, value: &str) {
        self.bytes(value.as_bytes());
    }

    /// A u32 count for the items that the caller appends next.
    pub fn count(&mut self, items: usize) {
        self.u32(u32::try_from(items).unwrap_or(u32::MAX));
    }

    /// A presence byte, then the value if there is one.
    pub fn optional<T>(&mut self, value: Option<T>, put: impl FnOnce(&mut Self, T)) {
        match value {
            Some(value) => {
                self.u8(1);
                put(self, value);
            }
            None => self.u8(0),
        }
    }
}

/// Takes fields off the front of a slice.
#[derive(Debug, Clone)]
pub struct Decoder<'a>(pub &'a [u8]);

impl<'a> Decoder<'a> {
    pub fn take(&mut self, length: usize) -> Result<&'a [u8], DecodeError> {
        let (head, rest) = self.0.split_at_checked(length).ok_or(DecodeError::Truncated)?;
        self.0 = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    pub fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(self.array::<1>()?[0])
    }

    pub fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_le_bytes)
    }

    pub fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn i32(&mut self) -> Result<i32, DecodeError> {
        self.array().map(i32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_le_bytes)
    }

    pub fn bytes(&mut self) -> Result<&'a [u8], DecodeError> {
        let length = self.u32()? as usize;
        self.take(length)
    }

    pub fn text(&mut self) -> Result<String, DecodeError> {
        std::str::from_utf8(self.bytes()?).map(str::to_owned).map_err(|_| DecodeError::NotText)
    }

    pub fn bool(&mut self, what: &'static str) -> Result<bool, DecodeError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            found => Err(DecodeError::BadValue { what, found: found.into() }),
        }
    }

    pub fn optional<T>(
        &mut self,
        get: impl FnOnce(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Option<T>, DecodeError> {
        if self.bool("presence")? { get(self).map(Some) } else { Ok(None) }
    }

    /// A counted list. The count is checked against `allowed` and, by decoding one by one, against the input.
    pub fn list<T>(
        &mut self,
        what: &'static str,
        allowed: usize,
        mut get: impl FnMut(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Vec<T>, DecodeError> {
        let found = self.u32()? as usize;
        if found > allowed {
            return Err(DecodeError::TooLong { what, found, allowed });
        }
        (0..found).map(|_| get(self)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_is_taken() {
        let mut encoder = Encoder::default();
        encoder.u8(7);
        encoder.u16(300);
        encoder.i32(-5);
        encoder.u64(1 << 40);
        encoder.text("hé");
        encoder.optional(Some(9), Encoder::u32);
        encoder.optional(None, Encoder::u32);
        let mut decoder = Decoder(&encoder.0);
        assert_eq!((decoder.u8(), decoder.u16(), decoder.i32()), (Ok(7), Ok(300), Ok(-5)));
        assert_eq!((decoder.u64(), decoder.text()), (Ok(1 << 40), Ok("hé".to_owned())));
        assert_eq!((decoder.optional(Decoder::u32), decoder.optional(Decoder::u32)), (Ok(Some(9)), Ok(None)));
        assert_eq!(decoder.u8(), Err(DecodeError::Truncated));
    }

    #[test]
    fn texts_are_cut_between_characters() {
        assert_eq!((cut("aé", 3), cut("aé", 2), cut("aé", 0), cut("", 5)), ("aé", "a", "", ""));
    }

    #[test]
    fn a_length_beyond_the_input_is_refused_without_allocating() {
        let mut decoder = Decoder(&[0xff, 0xff, 0xff, 0xff, 1]);
        assert_eq!(decoder.bytes(), Err(DecodeError::Truncated));
        let mut decoder = Decoder(&[0xff, 0xff, 0, 0]);
        let refused = decoder.list("numbers", 10, Decoder::u32);
        assert_eq!(refused, Err(DecodeError::TooLong { what: "numbers", found: 65535, allowed: 10 }));
    }
}
