//! Files on a disk.
//!
//! **Shape.** `<root>/users/<user>/<project>/<path>`; what is being written, or has been taken away
//! and is not removed yet, is under `<root>/staged/`, which is emptied at start. A root belongs to
//! one process.
//!
//! **Correctness.** A file is staged, made durable and renamed: a reader sees the old content or
//! the new one, and so does whoever looks after a crash. Saving the same again changes nothing, and
//! removing what is not there is fine. Folders come and go with their files under one lock, or a
//! save could lose its folder to a removal beside it.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use uuid::Uuid;

use super::Listed;
use crate::durable::{Staged, sync};
use crate::names;
use crate::problem::Problem;

/// The files of all users.
#[derive(Debug)]
pub struct Files {
    users: PathBuf,
    staged: PathBuf,
    /// Held while folders are made and removed.
    folders: Mutex<()>,
}

impl Files {
    /// The files under `root`, which is made if it is not there.
    ///
    /// # Errors
    /// When the disk does not let it.
    pub fn open(root: &Path) -> io::Result<Self> {
        let (users, staged) = (root.join("users"), root.join("staged"));
        fs::create_dir_all(&users)?;
        match fs::remove_dir_all(&staged) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => fs::create_dir(&staged)?,
        }
        Ok(Files { users, staged, folders: Mutex::new(()) })
    }

    /// Saves a file, in place of what was there.
    ///
    /// # Errors
    /// A name that is not allowed, a folder of that name, or the disk.
    pub fn save(&self, user: &str, project: &str, path: &str, content: &[u8]) -> Result<(), Problem> {
        let target = self.file(user, project, path)?;
        self.publish(&target, content).map_err(|error| match error.kind() {
            ErrorKind::IsADirectory
            | ErrorKind::NotADirectory
            | ErrorKind::AlreadyExists
            | ErrorKind::DirectoryNotEmpty => {
                let detail =
                    format!("{path:?} or a folder that it is in is there as the other of file and folder");
                Problem::conflict("path_conflict", detail)
            }
            _ => Problem::internal("saving a file", error),
        })
    }

    fn publish(&self, target: &Path, content: &[u8]) -> io::Result<()> {
        let staged = Staged::write(&self.staged, content)?;
        let _folders = self.lock();
        let folder = target.parent().unwrap_or(&self.users);
        fs::create_dir_all(folder)?;
        staged.publish(target)?;
        // The names of folders that were just made; the file's own is durable already.
        folder.ancestors().skip(1).take_while(|above| above.starts_with(&self.users)).try_for_each(sync)
    }

    /// A file's content.
    ///
    /// # Errors
    /// A name that is not allowed, a file that is not there, or the disk.
    pub fn read(&self, user: &str, project: &str, path: &str) -> Result<Vec<u8>, Problem> {
        let target = self.file(user, project, path)?;
        fs::read(target).map_err(|error| match error.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::IsADirectory => {
                Problem::not_found(format!("project {project} has no file {path:?}"))
            }
            _ => Problem::internal("reading a file", error),
        })
    }

    /// Removes a file, if it is there.
    ///
    /// # Errors
    /// A name that is not allowed, or the disk.
    pub fn remove(&self, user: &str, project: &str, path: &str) -> Result<(), Problem> {
        let target = self.file(user, project, path)?;
        let _folders = self.lock();
        if target.is_file() {
            fs::remove_file(&target).map_err(|error| Problem::internal("removing a file", error))?;
        }
        self.prune(&target);
        Ok(())
    }

    /// Removes folders that have become empty, so that a file may have their name later. Also when
    /// the file was not there: a crash may have come between.
    fn prune(&self, target: &Path) {
        let above = target.ancestors().skip(1);
        for folder in above.take_while(|folder| folder.starts_with(&self.users) && *folder != self.users) {
            match fs::remove_dir(folder) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(_) => return,
            }
        }
    }

    /// A project's files by path; none when there is no such project.
    ///
    /// # Errors
    /// A name that is not allowed, or the disk.
    pub fn list(&self, user: &str, project: &str) -> Result<Vec<Listed>, Problem> {
        let root = self.project(user, project)?;
        let _folders = self.lock();
        let mut files = walk(&root).map_err(|error| Problem::internal("listing files", error))?;
        files.sort();
        Ok(files)
    }

    /// Removes a project with all its files, if it is there.
    ///
    /// # Errors
    /// A name that is not allowed, or the disk.
    pub fn remove_project(&self, user: &str, project: &str) -> Result<(), Problem> {
        let root = self.project(user, project)?;
        // A rename first, so that nobody sees half a project.
        let away = self.staged.join(Uuid::new_v4().simple().to_string());
        let folders = self.lock();
        let moved = fs::rename(root, &away);
        drop(folders);
        match moved.and_then(|()| fs::remove_dir_all(away)) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(Problem::internal("removing a project", error))
            }
            _ => Ok(()),
        }
    }

    fn project(&self, user: &str, project: &str) -> Result<PathBuf, Problem> {
        names::user("X-User-ID", user)?;
        names::project(project)?;
        Ok(self.users.join(names::folder(user)).join(project))
    }

    fn file(&self, user: &str, project: &str, path: &str) -> Result<PathBuf, Problem> {
        names::path("path", path)?;
        Ok(self.project(user, project)?.join(path))
    }

    /// It guards no data that a panic could leave half changed.
    fn lock(&self) -> MutexGuard<'_, ()> {
        self.folders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All files below `root`, in no order.
