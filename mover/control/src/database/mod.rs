//! One set of SQL on two databases: SQLite in the data directory, or PostgreSQL for several servers at once.
//!
//! Every change is a closure run by [`Database::change`] or [`Database::decide`] in one transaction; what it does
//! commits with its event row or not at all. *Decide* is for whoever reads what several rows say together and then
//! acts on it (leasing, admission, sweeps): decisions happen one after the other on both databases. *Change* is for
//! whoever touches one job by its id and fence: changes run side by side where the database can.
//!
//! A transaction that fails for a passing reason (lock, lost connection, server that restarts) is run again, with a
//! bounded backoff of some 2 s in all: [`ATTEMPTS`], [`PATIENCE`]. After that the error says `is_transient`, the caller answers
//! "try later", and the process lives on. Since the answer to a commit can be lost, a closure may run although it had
//! already been committed: ids are therefore made outside of it, and each closure is idempotent.
//!
//! On SQLite changes that come at the same time share one commit ([`group`]).
//!
//! Types: ids are TEXT, times BIGINT unix milliseconds, truth BIGINT 0 or 1, documents TEXT with JSON. What the two
//! databases do not share stands in [`dialect`], and nowhere else.

pub mod dialect;
mod group;
mod schema;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sqlx::any::{AnyPoolOptions, AnyRow};
use sqlx::{Any, AnyPool, AssertSqlSafe, Connection, Row};

use crate::error::{ControlError, Result};
use crate::ids::UnixMillis;
use crate::job::figures::Finished;
use dialect::Dialect;
use group::Group;

/// How often a transaction is tried.
pub const ATTEMPTS: u32 = 6;
/// Pause before the second attempt; doubled before each further one.
const BACKOFF_FIRST: Duration = Duration::from_millis(60);
/// No attempt begins later: where each waits long (for a lock, behind others that wait for it), their number alone is no
/// bound.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long a caller waits for a free connection.
const ACQUIRE: Duration = Duration::from_secs(5);
/// Readers of SQLite, which run beside the one writer.
const SQLITE_READERS: u32 = 4;
/// Connections of one server to PostgreSQL.
const POSTGRES_CONNECTIONS: u32 = 8;

/// A database with the schema of this program.
#[derive(Clone)]
pub struct Database {
    dialect: Dialect,
    writer: AnyPool,
    reader: AnyPool,
    group: Arc<Group>,
    /// The last change could not be written, and no other one has been since.
    refuses: Arc<AtomicBool>,
}

impl Database {
    /// The embedded database in the directory `data`, made when it is not there.
    ///
    /// # Errors
    /// The directory cannot be written, or the schema is newer than this program.
    pub async fn open_embedded(data: &Path) -> Result<Database> {
        let operation = "open the embedded database";
        std::fs::create_dir_all(data)
            .map_err(|cause| ControlError::Database { operation, cause: sqlx::Error::Io(cause) })?;
        let url = dialect::sqlite_url(&data.join("control.sqlite"));
        let writer = connect(Dialect::Sqlite, &url, 1).await.map_err(failed(operation))?;
        // Readers come second: a journal in WAL mode is there once the writer has made it.
        let reader = connect(Dialect::Sqlite, &url, SQLITE_READERS).await.map_err(failed(operation))?;
        Database { dialect: Dialect::Sqlite, writer, reader, group: Arc::default(), refuses: Arc::default() }
            .prepared()
            .await
    }

    /// A PostgreSQL database, `postgres://user:password@host/name`.
    ///
    /// # Errors
    /// It cannot be reached, or its schema is newer than this program.
    pub async fn open_postgres(url: &str) -> Result<Database> {
        let pool = connect(Dialect::Postgres, url, POSTGRES_CONNECTIONS)
            .await
            .map_err(failed("connect to the PostgreSQL database"))?;
        let (group, refuses) = (Arc::default(), Arc::default());
        Database { dialect: Dialect::Postgres, writer: pool.clone(), reader: pool, group, refuses }.prepared().await
    }

    async fn prepared(self) -> Result<Database> {
        schema::migrate(&self).await?;
        Ok(self)
    }

