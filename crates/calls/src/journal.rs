//! The journal: what a process knows of its holds, on the disk before the step that it announces.
//!
//! **Shape.** One thread owns the SQLite file. Everybody else hands it pieces of work through a
//! channel; what waits is done in one transaction, so a hundred calls that are settled at once
//! cost one `fsync`. Who must know that its write is on the disk awaits it; a `Drop`, which cannot
//! wait, only hands it over.
//!
//! **Correctness.** Work is done in the order in which it was handed over. A crash loses only
//! writes that nobody was told of. Every update names the state it expects, so one that comes too
//! late (the last count of a stream that has been settled) changes nothing. The file is locked
//! exclusively for as long as it is open: two processes that settle the same rows would do it
//! under different command ids.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use holdfast_core::{CommandId, HoldId, Tokens, UsageSource, Verb};
use rusqlite::{Connection, ErrorCode, OptionalExtension as _, Row as SqlRow, params};
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::price;

const SCHEMA: &str = include_str!("journal.sql");
/// `PRAGMA application_id` of the schema.
const APPLICATION_ID: i64 = 1_212_501_068;
/// `PRAGMA user_version` of the schema.
const VERSION: i64 = 1;
/// More work in one transaction would only make the first of it wait longer.
const BATCH_MAX: usize = 512;
/// For how long ended rows stay, for people who ask what became of a call.
const ENDED_FOR: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// How many calls of a model sizing looks back at.
pub(crate) const SAMPLES_MAX: usize = 500;
/// What `ending` says of a hold that was left to expire.
const KEPT: &str = "kept";

/// Why the journal did not take or give something.
#[derive(Debug, Clone, thiserror::Error)]
pub enum JournalError {
    /// Another process, or another [`crate::Calls`] of this one, has the file.
    #[error("the journal {} is in use; a process needs a journal of its own", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The file is something else.
    #[error("{} is no journal of LLM calls", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// A later program wrote it.
    #[error("the journal {} has version {version}, this program reads {VERSION}", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: i64,
    },
    /// The hold is not, or no more, in the state in which this can be said of it; for example a
    /// second call for a job whose first is under way.
    #[error("hold {0} is not in a state for this; a job can be under way only once")]
    State(HoldId),
    /// [`crate::Calls::close`] was called, or the journal's thread has ended.
    #[error("the journal is closed")]
    Closed,
    /// SQLite or the disk.
    #[error("journal: {0}")]
    Sqlite(String),
}

fn sqlite(error: rusqlite::Error) -> JournalError {
    JournalError::Sqlite(error.to_string())
}

/// How far a hold is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Reserving,
    Reserved,
    Dispatched,
    Settling,
    Ended,
}

impl State {
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "reserving" => State::Reserving,
            "reserved" => State::Reserved,
            "dispatched" => State::Dispatched,
            "settling" => State::Settling,
            "ended" => State::Ended,
            _ => return None,
        })
    }
}

/// A row of the table `hold`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) hold: HoldId,
    pub(crate) account: String,
    pub(crate) state: State,
    pub(crate) reserve_id: CommandId,
    pub(crate) reserve_body: String,
    pub(crate) observed: Option<String>,
    pub(crate) observed_source: Option<String>,
    pub(crate) settle_verb: Option<String>,
    pub(crate) settle_id: Option<String>,
    pub(crate) settle_body: Option<String>,
    pub(crate) ending: Option<String>,
}

const COLUMNS: &str = "hold, account, state, reserve_id, reserve_body, observed, observed_source, \
     settle_verb, settle_id, settle_body, ending";

impl Row {
    /// The row, or none when what is in it cannot be used; that is logged.
    fn read(row: &SqlRow<'_>) -> rusqlite::Result<Option<Self>> {
        let (hold, state, reserve_id): (String, String, String) = (row.get(0)?, row.get(2)?, row.get(3)?);
        let parsed = (Uuid::parse_str(&hold), State::parse(&state), Uuid::parse_str(&reserve_id));
        let (Ok(hold), Some(state), Ok(reserve_id)) = parsed else {
            tracing::error!(%hold, %state, "a row of the journal cannot be read and was left alone");
            return Ok(None);
        };
        Ok(Some(Row {
            hold,
            account: row.get(1)?,
            state,
            reserve_id,
            reserve_body: row.get(4)?,
            observed: row.get(5)?,
            observed_source: row.get(6)?,
            settle_verb: row.get(7)?,
            settle_id: row.get(8)?,
            settle_body: row.get(9)?,
            ending: row.get(10)?,
        }))
    }
}

