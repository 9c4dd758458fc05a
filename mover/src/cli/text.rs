//! Names and times as text: what a terminal may be shown, what JSON can carry.
//!
//! A file name is any bytes. On a terminal, bytes that are not printable UTF-8 are escaped, so a
//! name can never move the cursor or forge a line; elsewhere names are written raw.

use jiff::{Timestamp, tz::TimeZone};
use mover_repository::ids::UnixNanos;

/// `name` as safe text: printable UTF-8 stays, `\` is doubled, the rest becomes `\xNN` or `\u{…}`.
pub fn escape(name: &[u8]) -> String {
    let mut text = String::with_capacity(name.len());
    for part in name.utf8_chunks() {
        for c in part.valid().chars() {
            match c {
                '\\' => text.push_str("\\\\"),
                c if c.is_ascii_control() => text.push_str(&format!("\\x{:02x}", c as u32)),
                c if c.is_control() || is_invisible(c) => text.push_str(&format!("\\u{{{:x}}}", c as u32)),
                c => text.push(c),
            }
        }
        for byte in part.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

/// Characters that change how their neighbours are shown, or show nothing at all.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// A path for JSON: `path` is UTF-8 text; `path_hex` is added where that loses bytes.
pub fn json_path(object: &mut serde_json::Map<String, serde_json::Value>, path: &[u8]) {
    object.insert("path".to_owned(), String::from_utf8_lossy(path).into());
    if std::str::from_utf8(path).is_err() {
        object.insert("path_hex".to_owned(), hex(path).into());
    }
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A time in the local zone, `2026-03-01 14:30:05`; far outside the calendar the bare nanoseconds.
pub fn local_time(time: UnixNanos) -> String {
    match Timestamp::from_nanosecond(time.0) {
        Ok(timestamp) => timestamp.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string(),
        Err(_) => format!("{} ns", time.0),
    }
}

/// A time for JSON: RFC 3339 in UTC with nanoseconds as needed.
pub fn rfc3339(time: UnixNanos) -> String {
    match Timestamp::from_nanosecond(time.0) {
        Ok(timestamp) => timestamp.to_string(),
        Err(_) => format!("{} ns", time.0),
    }
}

/// `drwxr-sr-t` for a type letter and permission bits.
pub fn mode_text(type_letter: char, mode: u32) -> String {
    let mut text = String::with_capacity(10);
    text.push(type_letter);
    for (shift, special, lower, upper) in [(6, 0o4000, 's', 'S'), (3, 0o2000, 's', 'S'), (0, 0o1000, 't', 'T')] {
        let bits = mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        let execute = match (mode & special != 0, bits & 1 != 0) {
            (false, false) => '-',
            (false, true) => 'x',
            (true, true) => lower,
            (true, false) => upper,
        };
        text.push(execute);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_reach_the_terminal_raw() {
        assert_eq!(escape("grün.txt".as_bytes()), "grün.txt");
        assert_eq!(escape(b"a\x1b[2J\n\\"), "a\\x1b[2J\\x0a\\\\");
        assert_eq!(escape(b"\xff\xfe-x"), "\\xff\\xfe-x");
        assert_eq!(escape("a\u{202e}b".as_bytes()), "a\\u{202e}b");
    }

    #[test]
    fn json_keeps_every_byte_of_a_name() {
        let mut object = serde_json::Map::new();
        json_path(&mut object, b"a\xff");
        assert_eq!(object["path_hex"], "61ff");
    }

    #[test]
    fn modes_read_as_ls_prints_them() {
        assert_eq!(mode_text('d', 0o755), "drwxr-xr-x");
        assert_eq!(mode_text('-', 0o4644), "-rwSr--r--");
        assert_eq!(mode_text('-', 0o6755), "-rwsr-sr-x");
        assert_eq!(mode_text('d', 0o1777), "drwxrwxrwt");
    }

    #[test]
    fn times_outside_the_calendar_do_not_panic() {
        assert_eq!(rfc3339(UnixNanos(0)), "1970-01-01T00:00:00Z");
        assert!(rfc3339(UnixNanos(i128::MAX)).ends_with("ns"));
    }
}