    /// Runs `work` in a transaction of its own, after and before every other one that decides.
    ///
    /// # Errors
    /// Those of `work`, and of the database when it stayed away for all attempts.
    pub async fn decide<T>(&self, work: impl AsyncFn(&mut Transaction) -> Result<T>) -> Result<T> {
        self.run(Side::Decide, work).await
    }

    /// Runs `work` in a transaction that touches rows by their id.
    ///
    /// # Errors
    /// As for [`Database::decide`].
    pub async fn change<T>(&self, work: impl AsyncFn(&mut Transaction) -> Result<T>) -> Result<T> {
        self.run(Side::Change, work).await
    }

    /// Runs `work` on one snapshot of the database, beside any writer; what it writes is dropped.
    ///
    /// # Errors
    /// As for [`Database::decide`].
    pub async fn read<T>(&self, work: impl AsyncFn(&mut Transaction) -> Result<T>) -> Result<T> {
        self.run(Side::Read, work).await
    }

    async fn run<T>(&self, side: Side, work: impl AsyncFn(&mut Transaction) -> Result<T>) -> Result<T> {
        let result = self.attempts(side, work).await;
        if side != Side::Read {
            // What is wrong with one change says nothing of others.
            let is_refused = result.as_ref().err().is_some_and(ControlError::is_transient);
            self.refuses.store(is_refused, Ordering::Relaxed);
        }
        result
    }

    async fn attempts<T>(&self, side: Side, work: impl AsyncFn(&mut Transaction) -> Result<T>) -> Result<T> {
        let (began, mut pause) = (Instant::now(), BACKOFF_FIRST);
        for attempt in 1.. {
            let error = match self.once(side, &work).await {
                Ok(value) => return Ok(value),
                Err(error) if attempt < ATTEMPTS && began.elapsed() < PATIENCE && error.is_transient() => error,
                Err(error) => return Err(error),
            };
            tracing::debug!(attempt, %error, "the database is asked again");
            // Full jitter, so that those who collided do not collide again.
            tokio::time::sleep(pause.mul_f64(rand::random::<f64>())).await;
            pause *= 2;
        }
        unreachable!("the last attempt returns")
    }

    async fn once<T>(&self, side: Side, work: &impl AsyncFn(&mut Transaction) -> Result<T>) -> Result<T> {
        if self.dialect == Dialect::Sqlite && side != Side::Read {
            return self.group.run(&self.writer, work).await;
        }
        let pool = if side == Side::Read { &self.reader } else { &self.writer };
        let begin = failed("begin a transaction");
        let inner = pool.begin_with(self.dialect.begin(side)).await.map_err(begin)?;
        let mut transaction = Transaction { inner, dialect: self.dialect, finished: Vec::new() };
        if let Some(lock) = self.dialect.lock(side) {
            transaction.execute(lock, &[]).await?;
        }
        let value = work(&mut transaction).await?;
        if side != Side::Read {
            let Transaction { inner, finished, .. } = transaction;
            inner.commit().await.map_err(failed("commit a transaction"))?;
            finished.into_iter().for_each(Finished::count);
        }
        Ok(value)
    }

    /// Whether the database answers, and takes changes: for a readiness check. One that only answers, such as on a full
    /// disk, is of no use to anybody; a server writes every few seconds, so what the last change met is news.
    ///
    /// # Errors
    /// It does not.
    pub async fn ping(&self) -> Result<()> {
        self.read(async |tx| tx.one("SELECT 1 AS one", &[]).await.map(|_| ())).await?;
        match self.refuses.load(Ordering::Relaxed) {
            true => {
                Err(ControlError::Database { operation: "write to the database", cause: sqlx::Error::WorkerCrashed })
            }
            false => Ok(()),
        }
    }

    /// Which of the two it is.
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// Ends all connections, after the transactions in progress.
    pub async fn close(&self) {
        self.reader.close().await;
        self.writer.close().await;
    }
}

async fn connect(dialect: Dialect, url: &str, connections: u32) -> sqlx::Result<AnyPool> {
    sqlx::any::install_default_drivers();
    AnyPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(ACQUIRE)
        .idle_timeout(None)
        .max_lifetime(None)
        // A commit that failed, on a full disk, leaves the driver in a transaction that the database has ended: nothing
        // could begin on that connection any more.
        .before_acquire(|connection, _| Box::pin(async move { Ok(!connection.is_in_transaction()) }))
        .after_connect(move |connection, _| {
            Box::pin(async move {
                for statement in dialect.settings() {
                    sqlx::raw_sql(*statement).execute(&mut *connection).await?;
                }
                Ok(())
            })
        })
        .connect(url)
        .await
}

