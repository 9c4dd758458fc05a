//! AES-256-GCM over the numbered frames of one object.
//!
//! The nonce is the frame number. A [`FrameSealer`] owns the counter: sealing consumes a number,
//! so the same number cannot be sealed twice under one key; a retry sends the same bytes again.
//! One key seals at most 2^32 frames of at most 4 MiB, far below the bounds of GCM.

use super::derive::Key;
use super::header::Aad;
use super::random_array;
use aws_lc_rs::aead::{AES_256_GCM, Aad as LcAad, LessSafeKey, Nonce, UnboundKey};
use std::fmt;
use zeroize::Zeroizing;

/// Bytes that sealing adds.
pub const TAG_BYTES: usize = 16;
/// Frame number reserved for the table of contents of a pack: the last frame of its key.
pub const TOC_FRAME: u32 = u32::MAX;

/// The key of one object. Drawn or derived for it alone.
pub struct FrameKey(pub(crate) Key);

impl FrameKey {
    /// A fresh random key.
    pub fn random() -> Self {
        Self(Zeroizing::new(random_array()))
    }

    fn schedule(&self) -> LessSafeKey {
        LessSafeKey::new(UnboundKey::new(&AES_256_GCM, self.0.as_slice()).expect("AES-256 takes 32 bytes"))
    }
}

impl fmt::Debug for FrameKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FrameKey(<redacted>)")
    }
}

/// The authentication of a frame failed: wrong key, wrong place or changed bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("authentication failed")]
pub struct SealBroken;

fn nonce(number: u32) -> Nonce {
    let mut bytes = [0u8; 12];
    bytes[..4].copy_from_slice(&number.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

/// Seals the frames of one object in place, numbering them from 0.
pub struct FrameSealer {
    key: LessSafeKey,
    aad: Aad,
    next: u32,
    #[cfg(test)]
    fingerprint: [u8; 32],
}

impl FrameSealer {
    /// Takes the key: no second sealer can number frames under it.
    pub fn new(key: FrameKey, aad: Aad) -> Self {
        Self {
            key: key.schedule(),
            aad,
            next: 0,
            #[cfg(test)]
            fingerprint: *blake3::hash(key.0.as_slice()).as_bytes(),
        }
    }

    /// The number that the next frame will have.
    pub fn next_number(&self) -> u32 {
        self.next
    }

    /// Seals `frame` in place as the next number. Returns that number and the tag, which the
    /// caller stores right behind the frame.
    ///
    /// # Panics
    /// If 2^32 - 1 frames were sealed: a bug of the caller, who is bound by far smaller limits.
    pub fn seal(&mut self, frame: &mut [u8]) -> (u32, [u8; TAG_BYTES]) {
        let number = self.next;
        assert!(number < TOC_FRAME, "frame numbers are used up");
        self.next += 1;
        (number, self.seal_as(number, false, frame))
    }

    /// Seals as the next number a frame whose first bytes are `head`, in place, and whose other bytes are `body`, which
    /// is left as it is: its sealed bytes and the tag fill `behind`. Returns that number.
    ///
    /// # Panics
    /// As [`FrameSealer::seal`]; and if `behind` is not [`TAG_BYTES`] longer than `body`.
    pub fn seal_apart(&mut self, head: &mut [u8], body: &[u8], behind: &mut [u8]) -> u32 {
        let number = self.next;
        assert!(number < TOC_FRAME, "frame numbers are used up");
        self.next += 1;
        #[cfg(test)]
        ledger::record(self.fingerprint, number);
        let aad = LcAad::from(self.aad.frame(number, false));
        let sealed = self.key.seal_in_place_scatter(nonce(number), aad, head, body, behind);
        sealed.expect("a frame is far below the limit of AES-GCM, and the room behind it fits");
        number
    }

    /// Seals the last frame of a pack, its table of contents, under [`TOC_FRAME`].
    pub fn seal_toc(self, toc: &mut [u8]) -> [u8; TAG_BYTES] {
        self.seal_as(TOC_FRAME, true, toc)
    }

    /// Seals the next frame as the last one of an object without a table of contents.
    pub fn seal_last(self, frame: &mut [u8]) -> (u32, [u8; TAG_BYTES]) {
        (self.next, self.seal_as(self.next, true, frame))
    }

    /// As [`FrameSealer::seal`], past the ledger: a test compares two ways to seal the same frame.
    #[cfg(test)]
    fn seal_unrecorded(&mut self, frame: &mut [u8]) -> (u32, [u8; TAG_BYTES]) {
        self.next += 1;
        (self.next - 1, self.seal_bytes(self.next - 1, false, frame))
    }

    fn seal_as(&self, number: u32, last: bool, frame: &mut [u8]) -> [u8; TAG_BYTES] {
        #[cfg(test)]
        ledger::record(self.fingerprint, number);
        self.seal_bytes(number, last, frame)
    }

    fn seal_bytes(&self, number: u32, last: bool, frame: &mut [u8]) -> [u8; TAG_BYTES] {
        let tag = self
            .key
            .seal_in_place_separate_tag(nonce(number), LcAad::from(self.aad.frame(number, last)), frame)
            .expect("a frame is far below the limit of AES-GCM");
        tag.as_ref().try_into().expect("the tag has 16 bytes")
    }
}

impl fmt::Debug for FrameSealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrameSealer").field("next", &self.next).finish_non_exhaustive()
    }
}

