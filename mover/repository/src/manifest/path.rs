//! Paths inside a fileset: relative, components joined by `/`, any bytes but `/` and NUL in a
//! component. Pure functions; any thread. Never trusts a path that was read.

use std::cmp::Ordering;

use crate::codec::DecodeError;
use crate::limits::{PATH_BYTES_MAX, PATH_COMPONENT_BYTES_MAX};

/// Orders paths component by component as bytes, so that a subtree is contiguous:
/// `a` < `a/b` < `a-b` < `a.b`. The same as a byte order in which `/` is lowest, for a component
/// holds no NUL.
#[inline]
pub fn path_cmp(a: &[u8], b: &[u8]) -> Ordering {
    let common = common_prefix(a, b);
    match (a.get(common), b.get(common)) {
        (None, None) => Ordering::Equal,
        (None, Some(_)) => Ordering::Less,
        (Some(_), None) => Ordering::Greater,
        (Some(&x), Some(&y)) => rank(x).cmp(&rank(y)),
    }
}

#[inline]
fn rank(byte: u8) -> u8 {
    if byte == b'/' { 0 } else { byte }
}

/// Length of the longest common prefix, eight bytes at a time.
#[inline]
pub(crate) fn common_prefix(a: &[u8], b: &[u8]) -> usize {
    let length = a.len().min(b.len());
    let mut at = 0;
    while at + 8 <= length {
        let x = u64::from_le_bytes(a[at..at + 8].try_into().expect("eight bytes"));
        let y = u64::from_le_bytes(b[at..at + 8].try_into().expect("eight bytes"));
        if x != y {
            return at + ((x ^ y).trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    while at < length && a[at] == b[at] {
        at += 1;
    }
    at
}

/// True if `path` is `root` or lies below it. The empty root holds everything.
pub fn is_within(path: &[u8], root: &[u8]) -> bool {
    root.is_empty() || (path.starts_with(root) && (path.len() == root.len() || path[root.len()] == b'/'))
}

/// Refuses what could lead outside a target or confuse the order: absolute paths, empty, `.` and
/// `..` components, NUL, and what is over the limits. The empty path is the fileset's root.
pub fn check_path(path: &[u8]) -> Result<(), DecodeError> {
    if path.is_empty() {
        return Ok(());
    }
    if path.len() > PATH_BYTES_MAX {
        return Err(DecodeError::Invalid { field: "path length" });
    }
    for component in path.split(|&byte| byte == b'/') {
        let refused = component.is_empty()
            || component.len() > PATH_COMPONENT_BYTES_MAX
            || component == b"."
            || component == b".."
            || component.contains(&0);
        if refused {
            return Err(DecodeError::Invalid { field: "path component" });
        }
    }
    Ok(())
}

/// The shortest prefix of `first` that is greater than `last`; `last` < `first`.
pub(crate) fn separator<'a>(last: &[u8], first: &'a [u8]) -> &'a [u8] {
    debug_assert_eq!(path_cmp(last, first), Ordering::Less);
    &first[..(common_prefix(last, first) + 1).min(first.len())]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn by_components(a: &[u8], b: &[u8]) -> Ordering {
        let split = |path: &[u8]| -> Vec<Vec<u8>> {
            if path.is_empty() {
                return Vec::new();
            }
            path.split(|&byte| byte == b'/').map(<[u8]>::to_vec).collect()
        };
        split(a).cmp(&split(b))
    }

    #[test]
    fn a_subtree_comes_right_after_its_directory() {
        let mut paths: Vec<&[u8]> = vec![b"a.b", b"a-b", b"a/b", b"a", b"", b"a/b/c", b"a\x01"];
        paths.sort_by(|a, b| path_cmp(a, b));
        assert_eq!(paths, [&b""[..], b"a", b"a/b", b"a/b/c", b"a\x01", b"a-b", b"a.b"]);
    }

    #[test]
    fn dangerous_paths_are_refused() {
        let long = [b'x'; PATH_COMPONENT_BYTES_MAX + 1];
        for path in [&b"/a"[..], b"a/", b"a//b", b".", b"..", b"a/../b", b"a/.", b"a\0b", &long] {
            assert!(check_path(path).is_err(), "{path:?}");
        }
        for path in [&b""[..], b"a", b"...", b".a/..b", b"\xff\n/ ", &long[1..]] {
            assert_eq!(check_path(path), Ok(()), "{path:?}");
        }
        let deep = b"ab/".repeat(PATH_BYTES_MAX / 3 + 1);
        assert!(check_path(&deep[..deep.len() - 1]).is_err());
    }

    #[test]
    fn within_is_by_component() {
        assert!(is_within(b"a/b", b"a") && is_within(b"a", b"a") && is_within(b"x", b""));
        assert!(!is_within(b"a-b", b"a") && !is_within(b"a", b"a/b"));
    }

    proptest! {
        #[test]
        fn order_is_that_of_components(a in "([a-c.-]{1,3}/){0,3}[a-c.-]{1,3}", b in "([a-c.-]{1,3}/){0,3}[a-c.-]{1,3}") {
            prop_assert_eq!(path_cmp(a.as_bytes(), b.as_bytes()), by_components(a.as_bytes(), b.as_bytes()));
        }

        #[test]
        fn a_separator_separates(a in "([a-c.-]{1,12}/){0,3}[a-c.-]{1,3}", b in "([a-c.-]{1,12}/){0,3}[a-c.-]{1,3}") {
            let (a, b) = (a.as_bytes(), b.as_bytes());
            if path_cmp(a, b) == Ordering::Less {
                let cut = separator(a, b);
                prop_assert_eq!(path_cmp(a, cut), Ordering::Less);
                prop_assert_ne!(path_cmp(cut, b), Ordering::Greater);
            }
        }
    }
}