/// What a transaction is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Looks only.
    Read,
    /// Changes rows that it names.
    Change,
    /// Reads many rows and acts on what they say together.
    Decide,
}

/// A value bound to `$1`, `$2`, …
#[derive(Clone, Debug)]
pub enum Argument {
    /// TEXT
    Text(Option<String>),
    /// BIGINT
    Number(Option<i64>),
}

macro_rules! argument {
    ($($type:ty => |$value:ident| $made:expr;)*) => {
        $(impl From<$type> for Argument {
            fn from($value: $type) -> Argument {
                $made
            }
        })*
    };
}

argument! {
    &str => |text| Argument::Text(Some(text.to_owned()));
    &String => |text| Argument::Text(Some(text.clone()));
    String => |text| Argument::Text(Some(text));
    Option<String> => |text| Argument::Text(text);
    Option<&str> => |text| Argument::Text(text.map(str::to_owned));
    i64 => |number| Argument::Number(Some(number));
    u32 => |number| Argument::Number(Some(i64::from(number)));
    bool => |truth| Argument::Number(Some(i64::from(truth)));
    Option<i64> => |number| Argument::Number(number);
    UnixMillis => |time| Argument::Number(Some(time.0));
    Option<UnixMillis> => |time| Argument::Number(time.map(|time| time.0));
    &crate::ids::JobId => |id| Argument::Text(Some(id.to_string()));
    &crate::ids::AgentId => |id| Argument::Text(Some(id.to_string()));
    &crate::ids::PolicyId => |id| Argument::Text(Some(id.to_string()));
    &crate::ids::RecordId => |id| Argument::Text(Some(id.to_string()));
}

/// Binds what stands in the list: `arguments![&job, now, "queued"]`.
#[macro_export]
#[doc(hidden)]
macro_rules! arguments {
    ($($value:expr),* $(,)?) => { &[$($crate::database::Argument::from($value)),*] };
}

/// One transaction. Dropped without the end of its closure it is rolled back.
pub struct Transaction {
    inner: sqlx::Transaction<'static, Any>,
    dialect: Dialect,
    /// What is counted once this is committed.
    finished: Vec<Finished>,
}

impl Transaction {
    /// Counts this when, and only when, the transaction is committed.
    pub(crate) fn finishes(&mut self, finished: Finished) {
        self.finished.push(finished);
    }

    /// Runs a statement: how many rows it changed.
    ///
    /// # Errors
    /// The database refuses it.
    pub async fn execute(&mut self, sql: &str, arguments: &[Argument]) -> Result<u64> {
        let done = bound(sql, arguments).execute(&mut *self.inner).await;
        done.map(|done| done.rows_affected()).map_err(failed("change the database"))
    }

    /// All rows of a query.
    ///
    /// # Errors
    /// The database refuses it.
    pub async fn all(&mut self, sql: &str, arguments: &[Argument]) -> Result<Vec<Record>> {
        let rows = bound(sql, arguments).fetch_all(&mut *self.inner).await;
        rows.map(|rows| rows.into_iter().map(Record).collect()).map_err(failed("query the database"))
    }

    /// The first row of a query, if there is one.
    ///
    /// # Errors
    /// The database refuses it.
    pub async fn optional(&mut self, sql: &str, arguments: &[Argument]) -> Result<Option<Record>> {
        let row = bound(sql, arguments).fetch_optional(&mut *self.inner).await;
        row.map(|row| row.map(Record)).map_err(failed("query the database"))
    }

    /// The one row of a query that always has one.
    ///
    /// # Errors
    /// The database refuses it.
    pub async fn one(&mut self, sql: &str, arguments: &[Argument]) -> Result<Record> {
        self.optional(sql, arguments).await?.ok_or_else(|| ControlError::damaged(sql, "the query has no row"))
    }

