//! Which repositories this agent need not fetch the index of: those whose cache on its disk is warm, as far as it knows.
//! A hint for placement, nothing else: a wrong one costs seconds.

use std::path::PathBuf;

use mover_repository::backend::remote::RemotePlace;

/// Repositories that are told; those used longest ago are dropped.
const KEPT_MAX: usize = 32;

/// See the module.
pub struct Caches {
    /// Where all are.
    directory: PathBuf,
    /// The latest last.
    used: Vec<String>,
}

impl Caches {
    /// None is known to be warm.
    pub fn new(directory: PathBuf) -> Caches {
        Caches { directory, used: Vec::new() }
    }

    /// A job has used the repository at `url`. What is on a disk near by is not cached.
    pub fn used(&mut self, repository: &str, url: &str) {
        if !RemotePlace::is_remote(url) {
            return;
        }
        self.used.retain(|known| known != repository);
        self.used.push(repository.to_owned());
        if self.used.len() > KEPT_MAX {
            self.used.remove(0);
        }
    }

    /// Those that are warm; none when somebody has removed the caches.
    pub fn warm(&mut self) -> Vec<String> {
        let is_there = std::fs::read_dir(&self.directory).is_ok_and(|mut entries| entries.next().is_some());
        if !is_there {
            self.used.clear();
        }
        self.used.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s151_warm_caches_are_bounded_and_forgotten_with_their_directory() {
        let scratch = tempfile::tempdir().expect("a directory");
        let directory = scratch.path().join("mover");
        let mut caches = Caches::new(directory.clone());
        std::fs::create_dir_all(directory.join("entry")).expect("make");
        caches.used("near", "/srv/repository");
        assert!(caches.warm().is_empty(), "a local repository has no cache");
        for number in 0..=KEPT_MAX {
            caches.used(&format!("r{number}"), "s3://bucket/prefix");
        }
        caches.used("r1", "s3://bucket/prefix");
        let warm = caches.warm();
        assert_eq!((warm.len(), warm[0].as_str(), warm[KEPT_MAX - 1].as_str()), (KEPT_MAX, "r2", "r1"));
        std::fs::remove_dir_all(&directory).expect("remove");
        assert!(caches.warm().is_empty());
    }
}
