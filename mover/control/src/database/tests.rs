//! A database that is away for a while: asked again, within bounds, and only where that can help.

use std::cell::Cell;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use crate::arguments;
use crate::error::ControlError;
use crate::testing::{NOON, agent, backup, each_database, run, submit};

use super::dialect::Dialect;
use super::{ATTEMPTS, Database};

#[test]
fn database_that_is_locked_for_a_while_delays_and_breaks_nothing() {
    run(async {
        let directory = tempfile::tempdir().expect("a directory");
        let database = Database::open_embedded(directory.path()).await.expect("open");
        let other = Database::open_embedded(directory.path()).await.expect("open twice");
        let blocker = other.decide(async |_| {
            tokio::time::sleep(Duration::from_millis(300)).await;
            Ok(())
        });
        let writer = async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            submit(&database, backup("set", NOON), NOON).await
        };
        let (blocked, job) = tokio::join!(blocker, writer);
        blocked.expect("the other");
        assert_eq!(job.state, crate::job::JobState::Queued);
    });
}

#[test]
fn database_that_drops_its_connections_is_asked_again() {
    each_database(async |database| {
        if database.dialect() != Dialect::Postgres {
            return;
        }
        agent(&database, "a", &[], NOON).await;
        let runs = Cell::new(0);
        let named = database
            .change(async |tx| {
                runs.set(runs.get() + 1);
                if runs.get() == 1 {
                    // The server ends all connections, this one in the middle of its transaction.
                    tx.all(
                        "SELECT pg_terminate_backend(pid) AS done FROM pg_stat_activity
                         WHERE datname = current_database() ORDER BY pid = pg_backend_pid()",
                        &[],
                    )
                    .await?;
                }
                tx.one("SELECT name FROM agents", &[]).await?.text("name")
            })
            .await;
        assert_eq!((named.expect("answered in the end").as_str(), runs.get()), ("a", 2));
    });
}

/// Adds a row that has no room: the pages that the connection may use are those that are there.
async fn overfill(tx: &mut super::Transaction) -> crate::Result<u64> {
    tx.one("PRAGMA max_page_count = 1", &[]).await?;
    let sql = "INSERT INTO vault (name, value) VALUES ('large', $1)";
    tx.execute(sql, arguments!["x".repeat(1 << 20)]).await
}

/// A full disk ends the transaction of SQLite below the driver, which believed for ever after that one was open: until the
/// server was started anew nothing could be written, and it said that it was ready.
#[test]
fn full_disk_is_no_longer_felt_once_there_is_room() {
    run(async {
        let directory = tempfile::tempdir().expect("a directory");
        let database = Database::open_embedded(directory.path()).await.expect("open");
        let error = database.change(overfill).await.expect_err("full");
        assert!(error.is_transient(), "{error:?}");
        database.ping().await.expect_err("nothing can be written");
        agent(&database, "a", &[], NOON).await;
        database.ping().await.expect("there is room again");
        assert_eq!(submit(&database, backup("set", NOON), NOON).await.state, crate::job::JobState::Queued);
    });
}

#[test]
fn transaction_that_cannot_succeed_is_not_repeated_and_a_lasting_fault_ends_within_bounds() {
    each_database(async |database| {
        let runs = Cell::new(0);
        let wrong = database
            .change(async |tx| {
                runs.set(runs.get() + 1);
                tx.execute("INSERT INTO nowhere (id) VALUES (1)", &[]).await
            })
            .await;
        assert!(!wrong.expect_err("no such table").is_transient());
        assert_eq!(runs.get(), 1);
        runs.set(0);
        let away: Result<(), ControlError> = database
            .change(async |_| {
                runs.set(runs.get() + 1);
                Err(ControlError::Database { operation: "test", cause: sqlx::Error::PoolTimedOut })
            })
            .await;
        assert!(away.expect_err("away").is_transient());
        assert_eq!(runs.get(), ATTEMPTS);
    });
}

async fn insert(database: &Database, name: String) -> crate::Result<u64> {
    let sql = "INSERT INTO runs (policy, kind, due, job) VALUES ($1, 'test', 0, 'x')";
    database.change(async |tx| tx.execute(sql, crate::arguments![&name]).await).await
}

async fn count(database: &Database) -> i64 {
    let sql = "SELECT COUNT(*) AS n FROM runs";
    database.read(async |tx| tx.one(sql, &[]).await?.number("n")).await.expect("a count")
}

#[test]
fn changes_at_the_same_time_share_a_commit_and_fail_alone() {
    each_database(async |database| {
        let before = database.group.begun.load(Ordering::Relaxed);
        // The second of each pair breaks the primary key.
        let mut changes: Vec<_> =
            (0..100).map(|number| Box::pin(insert(&database, format!("{}", number / 2)))).collect();
        let mut results = Vec::new();
        std::future::poll_fn(|context| {
            changes.retain_mut(|change| match change.as_mut().poll(context) {
                Poll::Ready(result) => {
                    results.push(result.is_ok());
                    false
                }
                Poll::Pending => true,
            });
            if changes.is_empty() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        assert_eq!(results.iter().filter(|is_ok| **is_ok).count(), 50);
        assert_eq!(count(&database).await, 50);
        if database.dialect() == Dialect::Sqlite {
            let begun = database.group.begun.load(Ordering::Relaxed) - before;
            assert!(begun <= 4, "{begun} transactions for 100 changes");
        }
    });
}

#[test]
fn change_that_is_dropped_in_the_middle_takes_nobody_with_it() {
    each_database(async |database| {
        for round in 0..20 {
            let stuck = database.change(async |tx| {
                tx.execute("INSERT INTO runs (policy, kind, due, job) VALUES ('stuck', 'test', 0, 'x')", &[]).await?;
                std::future::pending::<crate::Result<()>>().await
            });
            let first = insert(&database, format!("first {round}"));
            let dropped = tokio::time::timeout(Duration::from_millis(20), stuck);
            let last = async {
                tokio::time::sleep(Duration::from_millis(round)).await;
                insert(&database, format!("last {round}")).await
            };
            let (first, dropped, last) = tokio::join!(first, dropped, last);
            assert_eq!((first.expect("first"), last.expect("last")), (1, 1));
            assert!(dropped.is_err(), "it never ends by itself");
        }
        assert_eq!(count(&database).await, 40);
    });
}
