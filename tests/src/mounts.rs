//! Small file systems to fill up or to make read-only: ext4 on a loop device, or tmpfs. Root only.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::skip::succeeds;

/// A mounted file system; unmounted and gone when dropped.
pub struct Mount {
    holder: tempfile::TempDir,
    place: PathBuf,
}

impl Mount {
    /// An ext4 file system of `bytes` in an image file, or the reason why there is none.
    pub fn ext4(bytes: u64) -> Result<Mount, String> {
        let mount = Mount::unmounted();
        let image = mount.holder.path().join("image");
        let file = std::fs::File::create(&image).map_err(|error| error.to_string())?;
        file.set_len(bytes).map_err(|error| error.to_string())?;
        let image_text = image.to_str().expect("a plain path").to_owned();
        if !succeeds("mkfs.ext4", &["-q", "-F", "-m", "0", &image_text]) {
            return Err("mkfs.ext4 failed".to_owned());
        }
        mount.attach(&["-o", "loop", &image_text])
    }

    /// A tmpfs of at most `bytes`.
    pub fn tmpfs(bytes: u64) -> Result<Mount, String> {
        Mount::unmounted().attach(&["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs"])
    }

    fn unmounted() -> Mount {
        let holder = crate::mover::scratch();
        let place = holder.path().join("mount");
        std::fs::create_dir(&place).expect("create the mount point");
        Mount { holder, place }
    }

    fn attach(self, arguments: &[&str]) -> Result<Mount, String> {
        let output =
            Command::new("mount").args(arguments).arg(&self.place).output().map_err(|error| error.to_string())?;
        if output.status.success() { Ok(self) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
    }

    /// Where it is mounted.
    pub fn place(&self) -> &Path {
        &self.place
    }

    /// Makes it read-only, or writable again.
    pub fn read_only(&self, yes: bool) {
        let option = if yes { "remount,ro" } else { "remount,rw" };
        assert!(succeeds("mount", &["-o", option, self.place.to_str().expect("a plain path")]), "remount");
    }

    /// Takes up all room but `left_bytes` with one file, which is given back.
    pub fn fill(&self, left_bytes: u64) -> PathBuf {
        let filler = self.place.join("filler");
        let file = std::fs::File::create(&filler).expect("create the filler");
        let mut taken = 0;
        // Ever smaller pieces, for the file system needs room of its own to note what is taken.
        for piece in [1 << 20, 64 << 10, 4 << 10] {
            while rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), taken, piece).is_ok() {
                taken += piece;
            }
        }
        file.set_len(taken.saturating_sub(left_bytes)).expect("leave some room");
        filler
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        succeeds("umount", &["-l", self.place.to_str().expect("a plain path")]);
    }
}
