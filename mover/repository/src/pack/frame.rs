//! Frames: the unit of compression and sealing. FORMAT.md "Frames".
//!
//! The plaintext of a frame is codec, plain length, payload. A [`CompressedFrame`] keeps room for all three and the
//! tag, so that filling, sealing and handing over copy nothing; a raw frame is sealed from where its bytes lie
//! (`PackSealer::seal_raw`). Decoding never
//! allocates more than [`FRAME_BYTES_MAX`] whatever the bytes say. Buffers belong to one shard.

use bytes::Bytes;
use std::borrow::Cow;
use std::cell::RefCell;

use crate::codec::DecodeError;
use crate::limits::FRAME_BYTES_MAX;

/// Bytes before the payload: codec as `u8`, plain length as `u32`.
pub const FRAME_PREFIX_BYTES: usize = 5;
/// Authentication tag at the end of a sealed frame.
pub const FRAME_TAG_BYTES: usize = 16;
/// Largest payload that fits a sealed frame.
pub const FRAME_PAYLOAD_BYTES_MAX: usize = FRAME_BYTES_MAX - FRAME_PREFIX_BYTES - FRAME_TAG_BYTES;

/// Length of the sealed frame that holds `plain_bytes` bytes raw: the worst case of any frame.
pub const fn raw_frame_bytes(plain_bytes: usize) -> usize {
    FRAME_PREFIX_BYTES + plain_bytes + FRAME_TAG_BYTES
}

/// The bytes before a payload.
pub(super) fn encode_prefix(codec: Codec, plain_bytes: u32) -> [u8; FRAME_PREFIX_BYTES] {
    let mut prefix = [codec as u8; FRAME_PREFIX_BYTES];
    prefix[1..].copy_from_slice(&plain_bytes.to_le_bytes());
    prefix
}

/// How a payload is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Codec {
    /// The plain bytes themselves.
    Raw = 0,
    /// One zstd frame.
    Zstd = 1,
}

/// A frame that is not sealed yet: prefix and payload, with room for the tag. Most are compressed.
#[derive(Debug)]
pub struct CompressedFrame {
    bytes: Vec<u8>,
}

impl CompressedFrame {
    /// Compresses `plain`; none if that does not save a 32nd of it, and the frame is better left raw.
    ///
    /// # Panics
    /// If `plain` is longer than [`FRAME_PAYLOAD_BYTES_MAX`].
    pub fn of(zstd: &mut zstd::bulk::Compressor<'_>, plain: &[u8]) -> Option<Self> {
        assert!(plain.len() <= FRAME_PAYLOAD_BYTES_MAX, "a frame's payload is bounded");
        let mut bytes = Vec::with_capacity(raw_frame_bytes(plain.len()));
        bytes.extend_from_slice(&encode_prefix(Codec::Zstd, plain.len() as u32));
        let mut tail = Tail { bytes: &mut bytes, room: plain.len() - plain.len() / 32 };
        // The only error that sound parameters allow is a destination that is too small.
        zstd.compress_to_buffer(plain, &mut tail).ok()?;
        Some(Self { bytes })
    }

    /// Plain bytes as they are, for a frame that does not shrink.
    ///
    /// # Panics
    /// If `plain` is longer than [`FRAME_PAYLOAD_BYTES_MAX`].
    pub fn raw(plain: &[u8]) -> Self {
        assert!(plain.len() <= FRAME_PAYLOAD_BYTES_MAX, "a frame's payload is bounded");
        Self { bytes: [&encode_prefix(Codec::Raw, plain.len() as u32)[..], plain].concat() }
    }

    /// A frame as another pack held it, compressed or raw.
    pub(super) fn from_plaintext(bytes: Vec<u8>) -> Result<Self, DecodeError> {
        check_prefix(&bytes)?;
        Ok(Self { bytes })
    }

    /// The plain bytes, decoded anew; they stay as they are in the frame.
    ///
    /// # Errors
    /// If they cannot be decoded.
    pub(crate) fn decode(&self) -> Result<Cow<'_, [u8]>, DecodeError> {
        match check_prefix(&self.bytes)? {
            (Codec::Raw, _) => Ok(Cow::Borrowed(self.payload())),
            (Codec::Zstd, plain_len) => decompress(self.payload(), plain_len).map(Cow::Owned),
        }
    }

    /// What zstd made.
    pub fn payload(&self) -> &[u8] {
        &self.bytes[FRAME_PREFIX_BYTES..]
    }

    /// Length that the frame will have when it is sealed.
    pub fn sealed_bytes(&self) -> usize {
        self.bytes.len() + FRAME_TAG_BYTES
    }

    /// Length of what was compressed.
    pub fn plain_bytes(&self) -> u32 {
        u32::from_le_bytes(self.bytes[1..FRAME_PREFIX_BYTES].try_into().expect("four bytes"))
    }

    /// The whole plaintext of the frame.
    pub(super) fn into_plaintext(self) -> Vec<u8> {
        self.bytes
    }
}

/// Lets zstd write behind the prefix, into at most `room` bytes of spare capacity.
struct Tail<'a> {
    bytes: &'a mut Vec<u8>,
    room: usize,
}

