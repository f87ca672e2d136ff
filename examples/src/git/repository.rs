//! One project's repository.
//!
//! **Correctness.** Objects are written first and the branch is moved last, to a commit that is
//! complete; a crash before leaves objects that nobody refers to. A key is looked for from the
//! branch's head backwards, and the newest commit that names it decides: a snapshot is there, or
//! undone. So a snapshot or an undo that is sent again changes nothing. The caller makes sure that
//! only one runs at a time.

use std::path::PathBuf;

use git2::build::TreeUpdateBuilder;
use git2::{
    Commit, ErrorCode, FileMode, MergeOptions, Oid, Reference, Repository, RepositoryInitOptions, Signature,
    Tree,
};

use super::{Committed, Entry, Snapshot, trailer};
use crate::problem::Problem;

const BRANCH: &str = "refs/heads/main";
/// Who commits: the service. The user's id may be no name that git takes.
const NAME: &str = "Holdfast example";
const EMAIL: &str = "git@holdfast.invalid";

/// A project, with or without a repository yet.
pub(super) struct Project {
    at: PathBuf,
}

impl Project {
    pub(super) fn at(at: PathBuf) -> Self {
        Project { at }
    }

    pub(super) fn commit(&self, snapshot: &Snapshot) -> Result<Committed, Problem> {
        let repository = self.make().map_err(failed)?;
        let history = history(&repository).map_err(failed)?;
        if let Some(commit) = newest(&history, &snapshot.key) {
            let trailer = trailer_of(commit);
            if trailer.key.is_some() {
                return replayed(commit, trailer.digest.as_deref(), snapshot);
            }
        }
        let tree = tree_with(&repository, history.first(), snapshot)?;
        let message = trailer::message(snapshot);
        let commit = add(&repository, history.first(), &tree, &message).map_err(failed)?;
        Ok(Committed { commit: commit.to_string(), replayed: false })
    }

    pub(super) fn undo(&self, key: &str) -> Result<(), Problem> {
        let Some(repository) = self.open().map_err(failed)? else { return Ok(()) };
        let history = history(&repository).map_err(failed)?;
        let Some(commit) = newest(&history, key) else { return Ok(()) };
        if trailer_of(commit).undoes.is_some() {
            return Ok(());
        }
        match history.first() {
            Some(head) if head.id() == commit.id() => step_back(&repository, commit).map_err(failed),
            Some(head) => revert(&repository, head, commit, key),
            None => Ok(()),
        }
    }

    pub(super) fn log(&self) -> Result<Vec<Entry>, Problem> {
        let Some(repository) = self.open().map_err(failed)? else { return Ok(Vec::new()) };
        let history = history(&repository).map_err(failed)?;
        Ok(history.iter().map(entry).collect())
    }

    fn open(&self) -> Result<Option<Repository>, git2::Error> {
        found(Repository::open_bare(&self.at))
    }

    fn make(&self) -> Result<Repository, git2::Error> {
        if let Some(repository) = self.open()? {
            return Ok(repository);
        }
        let mut options = RepositoryInitOptions::new();
        // No template: hooks of whoever runs the service are not for its repositories.
        options.bare(true).mkpath(true).external_template(false).initial_head("main");
        Repository::init_opts(&self.at, &options)
    }
}

fn failed(error: git2::Error) -> Problem {
    Problem::internal("the repository", error)
}

/// None, where libgit2 says that there is none.
fn found<T>(result: Result<T, git2::Error>) -> Result<Option<T>, git2::Error> {
    match result {
        Ok(it) => Ok(Some(it)),
        Err(error) if error.code() == ErrorCode::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn branch(repository: &Repository) -> Result<Option<Reference<'_>>, git2::Error> {
    found(repository.find_reference(BRANCH))
}

/// The branch's commits, the newest first. An object that is missing is an error: a history that
/// seemed to end there would have forgotten its keys.
fn history(repository: &Repository) -> Result<Vec<Commit<'_>>, git2::Error> {
    let mut commits = Vec::new();
    let Some(branch) = branch(repository)? else { return Ok(commits) };
    let mut commit = branch.peel_to_commit()?;
    while commit.parent_count() > 0 {
        let parent = commit.parent(0)?;
        commits.push(std::mem::replace(&mut commit, parent));
    }
    commits.push(commit);
    Ok(commits)
}

fn trailer_of(commit: &Commit<'_>) -> trailer::Trailer {
    trailer::read(&String::from_utf8_lossy(commit.message_bytes()))
}