    /// The first row, kept from everybody else until the end of this transaction.
    ///
    /// # Errors
    /// The database refuses it.
    pub async fn locked(&mut self, sql: &str, arguments: &[Argument]) -> Result<Option<Record>> {
        let locking = format!("{sql}{}", self.dialect.row_lock());
        self.optional(&locking, arguments).await
    }
}

/// Statements are written in this crate; what comes from outside is bound, never part of the text.
fn bound(sql: &str, arguments: &[Argument]) -> sqlx::query::Query<'static, Any, sqlx::any::AnyArguments> {
    let query = sqlx::query(AssertSqlSafe(sql.to_owned()));
    arguments.iter().fold(query, |query, argument| match argument.clone() {
        Argument::Text(text) => query.bind(text),
        Argument::Number(number) => query.bind(number),
    })
}

/// `$1,$2,…,$count`: for as many values as a statement names.
pub(crate) fn parameters(count: usize) -> String {
    (1..=count).map(|place| format!("${place}")).collect::<Vec<_>>().join(",")
}

/// The condition that leads to the page before `cursor`, bound to `$place`, and its argument; none for the first page.
/// There is no text that every collation puts after all ids, so a first page has no condition at all.
pub(crate) fn before(column: &str, place: usize, cursor: Option<&str>) -> (String, Vec<Argument>) {
    match cursor {
        Some(cursor) => (format!(" AND {column} < ${place}"), vec![Argument::from(cursor)]),
        None => (String::new(), Vec::new()),
    }
}

fn failed(operation: &'static str) -> impl FnOnce(sqlx::Error) -> ControlError {
    move |cause| ControlError::Database { operation, cause }
}

/// One row of an answer.
pub struct Record(AnyRow);

impl Record {
    fn get<'r, T>(&'r self, column: &str) -> Result<T>
    where
        T: sqlx::Decode<'r, Any> + sqlx::Type<Any>,
    {
        self.0.try_get(column).map_err(|cause| ControlError::damaged(format!("column {column}"), cause))
    }

    /// TEXT that is not null.
    ///
    /// # Errors
    /// It is null, or no text.
    pub fn text(&self, column: &str) -> Result<String> {
        self.get(column)
    }

    /// TEXT or null.
    ///
    /// # Errors
    /// It is no text.
    pub fn maybe_text(&self, column: &str) -> Result<Option<String>> {
        self.get(column)
    }

    /// BIGINT that is not null.
    ///
    /// # Errors
    /// It is null, or no number.
    pub fn number(&self, column: &str) -> Result<i64> {
        self.get(column)
    }

    /// BIGINT or null.
    ///
    /// # Errors
    /// It is no number.
    pub fn maybe_number(&self, column: &str) -> Result<Option<i64>> {
        self.get(column)
    }

    /// A time.
    ///
    /// # Errors
    /// It is null, or no number.
    pub fn time(&self, column: &str) -> Result<UnixMillis> {
        self.number(column).map(UnixMillis)
    }

    /// A time or null.
    ///
    /// # Errors
    /// It is no number.
    pub fn maybe_time(&self, column: &str) -> Result<Option<UnixMillis>> {
        Ok(self.maybe_number(column)?.map(UnixMillis))
    }

    /// A document.
    ///
    /// # Errors
    /// It is no JSON of this type.
    pub fn document<T: serde::de::DeserializeOwned>(&self, column: &str) -> Result<T> {
        let text = self.text(column)?;
        serde_json::from_str(&text).map_err(|cause| ControlError::damaged(format!("column {column}"), cause))
    }

    /// A word that stands for a value of a closed set.
    ///
    /// # Errors
    /// There is no such word.
    pub fn word<T: serde::de::DeserializeOwned>(&self, column: &str) -> Result<T> {
        let text = self.text(column)?;
        serde_json::from_value(serde_json::Value::String(text))
            .map_err(|cause| ControlError::damaged(format!("column {column}"), cause))
    }
}

/// A value as JSON text.
pub(crate) fn json<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("plain data has a JSON form")
}

/// The word that stands for a value of a closed set: the contrary of [`Record::word`].
pub(crate) fn word<T: serde::Serialize>(value: &T) -> String {
    match serde_json::to_value(value).expect("plain data has a JSON form") {
        serde_json::Value::String(text) => text,
        other => unreachable!("{other} is no word"),
    }
}
