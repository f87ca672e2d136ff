//! The journal on a real file: states, locks, and what survives.

use super::testing::Folder;
use super::*;

async fn settle(journal: &Journal, hold: HoldId, reserve_id: CommandId) -> Result<bool, JournalError> {
    let ending = Ending { verb: Verb::Release, id: Uuid::now_v7(), body: "{}".to_owned() };
    let (sender, done) = oneshot::channel();
    journal.settling(hold, reserve_id, &ending, move |result| {
        let _ = sender.send(result);
    });
    done.await.expect("told")
}

#[tokio::test]
async fn a_second_opener_is_told_the_file() {
    let folder = Folder::new();
    let journal = Journal::open(&folder.file()).await.expect("opened");
    let second = Journal::open(&folder.file()).await.err().expect("refused");
    assert!(matches!(second, JournalError::InUse { .. }), "{second:?}");
    assert!(second.to_string().contains("calls.db"), "{second}");
    journal.close().await;
    Journal::open(&folder.file()).await.expect("free again");
}

#[tokio::test]
async fn a_foreign_file_is_left_alone() {
    let folder = Folder::new();
    fs::write(folder.file(), "a letter to somebody, which is certainly no database").expect("written");
    let error = Journal::open(&folder.file()).await.err().expect("refused");
    assert!(matches!(error, JournalError::Foreign { .. }), "{error:?}");
}

#[tokio::test]
async fn a_row_goes_through_its_states_and_survives() {
    let folder = Folder::new();
    let (hold, id) = (Uuid::now_v7(), Uuid::now_v7());
    let journal = Journal::open(&folder.file()).await.expect("opened");
    journal.reserving(hold, "user-1".to_owned(), id, "{}".to_owned()).await.expect("written");
    let again = journal.reserving(hold, "user-1".to_owned(), id, "{}".to_owned()).await;
    assert!(matches!(again, Err(JournalError::State(_))), "{again:?}");
    journal.reserved(hold);
    journal.observed(hold, Some(("{}".to_owned(), "reported")));
    journal.dispatched(hold).await.expect("written");
    let row = journal.row(hold).await.expect("read").expect("there");
    assert_eq!((row.state, row.observed), (State::Dispatched, None), "observed only once dispatched");
    journal.observed(hold, Some((r#"{"input":1}"#.to_owned(), "reported")));
    journal.close().await;
    assert!(matches!(journal.dispatched(hold).await, Err(JournalError::Closed)));

    let journal = Journal::open(&folder.file()).await.expect("opened");
    assert_eq!(journal.unfinished(), 1);
    let rows = journal.unfinished_rows().await.expect("read");
    assert_eq!(rows[0].observed.as_deref(), Some(r#"{"input":1}"#));
    assert!(!settle(&journal, hold, Uuid::now_v7()).await.expect("done"), "another reserve's");
    assert!(settle(&journal, hold, id).await.expect("done"));
    assert!(!settle(&journal, hold, id).await.expect("done"), "only once");
    journal.ended(hold, "{}".to_owned());
    assert_eq!(journal.row(hold).await.expect("read").expect("there").state, State::Ended);
    assert_eq!(journal.unfinished(), 0);
    journal.reserving(hold, "user-1".to_owned(), id, "{}".to_owned()).await.expect("the job again");
}

#[tokio::test]
async fn samples_are_read_in_order_and_swept() {
    let folder = Folder::new();
    let journal = Journal::open(&folder.file()).await.expect("opened");
    for output in 0..510 {
        journal.sample(Uuid::nil(), "m".to_owned(), output);
    }
    journal.sample(Uuid::nil(), "n".to_owned(), 7);
    journal.sweep();
    let samples = journal.samples().await.expect("read");
    assert_eq!(samples.len(), 501);
    assert!(samples.contains(&("n".to_owned(), 7)) && !samples.contains(&("m".to_owned(), 9)));
}

#[cfg(unix)]
#[tokio::test]
async fn only_its_owner_may_read_the_file() {
    use std::os::unix::fs::PermissionsExt as _;

    let folder = Folder::new();
    let journal = Journal::open(&folder.file()).await.expect("opened");
    journal
        .reserving(Uuid::now_v7(), "user-1".to_owned(), Uuid::now_v7(), "{}".to_owned())
        .await
        .expect("written");
    for name in ["calls.db", "calls.db-wal"] {
        let file = folder.file().with_file_name(name);
        let mode = fs::metadata(&file).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}