/// A capture or release as it is written and sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ending {
    pub(crate) verb: Verb,
    pub(crate) id: CommandId,
    pub(crate) body: String,
}

/// Told whether its work is on the disk. Called on the journal's thread.
type Finish = Box<dyn FnOnce(Result<(), JournalError>)>;
/// One piece of work: given the transaction, or the reason why there is none.
type Work = Box<dyn FnOnce(Result<&Connection, JournalError>) -> Finish + Send>;

enum Task {
    Run(Work),
    Close(oneshot::Sender<()>),
}

/// A handle of the journal. The file is closed with the last one, or by [`Journal::close`].
#[derive(Clone)]
pub(crate) struct Journal {
    tasks: mpsc::Sender<Task>,
    /// Rows that have not ended; the journal's thread shows it as a metric after each batch.
    unfinished: Arc<AtomicI64>,
}

impl Journal {
    /// Opens the file, or makes it, and locks it.
    ///
    /// # Errors
    /// [`JournalError::InUse`] when somebody else has it, [`JournalError::Foreign`] and
    /// [`JournalError::Version`] when it is something else.
    pub(crate) async fn open(path: &Path) -> Result<Self, JournalError> {
        let (tasks, waiting) = mpsc::channel();
        let (opened, is_open) = oneshot::channel();
        let unfinished = Arc::new(AtomicI64::new(0));
        let (path, counter) = (path.to_owned(), Arc::clone(&unfinished));
        let thread = std::thread::Builder::new().name("holdfast-journal".to_owned());
        let started = thread.spawn(move || match open(&path) {
            Ok((connection, count)) => {
                counter.store(count, Ordering::Relaxed);
                show(&counter);
                let _ = opened.send(Ok(()));
                serve(connection, waiting, &counter);
            }
            Err(error) => {
                let _ = opened.send(Err(error));
            }
        });
        started.map_err(|error| JournalError::Sqlite(format!("its thread cannot be started: {error}")))?;
        is_open.await.map_err(|_| JournalError::Closed)??;
        Ok(Journal { tasks, unfinished })
    }

