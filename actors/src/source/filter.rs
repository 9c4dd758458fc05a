//! What the user wants left out of a fileset.
//!
//! Patterns have the meaning of gitignore: the last rule that matches decides, a pattern with a slash inside is
//! anchored at the fileset's root, a trailing slash means directories alone, and nothing below an excluded
//! directory can be included again. An include is an exclude with `!` before it. Patterns are UTF-8; names are
//! any bytes.
//!
//! A directory that carries the cache tag (<https://bford.info/cachedir/>) or a file of a given name keeps itself
//! and that file, and loses the rest. The root of a fileset was named by the user and is never left out.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use ignore::gitignore::{Gitignore, GitignoreBuilder};

use super::{FileKind, Stat};

/// Name of the file that tags a cache directory.
pub(crate) const CACHE_TAG_NAME: &[u8] = b"CACHEDIR.TAG";
/// How such a file begins.
pub(crate) const CACHE_TAG_SIGNATURE: &[u8] = b"Signature: 8a477f597d28d172789f06886806bc55";

/// One rule, in the order of the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FilterRule {
    /// Leave out what matches.
    Exclude(String),
    /// Keep what matches though an earlier rule left it out.
    Include(String),
    /// Rules from a file, one a line, as in `.gitignore`.
    ExcludeFile(PathBuf),
}

/// What is to be left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FilterOptions {
    /// Patterns; the last that matches decides.
    pub rules: Vec<FilterRule>,
    /// Leave out what lies in directories that carry a cache tag.
    pub exclude_caches: bool,
    /// Leave out what lies in directories that hold a file of one of these names.
    pub exclude_if_present: Vec<Vec<u8>>,
    /// Do not enter other file systems; the directory they are mounted on is kept, empty.
    pub one_file_system: bool,
    /// Leave out regular files of more bytes.
    pub bytes_max: Option<u64>,
    /// Leave out regular files of fewer bytes.
    pub bytes_min: Option<u64>,
    /// Report the path of everything that is left out, not only how much it was.
    pub name_excluded: bool,
}

/// A pattern that is none, or a file of patterns that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("exclude rule {rule:?}: {cause}")]
pub struct FilterError {
    /// The pattern or the file.
    pub rule: String,
    /// What is wrong with it.
    pub cause: String,
}

/// [`FilterOptions`], compiled.
#[derive(Debug)]
pub(crate) struct Filter {
    patterns: Gitignore,
    pub(crate) options: FilterOptions,
}

impl Filter {
    pub(crate) fn new(options: FilterOptions) -> Result<Self, FilterError> {
        let mut builder = GitignoreBuilder::new("");
        for rule in &options.rules {
            add_rule(&mut builder, rule)?;
        }
        let patterns = builder
            .build()
            .map_err(|error| FilterError { rule: "all together".to_owned(), cause: error.to_string() })?;
        Ok(Self { patterns, options })
    }

    /// True if an entry at `path` inside the fileset is left out.
    pub(crate) fn leaves_out(&self, path: &[u8], stat: &Stat) -> bool {
        if stat.kind == FileKind::File {
            let too_large = self.options.bytes_max.is_some_and(|bytes| stat.size > bytes);
            let too_small = self.options.bytes_min.is_some_and(|bytes| stat.size < bytes);
            if too_large || too_small {
                return true;
            }
        }
        let is_directory = stat.kind == FileKind::Directory;
        self.has_patterns() && self.patterns.matched(Path::new(OsStr::from_bytes(path)), is_directory).is_ignore()
    }

    /// False if no path needs to be looked at.
    pub(crate) fn has_patterns(&self) -> bool {
        !self.patterns.is_empty()
    }

    /// True if the presence of `name` may empty the directory that holds it.
    pub(crate) fn is_tag(&self, name: &[u8]) -> bool {
        (self.options.exclude_caches && name == CACHE_TAG_NAME)
            || self.options.exclude_if_present.iter().any(|tag| tag == name)
    }