// SAFETY: `as_mut_ptr` points at spare capacity of at least `room` bytes, which
// `CompressedFrame::of` reserved, and `filled_until` makes exactly the bytes that zstd wrote part of the vector.
unsafe impl zstd::zstd_safe::WriteBuf for Tail<'_> {
    fn as_slice(&self) -> &[u8] {
        &self.bytes[FRAME_PREFIX_BYTES..]
    }
    fn capacity(&self) -> usize {
        self.room
    }
    fn as_mut_ptr(&mut self) -> *mut u8 {
        self.bytes.spare_capacity_mut().as_mut_ptr().cast()
    }
    unsafe fn filled_until(&mut self, n: usize) {
        debug_assert!(n <= self.room);
        // SAFETY: zstd promises that the first `n` bytes of the buffer are written.
        unsafe { self.bytes.set_len(FRAME_PREFIX_BYTES + n) };
    }
}

thread_local! {
    /// Reused by every frame that this thread decodes; about 128 KiB.
    static DECOMPRESSOR: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
}

/// Turns the plaintext of a frame into the plain bytes.
pub(super) fn decode_frame(mut bytes: Vec<u8>) -> Result<Vec<u8>, DecodeError> {
    match check_prefix(&bytes)? {
        (Codec::Raw, _) => {
            bytes.drain(..FRAME_PREFIX_BYTES);
            Ok(bytes)
        }
        (Codec::Zstd, plain_len) => decompress(&bytes[FRAME_PREFIX_BYTES..], plain_len),
    }
}

/// As [`decode_frame`], but a raw payload stays where it is.
pub(super) fn decode_frame_bytes(bytes: Vec<u8>) -> Result<Bytes, DecodeError> {
    match check_prefix(&bytes)? {
        (Codec::Raw, _) => Ok(Bytes::from(bytes).slice(FRAME_PREFIX_BYTES..)),
        (Codec::Zstd, plain_len) => decompress(&bytes[FRAME_PREFIX_BYTES..], plain_len).map(Bytes::from),
    }
}

fn check_prefix(bytes: &[u8]) -> Result<(Codec, usize), DecodeError> {
    if bytes.len() < FRAME_PREFIX_BYTES {
        return Err(DecodeError::Truncated { at: bytes.len() });
    }
    let plain_len = u32::from_le_bytes(bytes[1..FRAME_PREFIX_BYTES].try_into().expect("four bytes")) as usize;
    if plain_len > FRAME_BYTES_MAX {
        return Err(DecodeError::Invalid { field: "plain length of a frame" });
    }
    match bytes[0] {
        0 if plain_len == bytes.len() - FRAME_PREFIX_BYTES => Ok((Codec::Raw, plain_len)),
        0 => Err(DecodeError::Invalid { field: "plain length of a frame" }),
        1 => Ok((Codec::Zstd, plain_len)),
        _ => Err(DecodeError::Invalid { field: "codec" }),
    }
}

fn decompress(payload: &[u8], plain_len: usize) -> Result<Vec<u8>, DecodeError> {
    DECOMPRESSOR.with_borrow_mut(|slot| {
        if slot.is_none() {
            *slot = zstd::bulk::Decompressor::new().ok();
        }
        let decompressor = slot.as_mut().ok_or(DecodeError::Invalid { field: "decompressor" })?;
        let mut plain = Vec::with_capacity(plain_len);
        match decompressor.decompress_to_buffer(payload, &mut plain) {
            Ok(length) if length == plain_len => Ok(plain),
            _ => Err(DecodeError::Invalid { field: "zstd payload" }),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compressor() -> zstd::bulk::Compressor<'static> {
        zstd::bulk::Compressor::new(1).unwrap()
    }

    #[test]
    fn compressible_bytes_are_compressed_and_others_are_left_raw() {
        let text = b"all work and no play ".repeat(1000);
        let frame = CompressedFrame::of(&mut compressor(), &text).unwrap();
        assert!(frame.payload().len() < text.len() / 10);
        assert_eq!(frame.plain_bytes() as usize, text.len());
        assert_eq!(decode_frame(frame.into_plaintext()).unwrap(), text);

        let mut noise = vec![0u8; 10_000];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        assert!(CompressedFrame::of(&mut compressor(), &noise).is_none());
        assert!(CompressedFrame::of(&mut compressor(), b"").is_none());
        let raw = [&encode_prefix(Codec::Raw, 10_000)[..], &noise].concat();
        assert_eq!(decode_frame(raw).unwrap(), noise);
    }

    #[test]
    fn f27_every_cut_and_flip_of_a_frame_is_an_error_or_bounded() {
        let text = b"all work and no play ".repeat(20);
        let bytes = CompressedFrame::of(&mut compressor(), &text).unwrap().into_plaintext();
        for length in 0..bytes.len() {
            assert!(decode_frame(bytes[..length].to_vec()).is_err(), "cut at {length}");
        }
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 0x55;
            if let Ok(plain) = decode_frame(flipped) {
                assert!(plain.len() <= FRAME_BYTES_MAX);
            }
        }
    }

    #[test]
    fn a_zip_bomb_is_refused() {
        let zeros = vec![0u8; FRAME_BYTES_MAX * 2];
        let mut bytes = vec![1, 0, 0, 0, 0];
        bytes.extend(zstd::bulk::compress(&zeros, 1).unwrap());
        for claimed in [1u32, FRAME_BYTES_MAX as u32, FRAME_BYTES_MAX as u32 * 2, u32::MAX] {
            bytes[1..5].copy_from_slice(&claimed.to_le_bytes());
            assert!(decode_frame(bytes.clone()).is_err(), "{claimed}");
        }
    }
}
