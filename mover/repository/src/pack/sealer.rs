//! Seals the frames of one pack in order. FORMAT.md "Packs".
//!
//! The hot path: one pass of AES-256-GCM in place and one of BLAKE3 over the sealed bytes, no copy
//! of a frame. The number of a frame is its nonce and is consumed with the buffer; a retry of an
//! upload sends the same bytes. Belongs to one shard; does no I/O.

use bytes::Bytes;

use crate::crypto::{FrameKey, FrameSealer, KEY_BLOCK_BYTES, KeyBlock, Secrets, random_array};
use crate::ids::{ChunkId, LogNumber, PackId};
use crate::limits::{FRAME_BYTES_MAX, PACK_BYTES_MAX, PACK_FRAMES_MAX, TOC_BYTES_MAX};
use crate::pack::contents::{CHUNK_RECORD_BYTES, FRAME_RECORD_BYTES, FrameInfo, PackContents, encode_contents};
use crate::pack::frame::{Codec, CompressedFrame, FRAME_PREFIX_BYTES, FRAME_TAG_BYTES, encode_prefix, raw_frame_bytes};
use crate::pack::header::{PACK_HEADER_BYTES, PackClass, PackHeader, TRAILER_BYTES, encode_trailer, pack_name};
use crate::repository::Repository;

/// One open pack.
pub struct PackSealer {
    writer: LogNumber,
    header: PackHeader,
    header_bytes: Bytes,
    /// Seals the frames, and the table of a structure pack.
    frames_sealer: FrameSealer,
    /// Seals the table of a data pack, whose frames have another key.
    toc_sealer: Option<FrameSealer>,
    frames: Vec<FrameInfo>,
    bytes: u64,
    toc_bytes: usize,
}

impl PackSealer {
    /// Draws the id and the key of a new pack.
    ///
    /// # Panics
    /// If the system has no randomness, or the key slot holds an unusable read key.
    pub fn open(repository: &Repository, writer: LogNumber, class: PackClass) -> PackSealer {
        let key = (class == PackClass::Data).then(FrameKey::random);
        Self::with_parts(repository.secrets(), writer, class, PackId(random_array()), key)
    }

    /// A pack of a given id and, for class Data, key. Both must be used only once: this is for
    /// [`PackSealer::open`] and for test vectors.
    pub(crate) fn with_parts(
        secrets: &Secrets,
        writer: LogNumber,
        class: PackClass,
        id: PackId,
        data_key: Option<FrameKey>,
    ) -> PackSealer {
        let generation = secrets.structure_generation();
        let key_block = match &data_key {
            Some(key) => secrets.wrap_pack_key(&id, key).expect("the read public key was checked when it was read"),
            None => KeyBlock([0; KEY_BLOCK_BYTES]),
        };
        let header = PackHeader { class, generation, id, key_block };
        let aad = header.aad(&secrets.repository_id());
        let toc_key = secrets
            .structure_key(generation, class.object_kind(), id.as_bytes(), "a new pack")
            .expect("the current generation is known");
        let (frames_sealer, toc_sealer) = match data_key {
            Some(key) => (FrameSealer::new(key, aad.clone()), Some(FrameSealer::new(toc_key, aad))),
            None => (FrameSealer::new(toc_key, aad), None),
        };
        PackSealer {
            writer,
            header_bytes: Bytes::from(header.encode()),
            header,
            frames_sealer,
            toc_sealer,
            frames: Vec::new(),
            bytes: PACK_HEADER_BYTES as u64,
            toc_bytes: 8 + 4 + FRAME_TAG_BYTES,
        }
    }

    /// Id of the pack.
    pub fn id(&self) -> PackId {
        self.header.id
    }

    /// Class of the pack.
    pub fn class(&self) -> PackClass {
        self.header.class
    }

    /// Name of the pack's object.
    pub fn object_name(&self) -> String {
        pack_name(self.writer, &self.header.id)
    }

    /// The header: the first bytes of the object.
    pub fn header(&self) -> Bytes {
        self.header_bytes.clone()
    }

    /// Length of the object so far, header included, table and trailer not.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Length that the sealed table of contents would have now.
    pub fn toc_bytes(&self) -> usize {
        self.toc_bytes
    }

    /// Frames sealed so far.
    pub fn frames(&self) -> u32 {
        self.frames.len() as u32
    }