    /// True if `name` empties its directory whatever it holds.
    pub(crate) fn is_presence_tag(&self, name: &[u8]) -> bool {
        self.options.exclude_if_present.iter().any(|tag| tag == name)
    }
}

fn add_rule(builder: &mut GitignoreBuilder, rule: &FilterRule) -> Result<(), FilterError> {
    let fail = |rule: String, cause: String| FilterError { rule, cause };
    match rule {
        FilterRule::Exclude(pattern) => add_line(builder, &literal_hash(pattern), pattern),
        FilterRule::Include(pattern) => add_line(builder, &format!("!{pattern}"), pattern),
        FilterRule::ExcludeFile(path) => {
            let shown = path.display().to_string();
            let text = std::fs::read_to_string(path).map_err(|error| fail(shown.clone(), error.to_string()))?;
            text.lines().try_for_each(|line| add_line(builder, line, &format!("{shown}: {line}")))
        }
    }
}

fn add_line(builder: &mut GitignoreBuilder, line: &str, shown: &str) -> Result<(), FilterError> {
    match builder.add_line(None, line) {
        Ok(_) => Ok(()),
        Err(error) => Err(FilterError { rule: shown.to_owned(), cause: error.to_string() }),
    }
}

/// A `#` begins a comment in a file; on the command line it is meant.
fn literal_hash(pattern: &str) -> String {
    if pattern.starts_with('#') { format!("\\{pattern}") } else { pattern.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mover_repository::ids::UnixNanos;

    fn stat(kind: FileKind, size: u64) -> Stat {
        Stat {
            kind,
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: UnixNanos(0),
            ctime: UnixNanos(0),
            inode: 1,
            device: 1,
            links: 1,
            size,
            blocks_bytes: size,
            rdev: (0, 0),
            birth: None,
        }
    }

    #[test]
    fn the_last_rule_that_matches_decides() {
        let rules = vec![
            FilterRule::Exclude("*.o".into()),
            FilterRule::Exclude("/build".into()),
            FilterRule::Exclude("tmp/".into()),
            FilterRule::Include("keep.o".into()),
            FilterRule::Exclude("#notes#".into()),
        ];
        let filter = Filter::new(FilterOptions { rules, ..FilterOptions::default() }).unwrap();
        let file = stat(FileKind::File, 1);
        let directory = stat(FileKind::Directory, 1);
        assert!(filter.leaves_out(b"a/b.o", &file));
        assert!(!filter.leaves_out(b"a/keep.o", &file));
        assert!(filter.leaves_out(b"build", &directory));
        assert!(!filter.leaves_out(b"a/build", &directory));
        assert!(filter.leaves_out(b"a/tmp", &directory));
        assert!(!filter.leaves_out(b"a/tmp", &file));
        assert!(filter.leaves_out(b"#notes#", &file));
        assert!(filter.leaves_out(b"\xff\xfe/x.o", &file));
    }

    #[test]
    fn sizes_concern_files_alone() {
        let options = FilterOptions { bytes_max: Some(10), bytes_min: Some(2), ..FilterOptions::default() };
        let filter = Filter::new(options).unwrap();
        assert!(filter.leaves_out(b"a", &stat(FileKind::File, 11)));
        assert!(filter.leaves_out(b"a", &stat(FileKind::File, 1)));
        assert!(!filter.leaves_out(b"a", &stat(FileKind::File, 10)));
        assert!(!filter.leaves_out(b"a", &stat(FileKind::Directory, 4096)));
    }

    #[test]
    fn a_bad_pattern_and_a_missing_file_are_told() {
        let bad = FilterOptions { rules: vec![FilterRule::Exclude("[z-a]".into())], ..FilterOptions::default() };
        assert!(Filter::new(bad).unwrap_err().to_string().contains("[z-a]"));
        let file = FilterRule::ExcludeFile("/nonexistent/rules".into());
        assert!(Filter::new(FilterOptions { rules: vec![file], ..FilterOptions::default() }).is_err());
    }
}
