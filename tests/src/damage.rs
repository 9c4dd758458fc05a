//! Hurts objects of a repository: flips a bit, cuts short, grows, deletes; and puts everything back.

use std::path::{Path, PathBuf};

/// One way to hurt an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// One bit of the byte at this offset is flipped.
    Flip(u64),
    /// Only the first bytes stay.
    CutTo(u64),
    /// So many zero bytes follow.
    Grow(u64),
    /// The object is gone.
    Delete,
}

/// An object that was hurt; healed when dropped.
pub struct Hurt {
    path: PathBuf,
    before: Vec<u8>,
}

impl Hurt {
    /// Hurts the object at `path`.
    pub fn inflict(path: &Path, damage: Damage) -> Hurt {
        let before = std::fs::read(path).expect("read the object");
        let mut bytes = before.clone();
        match damage {
            Damage::Flip(offset) => bytes[offset as usize] ^= 1 << (offset % 8),
            Damage::CutTo(length) => bytes.truncate(length as usize),
            Damage::Grow(more) => bytes.resize(bytes.len() + more as usize, 0),
            Damage::Delete => {}
        }
        std::fs::remove_file(path).expect("remove the object");
        if damage != Damage::Delete {
            std::fs::write(path, bytes).expect("write the hurt object");
        }
        Hurt { path: path.to_owned(), before }
    }
}

impl Drop for Hurt {
    fn drop(&mut self) {
        std::fs::write(&self.path, &self.before).expect("heal the object");
    }
}

/// Damages worth trying on an object of `bytes`: flips at the borders and in `samples` places between, cuts, growth,
/// deletion.
pub fn damages(bytes: u64, samples: u64) -> Vec<Damage> {
    let mut offsets: Vec<u64> =
        [0, 1, 4, 8, 16, 32, 64, bytes / 2, bytes.saturating_sub(17), bytes.saturating_sub(1)].to_vec();
    offsets.extend((0..samples).map(|sample| sample * bytes / samples.max(1)));
    offsets.retain(|offset| *offset < bytes);
    offsets.sort_unstable();
    offsets.dedup();
    let mut all: Vec<Damage> = offsets.into_iter().map(Damage::Flip).collect();
    for length in [0, 1, bytes / 2, bytes.saturating_sub(1)] {
        if length < bytes && !all.contains(&Damage::CutTo(length)) {
            all.push(Damage::CutTo(length));
        }
    }
    all.extend([Damage::Grow(1), Damage::Grow(4096), Damage::Delete]);
    all
}