    /// True if a frame of `frame_bytes` sealed bytes, of few chunks, still fits the limits.
    pub fn has_room(&self, frame_bytes: usize) -> bool {
        // A frame of the smallest chunks has at most this many.
        let chunks = frame_bytes.max(FRAME_BYTES_MAX) / crate::limits::CHUNK_BYTES_MIN as usize;
        let toc_bytes = self.toc_bytes + FRAME_RECORD_BYTES + chunks * CHUNK_RECORD_BYTES;
        self.frames_sealer.next_number() < PACK_FRAMES_MAX
            && toc_bytes <= TOC_BYTES_MAX
            && self.bytes + (frame_bytes + toc_bytes + TRAILER_BYTES) as u64 <= PACK_BYTES_MAX
    }

    /// Seals a compressed frame in place and appends it to the pack. `chunks` are its chunks in the order of
    /// their plain bytes, with their lengths.
    ///
    /// # Panics
    /// If a limit is broken, or the chunks do not add up to the frame's plain length.
    pub fn seal(&mut self, frame: CompressedFrame, chunks: &[(ChunkId, u32)]) -> Bytes {
        self.check_frame(frame.plain_bytes(), frame.sealed_bytes(), chunks);
        let mut sealed = frame.into_plaintext();
        let (number, tag) = self.frames_sealer.seal(&mut sealed);
        sealed.extend_from_slice(&tag);
        self.append(number, sealed, chunks)
    }

    /// Seals plain bytes as a raw frame and appends it to the pack; they are read where they lie.
    ///
    /// # Panics
    /// As [`PackSealer::seal`].
    pub fn seal_raw(&mut self, plain: &[u8], chunks: &[(ChunkId, u32)]) -> Bytes {
        let plain_bytes = u32::try_from(plain.len()).expect("a frame is shorter than 4 GiB");
        let mut sealed = vec![0; raw_frame_bytes(plain.len())];
        self.check_frame(plain_bytes, sealed.len(), chunks);
        let (prefix, behind) = sealed.split_at_mut(FRAME_PREFIX_BYTES);
        prefix.copy_from_slice(&encode_prefix(Codec::Raw, plain_bytes));
        let number = self.frames_sealer.seal_apart(prefix, plain, behind);
        self.append(number, sealed, chunks)
    }

    fn check_frame(&self, plain_bytes: u32, sealed_bytes: usize, chunks: &[(ChunkId, u32)]) {
        let chunk_bytes: u64 = chunks.iter().map(|(_, bytes)| u64::from(*bytes)).sum();
        assert_eq!(chunk_bytes, u64::from(plain_bytes), "chunks fill their frame");
        assert!(sealed_bytes <= FRAME_BYTES_MAX, "a frame is at most FRAME_BYTES_MAX long");
        assert!(self.frames_sealer.next_number() < PACK_FRAMES_MAX, "f17: a pack has at most PACK_FRAMES_MAX frames");
    }

    fn append(&mut self, number: u32, sealed: Vec<u8>, chunks: &[(ChunkId, u32)]) -> Bytes {
        self.frames.push(FrameInfo {
            number,
            offset: self.bytes,
            sealed_bytes: sealed.len() as u32,
            blake3: *blake3::hash(&sealed).as_bytes(),
            chunks: chunks.to_vec(),
        });
        self.bytes += sealed.len() as u64;
        self.toc_bytes += FRAME_RECORD_BYTES + chunks.len() * CHUNK_RECORD_BYTES;
        assert!(self.toc_bytes <= TOC_BYTES_MAX, "a table of contents is at most TOC_BYTES_MAX long");
        assert!(
            self.bytes + (self.toc_bytes + TRAILER_BYTES) as u64 <= PACK_BYTES_MAX,
            "a pack is at most PACK_BYTES_MAX long"
        );
        Bytes::from(sealed)
    }

    /// Ends the pack: the sealed table and the trailer are the last bytes of the object.
    pub fn finish(self) -> (Bytes, PackContents) {
        let mut tail = encode_contents(self.writer, &self.frames);
        let tag = self.toc_sealer.unwrap_or(self.frames_sealer).seal_toc(&mut tail);
        tail.extend_from_slice(&tag);
        assert_eq!(tail.len(), self.toc_bytes, "the table has the length that was accounted");
        let trailer = encode_trailer(tail.len());
        tail.extend_from_slice(&trailer);
        let contents = PackContents {
            id: self.header.id,
            writer: self.writer,
            class: self.header.class,
            generation: self.header.generation,
            key_block: self.header.key_block,
            bytes: self.bytes + tail.len() as u64,
            frames: self.frames,
        };
        (Bytes::from(tail), contents)
    }
}
