//! Vectors in SQLite, with the functions of sqlite-vec.
//!
//! **Shape.** One table in one file; a query computes the distance to each document of a project.
//! That is exact, and fast enough for some ten thousand pages. sqlite-vec's own table, `vec0`,
//! compares all vectors as well, and its rows could not be written in the same statement as their
//! texts.
//!
//! **Correctness.** Each write is one statement, so one transaction. The file is in WAL mode with
//! full synchronization: what was answered survives a power failure.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use rusqlite::{Connection, Row, ffi, params};

use super::Match;
use super::embedding::{bytes, embed};
use super::store::{Document, Metadata, Scope, Store};
use crate::problem::Problem;
use crate::serving::blocking;

/// How long to wait for another process, such as a backup, to let go of the file.
const BUSY_WITHIN: Duration = Duration::from_secs(5);

const SCHEMA: &str = "
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = FULL;
    CREATE TABLE IF NOT EXISTS document (
      user      TEXT NOT NULL,
      project   TEXT NOT NULL,
      id        TEXT NOT NULL,
      text      TEXT NOT NULL,
      metadata  TEXT NOT NULL,   -- a JSON object
      embedding BLOB NOT NULL,   -- 256 numbers of 4 bytes
      PRIMARY KEY (user, project, id)
    ) STRICT;
";

const SAVE: &str = "
    INSERT INTO document (user, project, id, text, metadata, embedding) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
    ON CONFLICT (user, project, id) DO UPDATE
    SET text = excluded.text, metadata = excluded.metadata, embedding = excluded.embedding";

// Ids decide between documents that are equally near, so that the same query has the same answer.
const QUERY: &str = "
    SELECT id, text, metadata, vec_distance_cosine(embedding, ?3) AS distance
    FROM document WHERE user = ?1 AND project = ?2
    ORDER BY distance, id LIMIT ?4";

/// The documents of all users, in one file.
#[derive(Clone)]
pub struct Sqlite(Arc<Mutex<Connection>>);

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SqliteError {
    /// SQLite says so.
    #[error("the file of vectors: {0}")]
    File(#[from] rusqlite::Error),
    /// The vector functions could not be added.
    #[error("sqlite-vec could not be initialized: SQLite says {0}")]
    Functions(i32),
}

impl Sqlite {
    /// Opens the file, or makes it.
    ///
    /// # Errors
    /// See [`SqliteError`].
    pub fn open(file: &Path) -> Result<Self, SqliteError> {
        Self::with(Connection::open(file)?)
    }

    fn with(connection: Connection) -> Result<Self, SqliteError> {
        add_vector_functions(&connection)?;
        connection.busy_timeout(BUSY_WITHIN)?;
        connection.execute_batch(SCHEMA)?;
        Ok(Sqlite(Arc::new(Mutex::new(connection))))
    }

    /// Does work with the connection where it keeps nobody from running.
    fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> BoxFuture<'_, Result<T, Problem>> {
        let connection = Arc::clone(&self.0);
        Box::pin(blocking(move || {
            // A panic cannot leave a statement half done: SQLite takes it back.
            let connection = connection.lock().unwrap_or_else(PoisonError::into_inner);
            work(&connection).map_err(|error| Problem::internal("the vector store", error))
        }))
    }
}

/// Adds sqlite-vec's functions to this connection, and to no other.
fn add_vector_functions(connection: &Connection) -> Result<(), SqliteError> {
    type EntryPoint = unsafe extern "C" fn(
        *mut ffi::sqlite3,
        *mut *mut std::ffi::c_char,
        *const ffi::sqlite3_api_routines,
    ) -> std::ffi::c_int;
    let mut message: *mut std::ffi::c_char = std::ptr::null_mut();
    // SAFETY: sqlite-vec declares its entry point to Rust without parameters, but its header,
    // sqlite-vec.h, declares it with exactly those of `EntryPoint`, as SQLite requires of every
    // extension; so the transmute restores the true type of a function that lives as long as the
    // program. The handle is valid for the whole call, since `connection` is borrowed, and no
    // other thread uses it, since a `Connection` is not `Sync`. The table of routines may be null:
    // sqlite-vec is compiled with SQLITE_CORE and calls SQLite directly. A message, if there is
    // one, was allocated by SQLite and is freed once, by SQLite, which takes null as well.
    #[allow(unsafe_code, reason = "SQLite extensions are C; there is no safe way to add one")]
    let code = unsafe {
        let entry_point =
            std::mem::transmute::<*const (), EntryPoint>(sqlite_vec::sqlite3_vec_init as *const ());
        let code = entry_point(connection.handle(), &raw mut message, std::ptr::null());
        ffi::sqlite3_free(message.cast());
        code
    };
    if code == ffi::SQLITE_OK { Ok(()) } else { Err(SqliteError::Functions(code)) }
}

