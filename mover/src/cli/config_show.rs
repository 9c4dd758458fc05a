//! `mover config show`: every setting, its value, and where it comes from. No secret is a setting.

use serde_json::json;

use super::Session;
use super::bandwidth::now_text;
use super::error::Result;
use super::exit::Exit;
use super::table::Table;

/// Prints the settings in force.
pub fn run(session: &Session) -> Result<Exit> {
    let resolved = &session.resolved;
    let mut table = Table::new(&["setting", "value", "from"]);
    for (key, value, origin) in &resolved.listing {
        table.row(vec![key.clone(), value.clone(), origin.to_string()]);
        session.output.object("setting", json!({ "key": key, "value": value, "origin": origin.to_string() }))?;
    }
    if session.output.json {
        let summary = json!({ "memory_bytes": resolved.memory_bytes, "shards": resolved.shards });
        session.output.object("summary", summary)?;
        return Ok(Exit::Done);
    }
    for line in table.lines() {
        session.output.line(&line)?;
    }
    if resolved.settings.shards.is_some_and(|wanted| wanted as usize > resolved.shards) {
        session.output.note(&format!("{} shards are used: each needs 32MiB of the memory budget", resolved.shards));
    }
    let limits = session.bandwidth.limits();
    for (what, bucket) in [("upload to", &limits.upload), ("download from", &limits.download)] {
        if !bucket.calendar().is_unlimited() {
            session.output.note(&format!("{what} a network repository: {}", now_text(bucket)));
        }
    }
    Ok(Exit::Done)
}
