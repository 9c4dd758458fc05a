//! A sample of the data in memory, cut and framed as the repository does it: chunks by content, small chunks together
//! in frames of 256 KiB, larger ones alone.
//!
//! At most [`SAMPLE_BYTES_MAX`] are held; files are taken evenly over the whole tree, so that a large tree is
//! represented by all of its parts.

use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use crate::inventory::{Entry, Inventory};
use crate::{Result, during};

/// Bytes of data that are held for the stages that need no file system.
pub const SAMPLE_BYTES_MAX: u64 = 384 << 20;
/// Largest part of one file in the sample, so that one huge file is sampled in several places.
const PART_BYTES_MAX: u64 = 32 << 20;

/// Contents of files, one after the other.
pub struct Sample {
    /// All bytes.
    pub bytes: Vec<u8>,
    /// Where each file (or part of one) lies in `bytes`.
    pub files: Vec<Range<usize>>,
}

impl Sample {
    /// Reads a sample of the tree.
    pub fn of(inventory: &Inventory) -> Result<Sample> {
        let total = inventory.data_bytes().max(1);
        let share = (SAMPLE_BYTES_MAX as f64 / total as f64).min(1.0);
        let mut sample = Sample { bytes: Vec::new(), files: Vec::new() };
        let mut due = 0.0;
        for file in &inventory.files {
            due += file.data_bytes as f64 * share;
            let wanted = (due as u64).saturating_sub(sample.bytes.len() as u64);
            if wanted >= file.data_bytes.min(PART_BYTES_MAX) {
                sample.take(file, wanted)?;
            }
        }
        if sample.bytes.is_empty() {
            sample.take(&inventory.files[0], SAMPLE_BYTES_MAX)?;
        }
        Ok(sample)
    }

    fn take(&mut self, file: &Entry, wanted: u64) -> Result<()> {
        let open = during(format!("open {}", file.path.display()), File::open(&file.path))?;
        if file.bytes <= PART_BYTES_MAX && file.data_bytes == file.bytes {
            let start = self.bytes.len();
            during(format!("read {}", file.path.display()), (&open).take(PART_BYTES_MAX).read_to_end(&mut self.bytes))?;
            self.files.push(start..self.bytes.len());
            return Ok(());
        }
        // Parts spread over the file, as many as are due; holes in them are left out.
        let parts = (wanted / PART_BYTES_MAX).max(1);
        for part in 0..parts {
            let offset = (file.bytes / parts * part) & !0xfff;
            self.take_part(&open, offset, file)?;
        }
        Ok(())
    }

    fn take_part(&mut self, open: &File, offset: u64, file: &Entry) -> Result<()> {
        let start = self.bytes.len();
        let mut block = vec![0; 64 << 10];
        let mut position = offset;
        while position < (offset + 2 * PART_BYTES_MAX).min(file.bytes)
            && self.bytes.len() - start < PART_BYTES_MAX as usize
        {
            let count = during(format!("read {}", file.path.display()), open.read_at(&mut block, position))?;
            if count == 0 {
                break;
            }
            if block[..count].iter().any(|byte| *byte != 0) {
                self.bytes.extend_from_slice(&block[..count]);
            }
            position += count as u64;
        }
        self.files.push(start..self.bytes.len());
        Ok(())
    }
}

/// Groups chunks into frames: small ones together up to 256 KiB of plain bytes, a larger one alone.
pub fn frames(chunks: &[Range<usize>]) -> Vec<Range<usize>> {
    let mut frames: Vec<Range<usize>> = Vec::new();
    for chunk in chunks {
        match frames.last_mut() {
            // Files lie one after the other in the sample, so joined chunks are one range.
            Some(last) if last.end == chunk.start && last.len() + chunk.len() <= crate::stages::FRAME_BYTES => {
                last.end = chunk.end;
            }
            _ => frames.push(chunk.clone()),
        }
    }
    frames
}