impl Store for Sqlite {
    fn save(&self, scope: Scope, document: Document) -> BoxFuture<'_, Result<(), Problem>> {
        self.run(move |connection| {
            let metadata = metadata_text(&document.metadata);
            let embedding = bytes(&embed(&document.text));
            connection
                .execute(
                    SAVE,
                    params![scope.user, scope.project, document.id, document.text, metadata, embedding],
                )
                .map(drop)
        })
    }

    fn remove(&self, scope: Scope, id: String) -> BoxFuture<'_, Result<(), Problem>> {
        self.run(move |connection| {
            let delete = "DELETE FROM document WHERE user = ?1 AND project = ?2 AND id = ?3";
            connection.execute(delete, params![scope.user, scope.project, id]).map(drop)
        })
    }

    fn list(&self, scope: Scope, prefix: String) -> BoxFuture<'_, Result<Vec<String>, Problem>> {
        self.run(move |connection| {
            let list = "SELECT id FROM document WHERE user = ?1 AND project = ?2 ORDER BY id";
            let mut statement = connection.prepare(list)?;
            let ids = statement.query_map(params![scope.user, scope.project], |row| row.get(0))?;
            let begins = |id: &rusqlite::Result<String>| id.as_ref().is_ok_and(|id| id.starts_with(&prefix));
            ids.filter(|id| id.is_err() || begins(id)).collect()
        })
    }

    fn remove_project(&self, scope: Scope) -> BoxFuture<'_, Result<(), Problem>> {
        self.run(move |connection| {
            let delete = "DELETE FROM document WHERE user = ?1 AND project = ?2";
            connection.execute(delete, params![scope.user, scope.project]).map(drop)
        })
    }

    fn query(&self, scope: Scope, text: String, k: u32) -> BoxFuture<'_, Result<Vec<Match>, Problem>> {
        self.run(move |connection| {
            let mut statement = connection.prepare(QUERY)?;
            let embedding = bytes(&embed(&text));
            statement.query_map(params![scope.user, scope.project, embedding, k], found)?.collect()
        })
    }
}

fn metadata_text(metadata: &Metadata) -> String {
    let members = metadata.iter().map(|(name, value)| (name.clone(), value.clone()));
    serde_json::Value::Object(members.collect()).to_string()
}

fn found(row: &Row<'_>) -> rusqlite::Result<Match> {
    let metadata: String = row.get("metadata")?;
    let distance: f64 = row.get("distance")?;
    Ok(Match {
        id: row.get("id")?,
        text: row.get("text")?,
        // It was written by this program; were it damaged, the document is still worth finding.
        metadata: serde_json::from_str(&metadata).unwrap_or_default(),
        score: 1.0 - distance,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn scope(user: &str) -> Scope {
        Scope { user: user.to_owned(), project: "p".to_owned() }
    }

    fn document(id: &str, text: &str) -> Document {
        let metadata = Metadata::from([("page".to_owned(), json!(7))]);
        Document { id: id.to_owned(), text: text.to_owned(), metadata }
    }

    async fn ids(store: &Sqlite, user: &str, text: &str) -> Vec<String> {
        let found = store.query(scope(user), text.to_owned(), 2).await.expect("a query");
        found.into_iter().map(|found| found.id).collect()
    }

    #[tokio::test]
    async fn the_nearest_document_is_found_first() {
        let store = Sqlite::with(Connection::open_in_memory().expect("memory")).expect("a store");
        for (id, text) in
            [("bees", "Honey bees live in hives."), ("rocks", "Granite is a rock."), ("x", "Zzz")]
        {
            for _ in 0..2 {
                store.save(scope("u"), document(id, text)).await.expect("saved");
            }
        }
        assert_eq!(ids(&store, "u", "where do bees live?").await[0], "bees");
        assert_eq!(ids(&store, "other", "where do bees live?").await, Vec::<String>::new());
        let same = store.query(scope("u"), "granite is a rock".to_owned(), 1).await.expect("a query");
        assert!((same[0].score - 1.0).abs() < 1e-4, "{same:?}");
        assert_eq!(same[0].metadata["page"], json!(7));
    }

    #[tokio::test]
    async fn removing_twice_is_as_once() {
        let store = Sqlite::with(Connection::open_in_memory().expect("memory")).expect("a store");
        store.save(scope("u"), document("a", "one")).await.expect("saved");
        store.save(scope("u"), document("b", "two")).await.expect("saved");
        for _ in 0..2 {
            store.remove(scope("u"), "a".to_owned()).await.expect("removed");
        }
        assert_eq!(ids(&store, "u", "one").await, ["b"]);
        let list = async |prefix: &str| store.list(scope("u"), prefix.to_owned()).await.expect("a list");
        assert_eq!((list("b").await, list("a").await), (vec!["b".to_owned()], Vec::new()));
        assert!(store.list(scope("v"), String::new()).await.expect("a list").is_empty());
        for _ in 0..2 {
            store.remove_project(scope("u")).await.expect("removed");
        }
        assert!(ids(&store, "u", "one").await.is_empty());
    }
}
