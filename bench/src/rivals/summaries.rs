//! What tools tell of a run: bytes of source that were read, bytes that were new before compression.
//!
//! A figure that a tool does not tell, or tells of something else, is absent. Nothing is guessed from other figures.

use serde_json::Value;

/// Lines of `mover` that are kept at most: one for each actor of each shard.
const TOLD_MAX: usize = 200;

/// What one tool told.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Told {
    /// Bytes of source that were read.
    pub read_logical_bytes: Option<u64>,
    /// Bytes that the repository did not have, before compression.
    pub unique_bytes: Option<u64>,
    /// JSON lines worth keeping.
    pub lines: Vec<Value>,
}

/// Reads the standard output of a run of `tool`.
pub fn read(tool: &str, output: &str) -> Told {
    match tool {
        "mover" => mover(output),
        "restic" => restic(output),
        "rustic" => rustic(output),
        _ => Told::default(),
    }
}

fn json_lines(output: &str) -> Vec<Value> {
    output.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn mover(output: &str) -> Told {
    let lines: Vec<Value> = json_lines(output).into_iter().filter(|line| line["type"] != "progress").collect();
    let Some(summary) = lines.iter().rfind(|line| line["type"] == "summary") else { return Told::default() };
    Told {
        // A restore also has `bytes_read`, of the repository: that is no source.
        read_logical_bytes: summary["bytes_new"].as_u64().and(summary["bytes_read"].as_u64()),
        unique_bytes: summary["bytes_new"].as_u64(),
        lines: lines.into_iter().rev().take(TOLD_MAX).rev().collect(),
    }
}

fn restic(output: &str) -> Told {
    let summary = json_lines(output).into_iter().rfind(|line| line["message_type"] == "summary");
    // It tells what it looked at, not what it read.
    Told { unique_bytes: summary.and_then(|line| line["data_added"].as_u64()), ..Told::default() }
}

fn rustic(output: &str) -> Told {
    let start = output.find('{').unwrap_or(output.len());
    let snapshot: Value = serde_json::from_str(&output[start..]).unwrap_or_default();
    Told { unique_bytes: snapshot["summary"]["data_added_files"].as_u64(), ..Told::default() }
}

#[cfg(test)]
mod tests {
    use super::{Told, read};

    #[test]
    fn rivals_summary_of_mover_is_read_behind_its_progress() {
        let output = concat!(
            "{\"type\":\"progress\",\"bytes_read\":1}\n",
            "{\"type\":\"actor\",\"actor\":\"chunker\",\"busy_seconds\":0.5}\n",
            "{\"type\":\"summary\",\"bytes_read\":59568,\"bytes_new\":1000,\"bytes_stored\":300}\n"
        );
        let told = read("mover", output);
        assert_eq!((told.read_logical_bytes, told.unique_bytes, told.lines.len()), (Some(59_568), Some(1000), 2));
        let restored = read("mover", "{\"type\":\"summary\",\"bytes_read\":19452,\"bytes_written\":59568}\n");
        assert_eq!((restored.read_logical_bytes, restored.unique_bytes), (None, None));
    }

    #[test]
    fn rivals_summaries_of_others_are_read() {
        let restic = "{\"message_type\":\"status\"}\n{\"message_type\":\"summary\",\"data_added\":123456}\n";
        assert_eq!(read("restic", restic).unique_bytes, Some(123_456));
        let rustic = "{\n \"id\": \"x\",\n \"summary\": {\n  \"data_added_files\": 77\n }\n}\n";
        assert_eq!(read("rustic", rustic).unique_bytes, Some(77));
        assert_eq!(read("borg", "{}"), Told::default());
        assert_eq!(read("restic", "Fatal: no JSON"), Told::default());
    }
}
