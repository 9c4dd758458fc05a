//! What all servers of one database share: the papers of the authority that signs for servers and agents.
//!
//! The first server to put something under a name decides; the others take what is there. Values that are secret are
//! sealed by who puts them there: this module never sees a key.

use crate::arguments;
use crate::database::Database;
use crate::error::Result;

/// What stands under `name`, if anything does.
///
/// # Errors
/// The database fails.
pub async fn get(database: &Database, name: &str) -> Result<Option<String>> {
    let sql = "SELECT value FROM vault WHERE name = $1";
    database.read(async |tx| tx.optional(sql, arguments![name]).await?.map(|row| row.text("value")).transpose()).await
}

/// Puts `value` under `name` if nothing is there: what is there now.
///
/// # Errors
/// The database fails.
pub async fn put_if_absent(database: &Database, name: &str, value: &str) -> Result<String> {
    database
        .decide(async |tx| {
            let sql = "INSERT INTO vault (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING";
            tx.execute(sql, arguments![name, value]).await?;
            tx.one("SELECT value FROM vault WHERE name = $1", arguments![name]).await?.text("value")
        })
        .await
}

/// Puts `value` in the place of `old`; false if something else is there by now.
///
/// # Errors
/// The database fails.
pub async fn replace(database: &Database, name: &str, old: &str, value: &str) -> Result<bool> {
    let sql = "UPDATE vault SET value = $1 WHERE name = $2 AND value = $3";
    let rows = database.decide(async |tx| tx.execute(sql, arguments![value, name, old]).await).await?;
    Ok(rows == 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::each_database;

    #[test]
    fn vault_has_one_value_a_name_and_the_first_decides() {
        each_database(async |database| {
            assert_eq!(get(&database, "a").await.expect("read"), None);
            assert_eq!(put_if_absent(&database, "a", "one").await.expect("put"), "one");
            assert_eq!(put_if_absent(&database, "a", "two").await.expect("put"), "one");
            assert!(!replace(&database, "a", "two", "three").await.expect("not replaced"));
            assert!(replace(&database, "a", "one", "three").await.expect("replaced"));
            assert_eq!(get(&database, "a").await.expect("read").as_deref(), Some("three"));
        });
    }
}