/// The newest commit that is, or undoes, the snapshot `key`.
fn newest<'a, 'r>(history: &'a [Commit<'r>], key: &str) -> Option<&'a Commit<'r>> {
    history.iter().find(|commit| {
        let trailer = trailer_of(commit);
        trailer.key.as_deref() == Some(key) || trailer.undoes.as_deref() == Some(key)
    })
}

/// The snapshot is there: the same one, or the key stands for another.
fn replayed(commit: &Commit<'_>, digest: Option<&str>, snapshot: &Snapshot) -> Result<Committed, Problem> {
    if digest != Some(trailer::content(&snapshot.message, &snapshot.files).as_str()) {
        let detail = format!("key {:?} stands for another snapshot, commit {}", snapshot.key, commit.id());
        return Err(Problem::conflict("key_conflict", detail));
    }
    Ok(Committed { commit: commit.id().to_string(), replayed: true })
}

/// The head's tree with the snapshot's files in it.
fn tree_with<'r>(
    repository: &'r Repository,
    head: Option<&Commit<'r>>,
    snapshot: &Snapshot,
) -> Result<Tree<'r>, Problem> {
    let base = base(repository, head).map_err(failed)?;
    let mut update = TreeUpdateBuilder::new();
    for (path, content) in &snapshot.files {
        match content {
            Some(content) => {
                let blob = repository.blob(content.as_bytes()).map_err(failed)?;
                update.upsert(path.as_str(), blob, FileMode::Blob);
            }
            // What is not there needs no removal, and libgit2 would refuse it.
            None if base.get_path(path.as_ref()).is_ok() => {
                update.remove(path.as_str());
            }
            None => {}
        }
    }
    let tree = update.create_updated(repository, &base).map_err(|error| {
        Problem::conflict("path_conflict", format!("files: they do not fit together: {}", error.message()))
    })?;
    repository.find_tree(tree).map_err(failed)
}

fn base<'r>(repository: &'r Repository, head: Option<&Commit<'r>>) -> Result<Tree<'r>, git2::Error> {
    match head {
        Some(head) => head.tree(),
        None => {
            let empty = repository.treebuilder(None)?.write()?;
            repository.find_tree(empty)
        }
    }
}

/// Adds a commit to the branch; libgit2 refuses it when the head is not the parent any more.
fn add(
    repository: &Repository,
    parent: Option<&Commit<'_>>,
    tree: &Tree<'_>,
    message: &str,
) -> Result<Oid, git2::Error> {
    let signature = Signature::now(NAME, EMAIL)?;
    let parents: Vec<&Commit<'_>> = parent.into_iter().collect();
    repository.commit(Some(BRANCH), &signature, &signature, message, tree, &parents)
}

/// Takes the head back: nothing was built on it.
fn step_back(repository: &Repository, head: &Commit<'_>) -> Result<(), git2::Error> {
    let Some(mut branch) = branch(repository)? else { return Ok(()) };
    if head.parent_count() == 0 {
        return branch.delete();
    }
    branch.set_target(head.parent_id(0)?, "undo a snapshot")?;
    Ok(())
}

/// Takes back what `commit` did, on top of what came later.
fn revert(repository: &Repository, head: &Commit<'_>, commit: &Commit<'_>, key: &str) -> Result<(), Problem> {
    let mut options = MergeOptions::new();
    // A later page that resembles the undone one is not that page renamed.
    options.find_renames(false);
    let mut index = repository.revert_commit(commit, head, 0, Some(&options)).map_err(failed)?;
    if index.has_conflicts() {
        let detail = format!("later snapshots changed what snapshot {key:?} did; undo them first");
        return Err(Problem::conflict("undo_conflict", detail));
    }
    let tree = index.write_tree_to(repository).and_then(|tree| repository.find_tree(tree)).map_err(failed)?;
    add(repository, Some(head), &tree, &trailer::undo_message(key)).map_err(failed)?;
    Ok(())
}

