//! How a message becomes bytes of a stream, and a stream messages again. Pure. Which messages there are, `protocol` says.

use super::wire::{DecodeError, Decoder, Encoder};

/// Kind byte and fields of one frame.
pub const MAX_FRAME_BYTES: usize = 64 * 1024;

/// A message that can be put on the wire.
pub trait Frame: Sized {
    /// The kind byte and the fields.
    fn encode_body(&self, to: &mut Encoder);
    /// `None` for a kind that this version does not know.
    fn decode_body(kind: u8, fields: Decoder<'_>) -> Result<Option<Self>, DecodeError>;

    /// The whole frame, ready to send.
    fn encode(&self) -> Result<Vec<u8>, DecodeError> {
        let mut frame = Encoder(vec![0; 4]);
        self.encode_body(&mut frame);
        frame.later_fields();
        let found = frame.0.len() - 4;
        match u32::try_from(found) {
            Ok(length) if found <= MAX_FRAME_BYTES => frame.0[..4].copy_from_slice(&length.to_le_bytes()),
            _ => return Err(DecodeError::TooLong { what: "frame", found, allowed: MAX_FRAME_BYTES }),
        }
        if cfg!(feature = "next-level") {
            // A frame of a kind that this version does not have goes first.
            frame.0.splice(..0, [3, 0, 0, 0, 250, 1, 2]);
        }
        Ok(frame.0)
    }
}

/// Cuts a stream of bytes into frames. Never holds more than one frame and one read.
#[derive(Debug, Default)]
pub struct FrameBuffer {
    bytes: Vec<u8>,
    /// Where the next frame begins. What is before it goes with the next read, not with each of many small frames.
    start: usize,
}

impl FrameBuffer {
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.start);
        self.start = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole frame, `None` if more bytes are needed. After an error the connection is of no more use.
    pub fn next_frame<F: Frame>(&mut self) -> Result<Option<F>, DecodeError> {
        loop {
            let Some((head, rest)) = self.bytes[self.start..].split_first_chunk::<4>() else { return Ok(None) };
            let length = u32::from_le_bytes(*head) as usize;
            if length > MAX_FRAME_BYTES {
                return Err(DecodeError::TooLong { what: "frame", found: length, allowed: MAX_FRAME_BYTES });
            }
            let Some(body) = rest.get(..length) else { return Ok(None) };
            let (kind, fields) = body.split_first().ok_or(DecodeError::Truncated)?;
            let frame = F::decode_body(*kind, Decoder(fields));
            self.start += 4 + length;
            if let Some(frame) = frame? {
                return Ok(Some(frame));
            }
        }
    }
}