fn walk(root: &Path) -> io::Result<Vec<Listed>> {
    let (mut files, mut folders) = (Vec::new(), vec![root.to_owned()]);
    while let Some(folder) = folders.pop() {
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else {
                files.push(listed(root, &entry)?);
            }
        }
    }
    Ok(files)
}

fn listed(root: &Path, entry: &fs::DirEntry) -> io::Result<Listed> {
    let path = entry.path();
    let path = path.strip_prefix(root).map_err(io::Error::other)?;
    Ok(Listed { path: path.to_string_lossy().into_owned(), bytes: entry.metadata()?.len() })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder that goes with the test.
    struct Folder(PathBuf);

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn files() -> (Files, Folder) {
        let folder = Folder(std::env::temp_dir().join(format!("holdfast-files-{}", Uuid::new_v4().simple())));
        (Files::open(&folder.0).expect("a folder"), folder)
    }

    fn paths(files: &Files, user: &str) -> Vec<String> {
        files.list(user, "p").expect("a list").into_iter().map(|file| file.path).collect()
    }

    #[test]
    fn saving_and_removing_twice_is_as_once() {
        let (files, _folder) = files();
        for _ in 0..2 {
            files.save("u", "p", "wiki/a.md", b"one").expect("saved");
        }
        files.save("u", "p", "b.md", b"two").expect("saved");
        assert_eq!(paths(&files, "u"), ["b.md", "wiki/a.md"]);
        assert_eq!(files.read("u", "p", "wiki/a.md").expect("there"), b"one");
        for _ in 0..2 {
            files.remove("u", "p", "wiki/a.md").expect("gone");
        }
        assert_eq!(paths(&files, "u"), ["b.md"]);
        assert_eq!(files.read("u", "p", "wiki/a.md").expect_err("gone").code(), "not_found");
        files.save("u", "p", "wiki", b"now a file").expect("the empty folder is gone");
        for _ in 0..2 {
            files.remove_project("u", "p").expect("gone");
        }
        assert!(paths(&files, "u").is_empty());
    }

    #[test]
    fn users_do_not_see_each_other() {
        let (files, _folder) = files();
        files.save("u", "p", "a", b"mine").expect("saved");
        assert_eq!(files.read("U", "p", "a").expect_err("another's").code(), "not_found");
        assert!(paths(&files, "u/p").is_empty());
        for path in ["../p/a", "..", "/etc/passwd", "a/../../b"] {
            assert_eq!(files.read("u", "p", path).expect_err(path).code(), "invalid_request");
            assert_eq!(files.save("u", "p", path, b"").expect_err(path).code(), "invalid_request");
        }
    }

    #[test]
    fn a_file_is_no_folder() {
        let (files, _folder) = files();
        files.save("u", "p", "a", b"").expect("saved");
        files.save("u", "p", "d/e", b"").expect("saved");
        assert_eq!(files.save("u", "p", "a/b", b"").expect_err("a file").code(), "path_conflict");
        assert_eq!(files.save("u", "p", "d", b"").expect_err("a folder").code(), "path_conflict");
    }

    #[test]
    fn what_a_crash_left_is_gone_at_the_next_start() {
        let (files, folder) = files();
        fs::write(files.staged.join("half"), b"half a file").expect("written");
        drop(files);
        let files = Files::open(&folder.0).expect("again");
        assert_eq!(fs::read_dir(&files.staged).expect("a folder").count(), 0);
    }
}
