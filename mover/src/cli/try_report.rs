//! The table of `mover try`, and what the comparison found.

use std::path::Path;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::Session;
use super::compare::{CompareReport, DIFFERENCES_KEPT_MAX};
use super::error::Result;
use super::exit::Exit;
use super::table::Table;
use super::text::{escape, json_path};
use super::units::{human_bytes, human_count};

/// Explained differences that are shown to a person; JSON has all that were kept.
const EXPLAINED_SHOWN_MAX: u64 = 20;

/// One row of the table.
pub struct Step {
    /// What was done.
    pub name: &'static str,
    /// Regular files.
    pub files: u64,
    /// Their logical bytes: the rate goes by these.
    pub bytes: u64,
    /// Bytes read: from the source, in a restore from the repository.
    pub bytes_read: u64,
    /// Plain bytes that the repository lacked.
    pub bytes_new: Option<u64>,
    /// Bytes written: to the repository, in a restore to the target.
    pub bytes_stored: u64,
    /// How long it took, all data synced.
    pub took: Duration,
}

impl Step {
    /// Logical bytes a second, in millions.
    fn megabytes_per_second(&self) -> f64 {
        self.bytes as f64 / 1e6 / self.took.as_secs_f64().max(1e-6)
    }
}

/// Prints the table and the outcome of the comparison.
pub fn print(session: &Session, path: &Path, steps: &[Step], compared: &CompareReport, exit: Exit) -> Result<()> {
    let output = &session.output;
    for line in table(steps).lines() {
        output.say(&line)?;
    }
    let mut explained_shown = 0;
    for difference in &compared.differences {
        let mut object = Map::new();
        json_path(&mut object, &difference.path);
        object.insert("difference".to_owned(), difference.what.clone().into());
        object.insert("explanation".to_owned(), difference.explanation.clone().into());
        output.object("difference", Value::Object(object))?;
        if output.json {
            continue;
        }
        let name = if difference.path.is_empty() { ".".to_owned() } else { escape(&difference.path) };
        match &difference.explanation {
            None => output.line(&format!("DIFFERENT {name}: {}", difference.what))?,
            Some(explanation) if explained_shown < EXPLAINED_SHOWN_MAX => {
                explained_shown += 1;
                output.say(&format!("explained {name}: {} ({explanation})", difference.what))?;
            }
            Some(_) => {}
        }
    }
    let unexplained_kept = compared.differences.iter().filter(|difference| difference.explanation.is_none()).count();
    let not_shown = compared.unexplained - unexplained_kept as u64;
    if not_shown > 0 {
        output.note(&format!("{not_shown} more differences are not listed (at most {DIFFERENCES_KEPT_MAX} are)"));
    }
    if compared.explained > explained_shown && !output.json {
        output.say(&format!("{} more differences are explained", compared.explained - explained_shown))?;
    }
    output.say(&verdict(path, compared))?;
    output.object("summary", summary(steps, compared, exit))
}

fn table(steps: &[Step]) -> Table {
    let header = ["step", ">files", ">bytes read", ">new bytes", ">bytes stored", ">seconds", ">MB/s"];
    let mut table = Table::new(&header);
    for step in steps {
        table.row(vec![
            step.name.to_owned(),
            human_count(step.files),
            human_bytes(step.bytes_read),
            step.bytes_new.map_or_else(|| "-".to_owned(), human_bytes),
            human_bytes(step.bytes_stored),
            format!("{:.2}", step.took.as_secs_f64()),
            format!("{:.1}", step.megabytes_per_second()),
        ]);
    }
    table
}

fn verdict(path: &Path, compared: &CompareReport) -> String {
    let scope = format!("{} entries, {}", human_count(compared.entries), human_bytes(compared.bytes));
    let sockets = match compared.sockets {
        0 => String::new(),
        sockets => format!("; {sockets} sockets are not backed up"),
    };
    let place = escape(std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str()));
    match (compared.unexplained, compared.explained) {
        (0, 0) => format!("{place}: {scope} compared, every byte and attribute is the same{sockets}"),
        (0, explained) => format!("{place}: {scope} compared, {explained} differences, all explained{sockets}"),
        (unexplained, _) => format!("{place}: {scope} compared, {unexplained} DIFFERENCES{sockets}"),
    }
}

fn summary(steps: &[Step], compared: &CompareReport, exit: Exit) -> Value {
    let step = |step: &Step| {
        json!({
            "step": step.name,
            "files": step.files,
            "bytes": step.bytes,
            "bytes_read": step.bytes_read,
            "bytes_new": step.bytes_new,
            "bytes_stored": step.bytes_stored,
            "seconds": step.took.as_secs_f64(),
            "megabytes_per_second": step.megabytes_per_second(),
        })
    };
    json!({
        "steps": steps.iter().map(step).collect::<Vec<_>>(),
        "entries_compared": compared.entries,
        "bytes_compared": compared.bytes,
        "differences": compared.unexplained,
        "differences_explained": compared.explained,
        "sockets_skipped": compared.sockets,
        "exit_code": exit.code(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_a_row_a_step() {
        let step = Step {
            name: "backup",
            files: 1200,
            bytes: 50_000_000,
            bytes_read: 50_000_000,
            bytes_new: Some(1 << 20),
            bytes_stored: 1 << 19,
            took: Duration::from_secs(2),
        };
        let lines = table(&[step]).lines();
        assert_eq!(lines[0], "step    files  bytes read  new bytes  bytes stored  seconds  MB/s");
        assert_eq!(lines[1], "backup  1,200    47.7 MiB    1.0 MiB     512.0 KiB     2.00  25.0");
    }

    #[test]
    fn the_verdict_says_whether_it_is_the_same() {
        let report = CompareReport { entries: 3, bytes: 10, ..CompareReport::default() };
        assert!(verdict(Path::new("/x"), &report).ends_with("every byte and attribute is the same"));
        let different = CompareReport { unexplained: 2, ..report };
        assert!(verdict(Path::new("/x"), &different).ends_with("2 DIFFERENCES"));
    }
}
