//! Files that are there as a whole or not at all, also after a power failure.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use uuid::Uuid;

/// Content that is on the disk, but has no name yet that anybody looks for.
pub(crate) struct Staged {
    at: PathBuf,
}

impl Staged {
    /// Writes `content` under a name of its own in `folder`, which must be on the same file system
    /// as where it is to go, since only there a rename is atomic.
    pub(crate) fn write(folder: &Path, content: &[u8]) -> io::Result<Self> {
        let staged = Staged { at: folder.join(Uuid::new_v4().simple().to_string()) };
        let mut file = File::create_new(&staged.at)?;
        file.write_all(content)?;
        // Before the rename: else a crash could leave the new name on an empty file.
        file.sync_all()?;
        Ok(staged)
    }

    /// Gives it its name, in place of what has that name now.
    pub(crate) fn publish(self, target: &Path) -> io::Result<()> {
        fs::rename(&self.at, target)?;
        target.parent().map_or(Ok(()), sync)
    }
}

impl Drop for Staged {
    /// What was not published is of no use. After a publish there is nothing under this name.
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.at);
    }
}

/// Makes the names in a folder durable.
pub(crate) fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}