    /// Finishes what was handed over, closes the file and lets go of its lock.
    pub(crate) async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.tasks.send(Task::Close(done)).is_ok() {
            let _ = closed.await;
        }
    }

    /// How many rows have not ended.
    pub(crate) fn unfinished(&self) -> i64 {
        self.unfinished.load(Ordering::Relaxed)
    }

    /// Hands work over. `done` is called once: after the commit, or with the reason why there is
    /// none.
    fn enqueue<T, F, D>(&self, work: F, done: D)
    where
        T: 'static,
        F: FnOnce(&Connection) -> Result<T, JournalError> + Send + 'static,
        D: FnOnce(Result<T, JournalError>) + Send + 'static,
    {
        let work: Work = Box::new(move |tx: Result<&Connection, JournalError>| {
            let result = tx.and_then(work);
            let finish: Finish =
                Box::new(move |committed: Result<(), JournalError>| done(committed.and(result)));
            finish
        });
        if let Err(mpsc::SendError(Task::Run(work))) = self.tasks.send(Task::Run(work)) {
            work(Err(JournalError::Closed))(Ok(()));
        }
    }

    /// Hands work over and waits until it is on the disk.
    async fn run<T, F>(&self, work: F) -> Result<T, JournalError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, JournalError> + Send + 'static,
    {
        let (sender, done) = oneshot::channel();
        self.enqueue(work, move |result| {
            let _ = sender.send(result);
        });
        done.await.unwrap_or(Err(JournalError::Closed))
    }

    /// Hands work over without waiting; a failure is logged.
    fn note<F>(&self, hold: HoldId, what: &'static str, work: F)
    where
        F: FnOnce(&Connection) -> Result<(), JournalError> + Send + 'static,
    {
        self.enqueue(work, move |result| {
            if let Err(error) = result {
                tracing::error!(%hold, %error, what, "the journal did not take a note");
            }
        });
    }

    /// Notes a reserve that is about to be sent. A job whose earlier hold has ended may have
    /// another; its old row is replaced.
    ///
    /// # Errors
    /// [`JournalError::State`] when the hold is under way.
    pub(crate) async fn reserving(
        &self,
        hold: HoldId,
        account: String,
        reserve_id: CommandId,
        body: String,
    ) -> Result<(), JournalError> {
        let unfinished = Arc::clone(&self.unfinished);
        self.run(move |tx| {
            let mut insert = tx
                .prepare_cached(
                    "INSERT INTO hold (hold, account, state, reserve_id, reserve_body, created_ms, updated_ms) \
                     VALUES (?1, ?2, 'reserving', ?3, ?4, ?5, ?5) \
                     ON CONFLICT (hold) DO UPDATE SET \
                       account = excluded.account, state = excluded.state, reserve_id = excluded.reserve_id, \
                       reserve_body = excluded.reserve_body, observed = NULL, observed_source = NULL, \
                       settle_verb = NULL, settle_id = NULL, settle_body = NULL, ending = NULL, \
                       created_ms = excluded.created_ms, updated_ms = excluded.updated_ms \
                     WHERE state = 'ended'",
                )
                .map_err(sqlite)?;
            let (hold_text, id) = (hold.to_string(), reserve_id.to_string());
            let rows = insert.execute(params![hold_text, account, id, body, now_ms()]).map_err(sqlite)?;
            if rows == 0 {
                return Err(JournalError::State(hold));
            }
            unfinished.fetch_add(1, Ordering::Relaxed);
            Ok(())
        })
        .await
    }

    /// Notes that the reserve was accepted. Not waited for: without it the hold is released the
    /// same after a crash.
    pub(crate) fn reserved(&self, hold: HoldId) {
        self.note(hold, "reserved", move |tx| {
            let sql =
                "UPDATE hold SET state = 'reserved', updated_ms = ?2 WHERE hold = ?1 AND state = 'reserving'";
            update(tx, sql, params![hold.to_string(), now_ms()]).map(drop)
        });
    }

    /// Notes that the request is about to go to the provider.
    ///
    /// # Errors
    /// [`JournalError::State`] when the hold is not reserved here.
    pub(crate) async fn dispatched(&self, hold: HoldId) -> Result<(), JournalError> {
        self.run(move |tx| {
            let sql = "UPDATE hold SET state = 'dispatched', updated_ms = ?2 \
                       WHERE hold = ?1 AND state IN ('reserving', 'reserved', 'dispatched')";
            match update(tx, sql, params![hold.to_string(), now_ms()])? {
                0 => Err(JournalError::State(hold)),
                _ => Ok(()),
            }
        })
        .await
    }

    /// Notes what is known to have been used: tokens as JSON and where they are from; nothing when
    /// all of it has been charged in part.
    pub(crate) fn observed(&self, hold: HoldId, observed: Option<(String, &'static str)>) {
        self.note(hold, "observed", move |tx| set_observed(tx, hold, observed));
    }

    /// Notes a capture in part that is about to be sent. `observed` is what it leaves to be charged.
    /// `done` is told whether it is on the disk: [`JournalError::State`] when the hold is being
    /// settled, or has ended.
    pub(crate) fn parting(
        &self,
        hold: HoldId,
        reserve_id: CommandId,
        part: &Ending,
        observed: Option<(String, &'static str)>,
        done: impl FnOnce(Result<(), JournalError>) + Send + 'static,
    ) {
        let Ending { verb, id, body } = part.clone();
        let work = move |tx: &Connection| -> Result<(), JournalError> {
            let sql = "UPDATE hold SET state = 'settling', settle_verb = ?3, settle_id = ?4, settle_body = ?5, \
                         observed = ?6, observed_source = ?7, updated_ms = ?8 \
                       WHERE hold = ?1 AND reserve_id = ?2 AND state IN ('reserving', 'reserved', 'dispatched')";
            let (hold_text, reserve_id, id) = (hold.to_string(), reserve_id.to_string(), id.to_string());
            let (tokens, source) = observed.unzip();
            let values = params![hold_text, reserve_id, verb.as_str(), id, body, tokens, source, now_ms()];
            match update(tx, sql, values)? {
                0 => Err(JournalError::State(hold)),
                _ => Ok(()),
            }
        };
        self.enqueue(work, done);
    }

    /// Notes that a part has its outcome: the call goes on. `uncharged` is what it would have
    /// charged, if it was rejected: that is to be charged still.
    pub(crate) fn parted(&self, hold: HoldId, id: CommandId, uncharged: Option<(Tokens, UsageSource)>) {
        self.note(hold, "part", move |tx| {
            let (hold, id) = (hold.to_string(), id.to_string());
            let the_part = "hold = ?1 AND state = 'settling' AND settle_id = ?2";
            let sql = format!("SELECT observed, observed_source FROM hold WHERE {the_part}");
            let read = |row: &SqlRow<'_>| Ok((row.get(0)?, row.get(1)?));
            let row = tx.query_row(&sql, params![hold, id], read).optional().map_err(sqlite)?;
            let Some((observed, source)) = row else { return Ok(()) };
            let (observed, source) = with_uncharged((observed, source), uncharged);
            let sql = format!(
                "UPDATE hold SET state = 'dispatched', settle_verb = NULL, settle_id = NULL, settle_body = NULL, \
                   observed = ?3, observed_source = ?4, updated_ms = ?5 WHERE {the_part}"
            );
            update(tx, &sql, params![hold, id, observed, source, now_ms()]).map(drop)
        });
    }

    /// Notes how the hold is about to end. `done` is told whether it is written; `false` means
    /// that there is no such row to be settled (any more), or that it is another reserve's.
    pub(crate) fn settling(
        &self,
        hold: HoldId,
        reserve_id: CommandId,
        ending: &Ending,
        done: impl FnOnce(Result<bool, JournalError>) + Send + 'static,
    ) {
        let Ending { verb, id, body } = ending.clone();
        let work = move |tx: &Connection| -> Result<bool, JournalError> {
            let sql = "UPDATE hold SET state = 'settling', settle_verb = ?3, settle_id = ?4, settle_body = ?5, \
                         updated_ms = ?6 \
                       WHERE hold = ?1 AND reserve_id = ?2 AND state NOT IN ('settling', 'ended')";
            let (hold, reserve_id, id) = (hold.to_string(), reserve_id.to_string(), id.to_string());
            let rows = update(tx, sql, params![hold, reserve_id, verb.as_str(), id, body, now_ms()])?;
            Ok(rows > 0)
        };
        self.enqueue(work, done);
    }

    /// Notes that `ending` is sent in place of the command `id`, which was rejected. Whether there is
    /// such a row.
    pub(crate) async fn settling_otherwise(
        &self,
        hold: HoldId,
        id: CommandId,
        ending: &Ending,
    ) -> Result<bool, JournalError> {
        let Ending { verb, id: new, body } = ending.clone();
        self.run(move |tx| {
            let sql = "UPDATE hold SET settle_verb = ?3, settle_id = ?4, settle_body = ?5, updated_ms = ?6 \
                       WHERE hold = ?1 AND state = 'settling' AND settle_id = ?2";
            let (hold, id, new) = (hold.to_string(), id.to_string(), new.to_string());
            Ok(update(tx, sql, params![hold, id, verb.as_str(), new, body, now_ms()])? > 0)
        })
        .await
    }

    /// Notes the end: the outcome as JSON.
    pub(crate) fn ended(&self, hold: HoldId, ending: String) {
        let unfinished = Arc::clone(&self.unfinished);
        self.note(hold, "ended", move |tx| {
            let sql = "UPDATE hold SET state = 'ended', ending = ?2, updated_ms = ?3 \
                       WHERE hold = ?1 AND state <> 'ended'";
            let rows = update(tx, sql, params![hold.to_string(), ending, now_ms()])?;
            unfinished.fetch_sub(i64::from(rows > 0), Ordering::Relaxed);
            Ok(())
        });
    }

    /// Notes that the hold is left to expire.
    pub(crate) fn kept(&self, hold: HoldId) {
        self.ended(hold, KEPT.to_owned());
    }

    /// Notes how much output a call of `model` had. Counts beyond 2^63 are none.
    pub(crate) fn sample(&self, hold: HoldId, model: String, output: u64) {
        self.note(hold, "sample", move |tx| {
            let Ok(output) = i64::try_from(output) else { return Ok(()) };
            let sql = "INSERT INTO sample (model, output, at_ms) VALUES (?1, ?2, ?3)";
            update(tx, sql, params![model, output, now_ms()]).map(drop)
        });
    }

    /// Takes out what is no longer of use: old ended rows, and samples beyond those looked at.
    pub(crate) fn sweep(&self) {
        self.note(Uuid::nil(), "sweep", |tx| {
            let week = i64::try_from(ENDED_FOR.as_millis()).unwrap_or(i64::MAX);
            let sql = "DELETE FROM hold WHERE state = 'ended' AND updated_ms < ?1";
            update(tx, sql, params![now_ms().saturating_sub(week)])?;
            let sql = "DELETE FROM sample WHERE rowid IN (SELECT id FROM (SELECT rowid AS id, \
                         row_number() OVER (PARTITION BY model ORDER BY at_ms DESC, rowid DESC) AS age FROM sample) \
                       WHERE age > ?1)";
            let most = i64::try_from(SAMPLES_MAX).unwrap_or(i64::MAX);
            update(tx, sql, params![most]).map(drop)
        });
    }

    /// What has not ended, the oldest first.
    pub(crate) async fn unfinished_rows(&self) -> Result<Vec<Row>, JournalError> {
        self.run(|tx| {
            let sql = format!("SELECT {COLUMNS} FROM hold WHERE state <> 'ended' ORDER BY created_ms, rowid");
            let mut select = tx.prepare(&sql).map_err(sqlite)?;
            let rows = select.query_map([], Row::read).map_err(sqlite)?;
            let rows: Vec<Option<Row>> = rows.collect::<rusqlite::Result<_>>().map_err(sqlite)?;
            Ok(rows.into_iter().flatten().collect())
        })
        .await
    }

    /// One row.
    #[cfg(test)]
    pub(crate) async fn row(&self, hold: HoldId) -> Result<Option<Row>, JournalError> {
        self.run(move |tx| {
            let sql = format!("SELECT {COLUMNS} FROM hold WHERE hold = ?1");
            let row = tx.query_row(&sql, [hold.to_string()], Row::read).optional().map_err(sqlite)?;
            Ok(row.flatten())
        })
        .await
    }

    /// Every sample, the oldest first: model and output tokens.
    pub(crate) async fn samples(&self) -> Result<Vec<(String, u64)>, JournalError> {
        self.run(|tx| {
            let mut select =
                tx.prepare("SELECT model, output FROM sample ORDER BY at_ms, rowid").map_err(sqlite)?;
            let rows = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).map_err(sqlite)?;
            let rows: Vec<(String, i64)> = rows.collect::<rusqlite::Result<_>>().map_err(sqlite)?;
            Ok(rows.into_iter().filter_map(|(model, n)| Some((model, u64::try_from(n).ok()?))).collect())
        })
        .await
    }
}

/// What a row has observed, tokens as JSON and their source, with what a rejected part leaves to be
/// charged.
pub(crate) fn with_uncharged(
    observed: (Option<String>, Option<String>),
    uncharged: Option<(Tokens, UsageSource)>,
) -> (Option<String>, Option<String>) {
    let Some((tokens, source)) = uncharged else { return observed };
    let (text, name) = observed;
    let since = text.as_deref().and_then(|text| serde_json::from_str::<Tokens>(text).ok());
    let all = price::sum(&tokens, &since.unwrap_or_default());
    let all = serde_json::to_string(&all).expect("tokens are plain values");
    (Some(all), name.or_else(|| Some(source_name(source).to_owned())))
}

/// A source as the journal has it; estimates are never observed.
pub(crate) fn source_name(source: UsageSource) -> &'static str {
    match source {
        UsageSource::Delivered => "delivered",
        UsageSource::Reported | UsageSource::Estimated => "reported",
    }
}

