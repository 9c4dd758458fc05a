//! Packs: immutable objects of sealed frames, a sealed table of contents and a trailer.
//! FORMAT.md "Packs".
//!
//! Limits: [`crate::limits`] bounds frames, packs and tables; writers assert, readers refuse.
//! Must never seal two frames under one number, nor let a reader trust a length that is not
//! authenticated. A sealer belongs to one shard; openers may be shared. Only [`read_contents`]
//! and `FrameRuns` do I/O, through the repository's backend.

mod contents;
mod frame;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod header;
mod opener;
mod runs;
mod sealer;

pub use contents::{FrameInfo, PackContents};
pub use frame::{
    Codec, CompressedFrame, FRAME_PAYLOAD_BYTES_MAX, FRAME_PREFIX_BYTES, FRAME_TAG_BYTES, raw_frame_bytes,
};
pub use header::{PACK_HEADER_BYTES, PackClass, PackInfo, TRAILER_BYTES, pack_name, parse_pack_name};
pub(crate) use opener::{Begun, read_contents_and_on};
pub use opener::{PackOpener, open_contents, read_contents, read_contents_of};
pub(crate) use runs::{FrameRuns, Framed};
pub use sealer::PackSealer;

#[cfg(test)]
mod tests;
