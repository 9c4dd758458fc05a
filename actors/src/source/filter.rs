//! What the user wants left out of a fileset.
//!
//! Patterns have the meaning of gitignore: the last rule that matches decides, a pattern with a slash inside is
//! anchored at the fileset's root, a trailing slash means directories alone, and nothing below an excluded
//! directory can be included again. An include is an exclude with `!` before it. Patterns are UTF-8; names are
//! any bytes. The crate that matches them knows alternatives in braces and no `[:alpha:]`; [`as_git_means`] puts
//! that right.
//!
//! A directory that carries the cache tag (<https://bford.info/cachedir/>) or a file of a given name keeps itself
//! and that file, and loses the rest. The root of a fileset was named by the user and is never left out.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use ignore::Match;
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

    /// The rule by which an entry at `path` inside the fileset is left out.
    pub(crate) fn rule_against(&self, path: &[u8], stat: &Stat) -> Option<&str> {
        if stat.kind == FileKind::File {
            if self.options.bytes_max.is_some_and(|bytes| stat.size > bytes) {
                return Some("max-size");
            }
            if self.options.bytes_min.is_some_and(|bytes| stat.size < bytes) {
                return Some("min-size");
            }
        }
        if !self.has_patterns() {
            return None;
        }
        let is_directory = stat.kind == FileKind::Directory;
        match self.patterns.matched(Path::new(OsStr::from_bytes(path)), is_directory) {
            Match::Ignore(glob) => Some(glob.original()),
            Match::None | Match::Whitelist(_) => None,
        }
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
    let Some(line) = as_git_means(line) else { return Ok(()) };
    match builder.add_line(None, &line) {
        Ok(_) => Ok(()),
        Err(error) => Err(FilterError { rule: shown.to_owned(), cause: error.to_string() }),
    }
}

/// A `#` begins a comment in a file; on the command line it is meant.
fn literal_hash(pattern: &str) -> String {
    if pattern.starts_with('#') { format!("\\{pattern}") } else { pattern.to_owned() }
}

/// The pattern in the dialect of the crate that matches it: braces are literal, POSIX classes are spelled out, a
/// backslash in a class escapes. `None` if git matches nothing with it: it ends in a lone
/// backslash, or in brackets that are not closed.
fn as_git_means(pattern: &str) -> Option<String> {
    let mut translated = String::with_capacity(pattern.len());
    let mut rest = pattern.chars();
    while let Some(c) = rest.next() {
        match c {
            '\\' => translated.extend([c, rest.next()?]),
            '{' | '}' => translated.extend(['\\', c]),
            '[' => {
                let (class, after) = Class::parse(rest.as_str())?;
                class.write(&mut translated);
                rest = after.chars();
            }
            c => translated.push(c),
        }
    }
    Some(translated)
}

/// A bracket expression.
struct Class {
    negated: bool,
    ranges: Vec<(char, char)>,
}

impl Class {
    /// Reads what follows `[`; gives what follows the `]` too. `None` if it is not closed.
    fn parse(text: &str) -> Option<(Self, &str)> {
        let negated = text.starts_with(['!', '^']);
        let mut rest = if negated { &text[1..] } else { text };
        let mut ranges: Vec<(char, char)> = Vec::new();
        let mut is_first = true;
        loop {
            if let Some(after) = rest.strip_prefix(']').filter(|_| !is_first) {
                return Some((Class { negated, ranges }, after));
            }
            is_first = false;
            if let Some((name, after)) = rest.strip_prefix("[:").and_then(|inner| inner.split_once(":]"))
                && let Some(named) = posix_class(name)
            {
                ranges.extend(named);
                rest = after;
                continue;
            }
            let (from, after) = one_of_class(rest)?;
            rest = after;
            let mut until = from;
            if let Some(end) = rest.strip_prefix('-').filter(|end| !end.starts_with(']')) {
                (until, rest) = one_of_class(end)?;
            }
            ranges.push((from, until));
        }
    }