/// Opens the frames of one object.
pub struct FrameOpener {
    key: LessSafeKey,
    aad: Aad,
}

impl FrameOpener {
    /// An opener for an object's frames.
    pub fn new(key: &FrameKey, aad: Aad) -> Self {
        Self { key: key.schedule(), aad }
    }

    /// Opens `sealed` (ciphertext and tag) in place and returns its plain part.
    ///
    /// # Errors
    /// [`SealBroken`]; the buffer's content is then undefined.
    pub fn open<'a>(&self, number: u32, last: bool, sealed: &'a mut [u8]) -> Result<&'a mut [u8], SealBroken> {
        self.key.open_in_place(nonce(number), LcAad::from(self.aad.frame(number, last)), sealed).map_err(|_| SealBroken)
    }

    /// Opens the table of contents of a pack.
    ///
    /// # Errors
    /// [`SealBroken`].
    pub fn open_toc<'a>(&self, sealed: &'a mut [u8]) -> Result<&'a mut [u8], SealBroken> {
        self.open(TOC_FRAME, true, sealed)
    }
}

impl fmt::Debug for FrameOpener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FrameOpener(<redacted>)")
    }
}

/// Collects every (key, nonce) pair that this process seals with, in tests: a pair that comes
/// twice is the one mistake that AES-GCM does not forgive.
#[cfg(test)]
pub(crate) mod ledger {
    use parking_lot::Mutex;
    use std::collections::HashSet;

    /// BLAKE3 of the key, and the frame number.
    type Pair = ([u8; 32], u32);

    static PAIRS: Mutex<Option<HashSet<Pair>>> = Mutex::new(None);

    pub(crate) fn record(key: [u8; 32], number: u32) {
        let is_new = PAIRS.lock().get_or_insert_default().insert((key, number));
        assert!(is_new, "f16: frame number {number} was sealed twice under one key");
    }

    pub(crate) fn len() -> usize {
        PAIRS.lock().as_ref().map_or(0, HashSet::len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::{Header, ObjectKind};
    use crate::ids::ObjectId;

    fn aad(subject: &[u8]) -> Aad {
        Aad::new(&Header::new(ObjectKind::DataPack, 1), &ObjectId([1; 32]), subject)
    }

    fn key() -> FrameKey {
        FrameKey(Zeroizing::new([9; 32]))
    }

    fn random_key_pair() -> (FrameKey, FrameKey) {
        let bytes: [u8; 32] = random_array();
        (FrameKey(Zeroizing::new(bytes)), FrameKey(Zeroizing::new(bytes)))
    }

    #[test]
    fn a_frame_opens_only_at_its_own_place() {
        let (sealing_key, opening_key) = random_key_pair();
        let mut sealer = FrameSealer::new(sealing_key, aad(b"pack"));
        let seal = |sealer: &mut FrameSealer, text: &[u8]| {
            let mut frame = text.to_vec();
            let (number, tag) = sealer.seal(&mut frame);
            frame.extend_from_slice(&tag);
            (number, frame)
        };
        let (zero, first) = seal(&mut sealer, b"first");
        let (one, second) = seal(&mut sealer, b"second");
        assert_eq!((zero, one), (0, 1));

        let opener = FrameOpener::new(&opening_key, aad(b"pack"));
        assert_eq!(opener.open(0, false, &mut first.clone()).unwrap(), b"first");
        assert_eq!(opener.open(1, false, &mut second.clone()).unwrap(), b"second");
        assert_eq!(opener.open(1, false, &mut first.clone()), Err(SealBroken));
        assert_eq!(opener.open(0, true, &mut first.clone()), Err(SealBroken));
        let elsewhere = FrameOpener::new(&opening_key, aad(b"other"));
        assert_eq!(elsewhere.open(0, false, &mut first.clone()), Err(SealBroken));
        for bit in 0..first.len() * 8 {
            let mut changed = first.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(opener.open(0, false, &mut changed), Err(SealBroken), "bit {bit}");
        }
        for length in 0..first.len() {
            assert_eq!(opener.open(0, false, &mut first[..length].to_vec()), Err(SealBroken));
        }
    }

    #[test]
    fn a_frame_sealed_apart_is_the_frame_sealed_in_place() {
        for body_bytes in [0, 1, 15, 16, 1000, 100_000] {
            let (one, other) = random_key_pair();
            let body: Vec<u8> = (0..body_bytes).map(|at| (at * 7) as u8).collect();
            let mut in_place = [&b"head:"[..], &body].concat();
            let (_, tag) = FrameSealer::new(one, aad(b"pack")).seal_unrecorded(&mut in_place);
            in_place.extend_from_slice(&tag);
            let (mut head, mut behind) = (*b"head:", vec![0; body_bytes + TAG_BYTES]);
            assert_eq!(FrameSealer::new(other, aad(b"pack")).seal_apart(&mut head, &body, &mut behind), 0);
            assert_eq!([&head[..], &behind].concat(), in_place);
        }
    }

    #[test]
    fn f16_the_ledger_notices_a_number_that_is_used_twice() {
        let fingerprint = random_array();
        ledger::record(fingerprint, 3);
        assert!(std::panic::catch_unwind(|| ledger::record(fingerprint, 3)).is_err());
    }

    #[test]
    fn secrets_do_not_print() {
        assert_eq!(format!("{:?}", key()), "FrameKey(<redacted>)");
    }
}
