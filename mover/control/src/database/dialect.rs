//! Everything in which SQLite and PostgreSQL differ here. All other SQL is the same text for both.
//!
//! SQLite has one writer: `BEGIN IMMEDIATE` queues for it, so decisions and changes are one after the other anyway.
//! PostgreSQL has many: a decision takes an advisory lock exclusively, a change takes it shared, so a decision sees no
//! change half made, and changes run side by side. `FOR UPDATE SKIP LOCKED` is not needed: a decision leases for all
//! agents that wait at once, one commit for many leases, and never meets another decision.

use std::path::Path;

use super::Side;

/// Which database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Embedded.
    Sqlite,
    /// A server of its own.
    Postgres,
}

impl Dialect {
    /// How a transaction begins.
    pub(super) fn begin(self, side: Side) -> &'static str {
        match (self, side) {
            (Dialect::Sqlite, Side::Read) => "BEGIN DEFERRED",
            (Dialect::Sqlite, Side::Change | Side::Decide) => "BEGIN IMMEDIATE",
            (Dialect::Postgres, Side::Read) => "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
            (Dialect::Postgres, Side::Change | Side::Decide) => "BEGIN ISOLATION LEVEL READ COMMITTED",
        }
    }

    /// What a transaction waits for before its first statement. The number is ours alone: "movr".
    pub(super) fn lock(self, side: Side) -> Option<&'static str> {
        match (self, side) {
            (Dialect::Sqlite, _) | (Dialect::Postgres, Side::Read) => None,
            (Dialect::Postgres, Side::Change) => Some("SELECT pg_advisory_xact_lock_shared(1836021362)"),
            (Dialect::Postgres, Side::Decide) => Some("SELECT pg_advisory_xact_lock(1836021362)"),
        }
    }

    /// Appended to a SELECT whose row must not change until the transaction ends.
    pub(super) fn row_lock(self) -> &'static str {
        match self {
            // The transaction is the only writer already.
            Dialect::Sqlite => "",
            Dialect::Postgres => " FOR UPDATE",
        }
    }

    /// Statements for each new connection.
    pub(super) fn settings(self) -> &'static [&'static str] {
        match self {
            // FULL: a commit that was answered survives a power cut.
            Dialect::Sqlite => &[
                "PRAGMA journal_mode = WAL",
                "PRAGMA synchronous = FULL",
                "PRAGMA foreign_keys = ON",
                "PRAGMA busy_timeout = 5000",
                "PRAGMA temp_store = MEMORY",
                "PRAGMA cache_size = -32768",
            ],
            Dialect::Postgres => &["SET TIME ZONE 'UTC'", "SET lock_timeout = '5s'", "SET synchronous_commit = on"],
        }
    }
}

/// The address of a database file, made when it is not there.
pub(super) fn sqlite_url(file: &Path) -> String {
    // The path stands in an address: what means something there is written as its number.
    let mut path = String::new();
    for character in file.to_string_lossy().chars() {
        match character {
            '%' => path.push_str("%25"),
            '?' => path.push_str("%3F"),
            '#' => path.push_str("%23"),
            other => path.push(other),
        }
    }
    format!("sqlite://{path}?mode=rwc")
}
