//! The names of the fields in the JSON that `mover --json` prints; the only place in the suites that knows them.
//!
//! The last line of standard output is the summary of the command; the lines before it are progress or entries.

use serde_json::Value;

/// The last JSON line of one run, with its numbers by name.
#[derive(Clone, Debug)]
pub struct Summary {
    value: Value,
}

impl Summary {
    /// Reads the last line of `stdout`; fails the test where that is not a JSON object.
    pub fn parse(stdout: &[u8]) -> Summary {
        let lines = json_lines(stdout);
        let last = lines.last().unwrap_or_else(|| panic!("no JSON line in {:?}", String::from_utf8_lossy(stdout)));
        Summary { value: last.clone() }
    }

    /// The whole object.
    pub fn value(&self) -> &Value {
        &self.value
    }

    fn number(&self, name: &str) -> u64 {
        let found = find(&self.value, name);
        found.and_then(Value::as_u64).unwrap_or_else(|| panic!("no number {name:?} in {}", self.value))
    }

    /// Id of the recovery point that the backup made.
    pub fn point(&self) -> String {
        let found = find(&self.value, "point").or_else(|| find(&self.value, "id"));
        let id = found.and_then(|value| value.as_str().or_else(|| value.get("id").and_then(Value::as_str)));
        id.unwrap_or_else(|| panic!("no recovery point in {}", self.value)).to_owned()
    }

    /// How many recovery points `points` found.
    pub fn points(&self) -> u64 {
        self.number("points")
    }

    /// Regular files in the recovery point (or restored).
    pub fn files(&self) -> u64 {
        self.number("files")
    }

    /// Plain bytes of content in the recovery point, holes included.
    pub fn bytes(&self) -> u64 {
        self.number("bytes")
    }

    /// Bytes of content that were read from the source.
    pub fn bytes_read(&self) -> u64 {
        self.number("bytes_read")
    }

    /// Plain bytes of chunks that the repository did not have.
    pub fn bytes_new(&self) -> u64 {
        self.number("bytes_new")
    }

    /// Bytes that were added to the repository as packs.
    pub fn bytes_stored(&self) -> u64 {
        self.number("bytes_stored")
    }

    /// Files that changed while they were read.
    pub fn files_torn(&self) -> u64 {
        self.number("files_torn")
    }

    /// Files that could not be read.
    pub fn files_unreadable(&self) -> u64 {
        self.number("files_unreadable")
    }

    /// Sockets, which are never backed up.
    pub fn sockets_skipped(&self) -> u64 {
        self.number("sockets_skipped")
    }

    /// Entries that filters left out.
    pub fn excluded(&self) -> u64 {
        self.number("excluded")
    }

    /// Grade of the recovery point: `torn`, `stable` or `snapshot`.
    pub fn grade(&self) -> String {
        let grade = find(&self.value, "grade").and_then(Value::as_str);
        grade.unwrap_or_else(|| panic!("no grade in {}", self.value)).to_owned()
    }
}

/// Every line of `stdout` that is a JSON object; fails the test where a line is something else.
pub fn json_lines(stdout: &[u8]) -> Vec<Value> {
    let mut lines = Vec::new();
    for line in stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let value: Value = serde_json::from_slice(line)
            .unwrap_or_else(|error| panic!("not a JSON line ({error}): {:?}", String::from_utf8_lossy(line)));
        assert!(value.is_object(), "not a JSON object: {value}");
        lines.push(value);
    }
    lines
}

/// The first field `name` in `value` or in the objects one and two levels below it.
fn find<'v>(value: &'v Value, name: &str) -> Option<&'v Value> {
    let object = value.as_object()?;
    if let Some(found) = object.get(name) {
        return Some(found);
    }
    object.values().find_map(|inner| find(inner, name))
}
