//! What Holdfast refuses to run on: a Postgres that could forget what it acknowledged.

use sqlx::PgConnection;

use crate::error::StoreError;

/// The oldest Postgres, as `server_version_num` counts.
const VERSION_MIN: i32 = 160_000;

/// Checks the server and this session: version 16, `fsync`, `full_page_writes`, and
/// `synchronous_commit` at least `on`.
pub async fn check_session(connection: &mut PgConnection) -> Result<(), StoreError> {
    let problems = problems(connection).await?;
    if problems.is_empty() { Ok(()) } else { Err(StoreError::Inconsistent(problems.join("; "))) }
}

/// What is wrong with the server, in sentences that say what to do.
pub async fn problems(connection: &mut PgConnection) -> Result<Vec<String>, StoreError> {
    let (version, fsync, pages, commit): (i32, String, String, String) = sqlx::query_as(
        "SELECT current_setting('server_version_num')::int, current_setting('fsync'),
                current_setting('full_page_writes'), current_setting('synchronous_commit')",
    )
    .fetch_one(connection)
    .await?;
    let mut problems = Vec::new();
    if version < VERSION_MIN {
        problems.push(format!("Postgres {} is too old; install 16 or newer", version / 10_000));
    }
    for (name, value) in [("fsync", &fsync), ("full_page_writes", &pages)] {
        if value != "on" {
            problems.push(format!("{name} is {value}; set it to on, or committed events can be lost"));
        }
    }
    // `remote_apply` waits for more than `on` does; everything else for less.
    if !["on", "remote_apply"].contains(&commit.as_str()) {
        problems.push(format!("synchronous_commit is {commit}; set it to on for the database or its login"));
    }
    Ok(problems)
}