fn update(tx: &Connection, sql: &str, values: impl rusqlite::Params) -> Result<usize, JournalError> {
    tx.prepare_cached(sql).and_then(|mut statement| statement.execute(values)).map_err(sqlite)
}

fn set_observed(
    tx: &Connection,
    hold: HoldId,
    observed: Option<(String, &'static str)>,
) -> Result<(), JournalError> {
    // While a part is on its way the call goes on, and what comes meanwhile is not in the part.
    let sql = "UPDATE hold SET observed = ?2, observed_source = ?3, updated_ms = ?4 \
               WHERE hold = ?1 AND (state = 'dispatched' \
                 OR (state = 'settling' AND json_extract(settle_body, '$.final') = 0))";
    let (tokens, source) = observed.unzip();
    update(tx, sql, params![hold.to_string(), tokens, source, now_ms()]).map(drop)
}

/// Does what is handed over until the last handle is gone, or it is told to close; what is handed
/// over behind that is refused.
fn serve(mut connection: Connection, tasks: mpsc::Receiver<Task>, unfinished: &AtomicI64) {
    while let Ok(first) = tasks.recv() {
        let (mut batch, mut closing) = (Vec::new(), None);
        for task in std::iter::once(first).chain(tasks.try_iter()) {
            match task {
                Task::Run(work) => batch.push(work),
                Task::Close(done) => closing = Some(done),
            }
            if closing.is_some() || batch.len() >= BATCH_MAX {
                break;
            }
        }
        write(&mut connection, batch);
        show(unfinished);
        if let Some(done) = closing {
            drop(connection);
            for task in tasks.try_iter() {
                if let Task::Run(work) = task {
                    work(Err(JournalError::Closed))(Ok(()));
                }
            }
            // Before anybody is told: what is handed over afterwards is refused rather than lost.
            drop(tasks);
            let _ = done.send(());
            return;
        }
    }
}

/// Does a batch in one transaction, and tells everybody.
fn write(connection: &mut Connection, batch: Vec<Work>) {
    let finishes: Vec<Finish>;
    let committed = match connection.transaction() {
        Ok(tx) => {
            let within: &Connection = &tx;
            finishes = batch.into_iter().map(|work| work(Ok(within))).collect();
            tx.commit().map_err(sqlite)
        }
        Err(error) => {
            let error = sqlite(error);
            finishes = batch.into_iter().map(|work| work(Err(error.clone()))).collect();
            Ok(())
        }
    };
    for finish in finishes {
        finish(committed.clone());
    }
}

fn show(unfinished: &AtomicI64) {
    let count = u32::try_from(unfinished.load(Ordering::Relaxed).max(0)).unwrap_or(u32::MAX);
    metrics::gauge!("holdfast_journal_unfinished").set(f64::from(count));
}

/// Makes the file if there is none, for nobody else to read: it says who uses what. What SQLite puts
/// beside it is like it. A file that is there is not even opened: with its closing this process
/// would lose the locks that it may have on it.
fn make(path: &Path) -> io::Result<()> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    match options.open(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// The connection, locked, and how many rows have not ended.
fn open(path: &Path) -> Result<(Connection, i64), JournalError> {
    let named = |error: rusqlite::Error| match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            JournalError::InUse { path: path.to_owned() }
        }
        Some(ErrorCode::NotADatabase) => JournalError::Foreign { path: path.to_owned() },
        _ => JournalError::Sqlite(format!("{}: {error}", path.display())),
    };
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs::create_dir_all(folder)
            .map_err(|error| JournalError::Sqlite(format!("{}: {error}", folder.display())))?;
    }
    make(path).map_err(|error| JournalError::Sqlite(format!("{}: {error}", path.display())))?;
    let connection = Connection::open(path).map_err(named)?;
    // Whoever has the file keeps it for the whole of its life; waiting would not help.
    connection.busy_timeout(Duration::ZERO).map_err(named)?;
    // Before anything is read: with it WAL needs no memory that processes share, and a lock that is
    // taken is kept.
    connection.execute_batch("PRAGMA locking_mode = EXCLUSIVE").map_err(named)?;
    let number = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0)).map_err(named);
    let (application, version) = (number("PRAGMA application_id")?, number("PRAGMA user_version")?);
    let is_new = match (application, version, number("SELECT count(*) FROM sqlite_master")?) {
        (0, 0, 0) => true,
        (APPLICATION_ID, VERSION, _) => false,
        (APPLICATION_ID, version, _) => return Err(JournalError::Version { path: path.to_owned(), version }),
        _ => return Err(JournalError::Foreign { path: path.to_owned() }),
    };
    // The empty transaction takes the exclusive lock now rather than at the first write.
    let settings = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; BEGIN EXCLUSIVE; COMMIT;";
    connection.execute_batch(settings).map_err(named)?;
    if is_new {
        // In one transaction, so that a crash leaves either no schema or all of it.
        connection.execute_batch(&format!("BEGIN EXCLUSIVE;\n{SCHEMA}\nCOMMIT;")).map_err(named)?;
    }
    let count = number("SELECT count(*) FROM hold WHERE state <> 'ended'")?;
    Ok((connection, count))
}

/// Unix milliseconds.
fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
pub(crate) mod testing {
    //! A journal in a folder of its own, which goes with it.

    use super::*;

    pub(crate) struct Folder(PathBuf);

    impl Folder {
        pub(crate) fn new() -> Self {
            let folder = std::env::temp_dir().join(format!("holdfast-calls-{}", Uuid::now_v7()));
            fs::create_dir_all(&folder).expect("a temporary folder");
            Folder(folder)
        }

        pub(crate) fn file(&self) -> PathBuf {
            self.0.join("calls.db")
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}

#[cfg(test)]
#[path = "journal_tests.rs"]
mod tests;