fn entry(commit: &Commit<'_>) -> Entry {
    let message = String::from_utf8_lossy(commit.message_bytes()).into_owned();
    let trailer = trailer::read(&message);
    Entry {
        commit: commit.id().to_string(),
        summary: message.lines().next().unwrap_or_default().to_owned(),
        time: commit.time().seconds(),
        key: trailer.key,
        undoes: trailer.undoes,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use uuid::Uuid;

    use super::super::Repositories;
    use super::*;

    /// Repositories in a folder that goes with the test.
    struct Test {
        repositories: Repositories,
        root: PathBuf,
    }

    impl Drop for Test {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.root);
        }
    }

    impl Test {
        fn new() -> Self {
            let root = std::env::temp_dir().join(format!("holdfast-git-{}", Uuid::new_v4().simple()));
            Test { repositories: Repositories::open(&root).expect("a folder"), root }
        }

        fn commit(&self, key: &str, files: &[(&str, Option<&str>)]) -> Result<Committed, Problem> {
            let files = files.iter().map(|(path, text)| ((*path).to_owned(), text.map(str::to_owned)));
            let files: BTreeMap<_, _> = files.collect();
            let snapshot = Snapshot { message: format!("Add {key}"), files, key: key.to_owned() };
            self.repositories.commit("u", "p", &snapshot)
        }

        fn undo(&self, key: &str) -> Result<(), Problem> {
            self.repositories.undo("u", "p", key)
        }

        fn summaries(&self) -> Vec<String> {
            let log = self.repositories.log("u", "p").expect("a log");
            log.commits.into_iter().map(|entry| entry.summary).collect()
        }

        /// The head's files with what is in them.
        fn files(&self) -> BTreeMap<String, String> {
            let repository = Repository::open_bare(self.root.join("u").join("p.git")).expect("a repository");
            let history = history(&repository).expect("a history");
            let mut files = BTreeMap::new();
            let Some(head) = history.first() else { return files };
            let tree = head.tree().expect("a tree");
            for path in ["a", "b", "d/c"] {
                if let Ok(entry) = tree.get_path(path.as_ref()) {
                    let blob = repository.find_blob(entry.id()).expect("a blob");
                    files.insert(path.to_owned(), String::from_utf8_lossy(blob.content()).into_owned());
                }
            }
            files
        }
    }

    fn texts(files: &[(&str, &str)]) -> BTreeMap<String, String> {
        files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect()
    }

    #[test]
    fn a_snapshot_is_made_once() {
        let test = Test::new();
        let first = test.commit("k1", &[("a", Some("1")), ("d/c", Some("2"))]).expect("committed");
        let again = test.commit("k1", &[("a", Some("1")), ("d/c", Some("2"))]).expect("replayed");
        assert_eq!((again.commit, first.replayed, again.replayed), (first.commit, false, true));
        assert_eq!(test.commit("k1", &[("a", Some("3"))]).expect_err("another").code(), "key_conflict");
        test.commit("k2", &[("b", Some("4")), ("d/c", None), ("nothing", None)]).expect("committed");
        assert_eq!(test.files(), texts(&[("a", "1"), ("b", "4")]));
        assert_eq!(test.summaries(), ["Add k2", "Add k1"]);
    }

    #[test]
    fn the_newest_snapshot_is_undone_by_stepping_back() {
        let test = Test::new();
        test.undo("k1").expect("nothing to undo");
        test.commit("k1", &[("a", Some("1"))]).expect("committed");
        test.commit("k2", &[("a", Some("2"))]).expect("committed");
        for _ in 0..2 {
            test.undo("k2").expect("undone");
            assert_eq!(test.files(), texts(&[("a", "1")]));
        }
        for _ in 0..2 {
            test.undo("k1").expect("undone");
            assert!(test.summaries().is_empty());
        }
        assert!(!test.commit("k1", &[("a", Some("3"))]).expect("a new one").replayed);
    }

    #[test]
    fn an_older_snapshot_is_undone_by_a_commit() {
        let test = Test::new();
        test.commit("k1", &[("a", Some("1"))]).expect("committed");
        test.commit("k2", &[("b", Some("2"))]).expect("committed");
        for _ in 0..2 {
            test.undo("k1").expect("undone");
            assert_eq!(test.files(), texts(&[("b", "2")]));
            assert_eq!(test.summaries(), ["Undo a snapshot", "Add k2", "Add k1"]);
        }
        assert!(!test.commit("k1", &[("a", Some("5"))]).expect("anew").replayed);
        test.undo("k1").expect("undone");
        assert_eq!(test.files(), texts(&[("b", "2")]));
    }

    #[test]
    fn an_undo_does_not_destroy_what_came_later() {
        let test = Test::new();
        test.commit("k1", &[("a", Some("1\n"))]).expect("committed");
        test.commit("k2", &[("a", Some("2\n"))]).expect("committed");
        assert_eq!(test.undo("k1").expect_err("changed later").code(), "undo_conflict");
        assert_eq!(test.files(), texts(&[("a", "2\n")]));
    }

    #[test]
    fn a_file_is_no_folder() {
        let test = Test::new();
        test.commit("k1", &[("a", Some("1"))]).expect("committed");
        assert_eq!(test.commit("k2", &[("a/b", Some("1"))]).expect_err("a file").code(), "path_conflict");
        for path in ["../a", ".git/config", "/a"] {
            let problem = test.commit("k3", &[(path, Some(""))]).expect_err(path);
            assert!(problem.detail().starts_with("files: "), "{}", problem.detail());
        }
    }
}
