//! Which entries `--path` selects, and where an entry lands below the target.
//!
//! A selected path is absolute (a source path) or relative to a fileset's root. Pure functions; any thread. Must
//! never yield a target path that is absolute or has a `..` component.

use mover_repository::manifest::{check_path, is_within, path_cmp};

/// What of one fileset is restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// Everything.
    All,
    /// These subtrees, in path order, none inside another, and the directories on the way to them. Empty: nothing.
    Parts(Vec<Vec<u8>>),
}

impl Scope {
    /// True if `path` (inside the fileset) is selected.
    pub fn contains(&self, path: &[u8]) -> bool {
        match self {
            Scope::All => true,
            Scope::Parts(parts) => parts.iter().any(|part| is_within(path, part)),
        }
    }
}

/// A path as the user gave it, made comparable: no doubled or trailing slashes, no `.` components.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wanted {
    absolute: bool,
    path: Vec<u8>,
}

fn normalise(path: &[u8]) -> Option<Wanted> {
    let components: Vec<&[u8]> =
        path.split(|&byte| byte == b'/').filter(|component| !component.is_empty() && *component != b".").collect();
    let joined = components.join(&b'/');
    check_path(&joined).ok()?;
    Some(Wanted { absolute: path.starts_with(b"/"), path: joined })
}

/// Where the path `wanted` points inside the fileset with this root: the path below the root, or `None` if it lies
/// outside. The empty path is the root itself, and also stands for what lies above it.
pub fn below_root(wanted: &[u8], root_path: &[u8]) -> Option<Vec<u8>> {
    let wanted = normalise(wanted)?;
    let root = normalise(root_path)?;
    if wanted.absolute != root.absolute {
        // Relative to the root; or the name of a stream, given with a slash before it.
        return if wanted.absolute { None } else { Some(wanted.path) };
    }
    if is_within(&root.path, &wanted.path) {
        return Some(Vec::new());
    }
    if is_within(&wanted.path, &root.path) {
        let skip = if root.path.is_empty() { 0 } else { root.path.len() + 1 };
        return Some(wanted.path[skip..].to_vec());
    }
    None
}

/// Sorts parts, and drops those inside others.
pub fn scope_of(mut parts: Vec<Vec<u8>>) -> Scope {
    parts.sort_by(|a, b| path_cmp(a, b));
    let mut outermost: Vec<Vec<u8>> = Vec::new();
    for part in parts {
        if outermost.last().is_none_or(|last| !is_within(&part, last)) {
            outermost.push(part);
        }
    }
    if outermost.iter().any(Vec::is_empty) { Scope::All } else { Scope::Parts(outermost) }
}

/// The directories above `path` inside its fileset, outermost (the root, empty) first.
pub fn ancestors(path: &[u8]) -> Vec<&[u8]> {
    if path.is_empty() {
        return Vec::new();
    }
    let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| &path[..at]);
    std::iter::once(&path[..0]).chain(slashes).collect()
}

/// The directory that holds `path`; empty for a path of one component.
pub fn parent_of(path: &[u8]) -> &[u8] {
    path.iter().rposition(|byte| *byte == b'/').map_or(&path[..0], |slash| &path[..slash])
}

/// Where a fileset lands below the target: its absolute source path without the leading slash. `None` if the root
/// path of a crafted recovery point is not a path.
pub fn target_root(root_path: &[u8]) -> Option<Vec<u8>> {
    Some(normalise(root_path)?.path)
}

/// Where an entry lands below the target.
pub fn target_path(root: &[u8], path: &[u8]) -> Vec<u8> {
    if root.is_empty() || path.is_empty() {
        return [root, path].concat();
    }
    [root, b"/", path].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wanted_path_is_found_below_above_and_beside_a_root() {
        let below = |wanted: &str, root: &str| {
            below_root(wanted.as_bytes(), root.as_bytes()).map(|path| String::from_utf8(path).unwrap())
        };
        assert_eq!(below("/home/x/a/b/", "/home/x"), Some("a/b".into()));
        assert_eq!(below("/home/x", "/home/x/"), Some("".into()));
        assert_eq!(below("/home", "/home/x"), Some("".into()));
        assert_eq!(below("/", "/home/x"), Some("".into()));
        assert_eq!(below("/home/xy", "/home/x"), None);
        assert_eq!(below("./a//b", "/home/x"), Some("a/b".into()));
        assert_eq!(below("/etc/passwd", "/"), Some("etc/passwd".into()));
        assert_eq!(below("../etc", "/home/x"), None);
        assert_eq!(below("dump.sql", "dump.sql"), Some("".into()));
    }

    #[test]
    fn parts_are_sorted_and_none_is_inside_another() {
        let parts = |paths: &[&str]| paths.iter().map(|path| path.as_bytes().to_vec()).collect::<Vec<_>>();
        assert_eq!(scope_of(parts(&["b", "a/c", "a", "a-b", "a/c/d"])), Scope::Parts(parts(&["a", "a-b", "b"])));
        assert_eq!(scope_of(parts(&["b", ""])), Scope::All);
        assert_eq!(scope_of(Vec::new()), Scope::Parts(Vec::new()));
        assert_eq!(ancestors(b"a/b/c"), [&b""[..], b"a", b"a/b"]);
        assert!(ancestors(b"").is_empty());
    }

    #[test]
    fn a_crafted_root_gives_no_target_path() {
        assert_eq!(target_root(b"/home/x"), Some(b"home/x".to_vec()));
        assert_eq!(target_root(b"/"), Some(Vec::new()));
        assert_eq!(target_root(b"/home/../../etc"), None);
        assert_eq!(target_path(b"home/x", b"a/b"), b"home/x/a/b");
        assert_eq!(target_path(b"", b"a/b"), b"a/b");
        assert_eq!(target_path(b"home/x", b""), b"home/x");
    }
}
