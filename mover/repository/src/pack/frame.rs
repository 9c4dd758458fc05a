//! Frames: the unit of compression and sealing. FORMAT.md "Frames".
//!
//! The plaintext of a frame is codec, plain length, payload. A [`FrameBuffer`] keeps room for all
//! three and the tag, so that filling, sealing and handing over copy nothing. Decoding never
//! allocates more than [`FRAME_BYTES_MAX`] whatever the bytes say. Buffers belong to one shard.

use bytes::Bytes;
use std::cell::RefCell;

use crate::codec::DecodeError;
use crate::limits::FRAME_BYTES_MAX;

/// Bytes before the payload: codec as `u8`, plain length as `u32`.
pub const FRAME_PREFIX_BYTES: usize = 5;
/// Authentication tag at the end of a sealed frame.
pub const FRAME_TAG_BYTES: usize = 16;
/// Largest payload that fits a sealed frame.
pub const FRAME_PAYLOAD_BYTES_MAX: usize = FRAME_BYTES_MAX - FRAME_PREFIX_BYTES - FRAME_TAG_BYTES;

/// How a payload is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Codec {
    /// The plain bytes themselves.
    Raw = 0,
    /// One zstd frame.
    Zstd = 1,
}

/// A frame that is being filled.
#[derive(Debug, Default)]
pub struct FrameBuffer {
    bytes: Vec<u8>,
}

impl FrameBuffer {
    /// An empty raw frame with room for `payload` bytes, prefix and tag.
    pub fn with_capacity(payload: usize) -> Self {
        Self::from_vec(Vec::with_capacity(payload + FRAME_PREFIX_BYTES + FRAME_TAG_BYTES))
    }

    /// An empty raw frame in a used buffer, whose content is dropped.
    pub fn from_vec(mut bytes: Vec<u8>) -> Self {
        bytes.clear();
        bytes.resize(FRAME_PREFIX_BYTES, 0);
        FrameBuffer { bytes }
    }

    /// The buffer of a sealed frame, if nobody else holds it any more.
    pub fn recycle(sealed: Bytes) -> Option<Self> {
        sealed.is_unique().then(|| Self::from_vec(Vec::from(sealed)))
    }

    /// The buffer, for another use.
    pub fn into_vec(self) -> Vec<u8> {
        self.bytes
    }

    /// The payload so far.
    pub fn payload(&self) -> &[u8] {
        &self.bytes[FRAME_PREFIX_BYTES..]
    }

    /// Length of the payload so far.
    pub fn payload_len(&self) -> usize {
        self.bytes.len() - FRAME_PREFIX_BYTES
    }

    /// Length that the frame will have when it is sealed.
    pub fn sealed_len(&self) -> usize {
        self.bytes.len() + FRAME_TAG_BYTES
    }

    /// Appends plain bytes to a raw frame.
    pub fn append(&mut self, plain: &[u8]) {
        self.bytes.extend_from_slice(plain);
        self.set_codec(Codec::Raw, self.payload_len() as u32);
    }

    /// The vector behind the frame, to append a payload in place. The first
    /// [`FRAME_PREFIX_BYTES`] are the prefix and must stay; [`FrameBuffer::set_codec`] must follow.
    pub fn payload_mut(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Says how the payload is encoded and how long it is when decoded.
    pub fn set_codec(&mut self, codec: Codec, plain_len: u32) {
        self.bytes[0] = codec as u8;
        self.bytes[1..FRAME_PREFIX_BYTES].copy_from_slice(&plain_len.to_le_bytes());
    }

    /// The codec in the prefix.
    pub fn codec(&self) -> Codec {
        if self.bytes[0] == Codec::Zstd as u8 { Codec::Zstd } else { Codec::Raw }
    }

    /// The plain length in the prefix.
    pub fn plain_len(&self) -> u32 {
        u32::from_le_bytes(self.bytes[1..FRAME_PREFIX_BYTES].try_into().expect("four bytes"))
    }

    /// Replaces the payload by `plain`, compressed; or raw, if compression does not save a 32nd.
    /// Returns the codec that was taken.
    ///
    /// # Panics
    /// If `plain` is longer than [`FRAME_PAYLOAD_BYTES_MAX`].
    pub fn compress_from(&mut self, zstd: &mut zstd::bulk::Compressor<'_>, plain: &[u8]) -> Codec {
        assert!(plain.len() <= FRAME_PAYLOAD_BYTES_MAX, "a frame's payload is bounded");
        let room = plain.len() - plain.len() / 32;
        self.bytes.clear();
        self.bytes.resize(FRAME_PREFIX_BYTES, 0);
        self.bytes.reserve(plain.len() + FRAME_TAG_BYTES);
        let mut tail = Tail { bytes: &mut self.bytes, room };
        let codec = match zstd.compress_to_buffer(plain, &mut tail) {
            Ok(_) => Codec::Zstd,
            // The only error that sound parameters allow is a destination that is too small.
            Err(_) => {
                self.bytes.truncate(FRAME_PREFIX_BYTES);
                self.bytes.extend_from_slice(plain);
                Codec::Raw
            }
        };
        self.set_codec(codec, plain.len() as u32);
        codec
    }

    /// Decodes the frame as a reader would, for the check before upload.
    pub fn decode(&self) -> Result<Vec<u8>, DecodeError> {
        decode_frame(self.bytes.clone())
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

// SAFETY: `as_mut_ptr` points at spare capacity of at least `room` bytes, which `compress_from`
// reserved, and `filled_until` makes exactly the bytes that zstd wrote part of the vector.
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
    fn compressible_bytes_are_compressed_and_others_stay_raw() {
        let text = b"all work and no play ".repeat(1000);
        let mut frame = FrameBuffer::with_capacity(text.len());
        assert_eq!(frame.compress_from(&mut compressor(), &text), Codec::Zstd);
        assert!(frame.payload_len() < text.len() / 10);
        assert_eq!(frame.plain_len() as usize, text.len());
        assert_eq!(frame.decode().unwrap(), text);

        let mut noise = vec![0u8; 10_000];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        assert_eq!(frame.compress_from(&mut compressor(), &noise), Codec::Raw);
        assert_eq!(frame.payload(), noise);
        assert_eq!(frame.decode().unwrap(), noise);
        assert_eq!(frame.compress_from(&mut compressor(), b""), Codec::Raw);
        assert_eq!(frame.decode().unwrap(), b"");
    }

    #[test]
    fn f27_every_cut_and_flip_of_a_frame_is_an_error_or_bounded() {
        let text = b"all work and no play ".repeat(20);
        let mut frame = FrameBuffer::with_capacity(0);
        frame.compress_from(&mut compressor(), &text);
        let bytes = frame.into_vec();
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

    #[test]
    fn a_buffer_is_used_again() {
        let mut frame = FrameBuffer::with_capacity(100);
        frame.append(b"abc");
        let sealed = Bytes::from(frame.into_vec());
        let other = sealed.clone();
        assert!(FrameBuffer::recycle(other).is_none());
        assert_eq!(FrameBuffer::recycle(sealed).unwrap().payload(), b"");
    }
}