    /// Writes it without escapes, which the crate does not know in brackets: `]` stands first, `-` last, what would
    /// negate not at the front; and if there is nothing else to put there, as alternatives.
    fn write(&self, into: &mut String) {
        const SPECIAL: [char; 4] = [']', '!', '^', '-'];
        let has = |c: char| self.ranges.iter().any(|(from, until)| (*from..=*until).contains(&c));
        let mut plain = String::new();
        for (from, until) in &self.ranges {
            // Borders must be no special characters; these are written by themselves.
            let mut inner = (*from..=*until).filter(|c| !SPECIAL.contains(c));
            if from > until {
                plain.extend([*from, '-', *until]);
            } else if let Some(first) = inner.next() {
                plain.extend([first, '-', inner.next_back().unwrap_or(first)]);
            }
        }
        if plain.is_empty() && !self.negated {
            let specials: Vec<String> = SPECIAL.into_iter().filter(|c| has(*c)).map(|c| format!("\\{c}")).collect();
            into.push_str(&format!("{{{}}}", specials.join(",")));
            return;
        }
        into.push_str(if self.negated { "[!" } else { "[" });
        if has(']') {
            into.push(']');
        }
        into.push_str(&plain);
        into.extend(['!', '^', '-'].into_iter().filter(|c| has(*c)));
        into.push(']');
    }
}

/// One character of a class, which a backslash makes literal, and what follows.
fn one_of_class(text: &str) -> Option<(char, &str)> {
    let mut chars = text.chars();
    match chars.next()? {
        '\\' => chars.next().map(|c| (c, chars.as_str())),
        c => Some((c, chars.as_str())),
    }
}

/// The ASCII characters of `[:name:]`.
fn posix_class(name: &str) -> Option<Vec<(char, char)>> {
    let (lower, upper, digit) = (('a', 'z'), ('A', 'Z'), ('0', '9'));
    Some(match name {
        "alpha" => vec![lower, upper],
        "lower" => vec![lower],
        "upper" => vec![upper],
        "digit" => vec![digit],
        "alnum" => vec![lower, upper, digit],
        "xdigit" => vec![digit, ('a', 'f'), ('A', 'F')],
        "blank" => vec![(' ', ' '), ('\t', '\t')],
        "space" => vec![(' ', ' '), ('\t', '\r')],
        "cntrl" => vec![('\0', '\x1f'), ('\x7f', '\x7f')],
        "punct" => vec![('!', '/'), (':', '@'), ('[', '`'), ('{', '~')],
        "graph" => vec![('!', '~')],
        "print" => vec![(' ', '~')],
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Filter {
        fn leaves_out(&self, path: &[u8], stat: &Stat) -> bool {
            self.rule_against(path, stat).is_some()
        }
    }
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

    /// `{a,b}` left out `a` and `b`, `[[:alpha:]]` matched no letter, and a lone `\` was an error: none of that is what
    /// git does with such a line.
    #[test]
    fn braces_classes_and_backslashes_mean_what_they_mean_to_git() {
        let leaves_out = |pattern: &str, name: &str| {
            let rules = vec![FilterRule::Exclude(pattern.into())];
            let filter = Filter::new(FilterOptions { rules, ..FilterOptions::default() }).expect(pattern);
            filter.leaves_out(name.as_bytes(), &stat(FileKind::File, 1))
        };
        for (pattern, matched, unmatched) in [
            ("{a,b}", "{a,b}", "a"),
            ("x\\{y}", "x{y}", "x\\{y}"),
            ("*.{o}", "f.{o}", "f.o"),
            ("[[:alpha:]]1", "x1", ":1"),
            ("[![:digit:]]", "x", "7"),
            ("[[:punct:]]", "]", "a"),
            ("[[:punct:]]", "!", "0"),
            ("[[:alnum:]_-]", "-", "."),
            ("[]]", "]", "a"),
            ("[\\]]", "]", "\\"),
            ("[!]]", "a", "]"),
            ("[a\\-c]", "-", "b"),
            ("[a-c]", "b", "-"),
            ("[+--]", ",", "."),
            ("[\\^]", "^", "a"),
            ("[\\^\\!]", "!", "a"),
            ("[^\\^]", "a", "^"),
            ("[{}]", "{", "a"),
        ] {
            assert!(leaves_out(pattern, matched), "{pattern} on {matched}");
            assert!(!leaves_out(pattern, unmatched), "{pattern} on {unmatched}");
        }
        assert!(!leaves_out("a\\", "a\\") && !leaves_out("[ab", "[ab"), "git matches nothing with these");
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
