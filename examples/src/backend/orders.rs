//! The orders of wikis, on the disk: what a saga is driven again from when its log is lost, and what a
//! project has its wiki by.
//!
//! **Shape.** One file for each project of a user, with the order and the number of its try. A try is
//! a saga; its id says which order and which try it is of. The file is there before the saga, and is
//! replaced only by a next try, when the one before was undone; a saga that was refused leaves none.
//!
//! **Correctness.** A file is put in place of the one that was looked at, or not at all, under a lock
//! that processes share: an order never takes the place of another unseen. Numbers are moments, so
//! that no id is used again after a file was removed: the ledger remembers ids for ever.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::job::Order;
use crate::durable::{Staged, sync};
use crate::names;

/// The longest part of an id that is the user's; with a project's name, the rest of the id and the
/// definition's name it is at most as long as the ledger takes.
const USER_MAX_BYTES: usize = 31;
/// How many hexadecimal digits of the order's digest are in the id.
const DIGEST_DIGITS: usize = 10;
/// The file that is locked while another is put in place.
const LOCK: &str = ".lock";

/// An order and the number of its try.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// The order.
    pub order: Order,
    /// The try: when it began, in Unix milliseconds, or later.
    pub number: u64,
}

impl Kept {
    /// A new try, after that of number `before`.
    #[must_use]
    pub fn new(order: Order, before: Option<u64>) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let now = u64::try_from(now).unwrap_or(u64::MAX);
        Kept { order, number: before.map_or(now, |before| now.max(before.saturating_add(1))) }
    }

    /// The id of its saga.
    #[must_use]
    pub fn id(&self) -> String {
        let Order { user, project, topic, pages, quote } = &self.order;
        let pages = pages.to_string();
        let parts: [&[u8]; 5] = [
            user.as_bytes(),
            project.as_bytes(),
            topic.as_bytes(),
            pages.as_bytes(),
            quote.model.as_str().as_bytes(),
        ];
        let digest = names::digest(&parts);
        format!("{}.{}.{}", place(user, project), &digest[..DIGEST_DIGITS], self.number)
    }
}

/// Where the order for a user's project is.
fn place(user: &str, project: &str) -> String {
    let folder = names::folder(user);
    if folder.len() <= USER_MAX_BYTES {
        return format!("{folder}.{project}");
    }
    let digest = names::digest(&[user.as_bytes()]);
    format!("~{}.{project}", &digest[..USER_MAX_BYTES - 1])
}

/// The orders in a folder.
#[derive(Debug, Clone)]
pub struct Orders(PathBuf);

impl Orders {
    /// Those in `folder`, which is made if it is not there.
    ///
    /// # Errors
    /// When the disk does not let it.
    pub fn open(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        Ok(Orders(folder.to_owned()))
    }

    /// The order for a user's project.
    ///
    /// # Errors
    /// When the disk does not let it be read, or it is damaged.
    pub fn of(&self, user: &str, project: &str) -> io::Result<Option<Kept>> {
        self.read(&place(user, project))
    }

    /// The order of the saga `id`; none when there is none any more, or another has its place.
    ///
    /// # Errors
    /// As [`Orders::of`].
    pub fn of_saga(&self, id: &str) -> io::Result<Option<Kept>> {
        let Some(place) = id.rsplitn(3, '.').nth(2) else { return Ok(None) };
        Ok(self.read(place)?.filter(|kept| kept.id() == id))
    }

    /// Puts an order in place of the try of number `before`, or where there is none; answers whether
    /// that is what was there.
    ///
    /// # Errors
    /// When the disk does not let it.
    pub fn put(&self, before: Option<u64>, kept: &Kept) -> io::Result<bool> {
        let _lock = self.lock()?;
        let place = place(&kept.order.user, &kept.order.project);
        if self.read(&place)?.map(|kept| kept.number) != before {
            return Ok(false);
        }
        let json = serde_json::to_vec(kept).map_err(io::Error::other)?;
        Staged::write(&self.0, &json)?.publish(&self.file(&place))?;
        Ok(true)
    }

    /// Removes an order whose saga was refused, unless another has its place.
    ///
    /// # Errors
    /// When the disk does not let it.
    pub fn remove(&self, kept: &Kept) -> io::Result<()> {
        let _lock = self.lock()?;
        let place = place(&kept.order.user, &kept.order.project);
        if self.read(&place)?.is_some_and(|there| there.number == kept.number) {
            fs::remove_file(self.file(&place))?;
            sync(&self.0)?;
        }
        Ok(())
    }

    fn read(&self, place: &str) -> io::Result<Option<Kept>> {
        match fs::read(self.file(place)) {
            Ok(json) => Ok(Some(serde_json::from_slice(&json).map_err(io::Error::from)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn file(&self, place: &str) -> PathBuf {
        self.0.join(format!("{place}.json"))
    }

    /// Held until it is dropped.
    fn lock(&self) -> io::Result<File> {
        let file = File::options().create(true).truncate(false).write(true).open(self.0.join(LOCK))?;
        file.lock()?;
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use holdfast_saga::SagaKey;
    use serde_json::json;
    use uuid::Uuid;

    use super::*;

    fn order(user: &str, project: &str, topic: &str) -> Order {
        let quote = json!({
            "provider": "google", "model": "gemini-2.5-flash", "variant": null, "book": "0".repeat(64),
            "effective_from": null, "rates": {"input": [[0, 300_000]], "output": [[0, 2_500_000]]},
        });
        let quote = serde_json::from_value(quote).expect("a quote");
        Order { user: user.to_owned(), project: project.to_owned(), topic: topic.to_owned(), pages: 2, quote }
    }

    #[test]
    fn an_id_is_of_one_order_and_one_try_and_is_never_too_long() {
        let kept = |user: &str, topic: &str, number| Kept { order: order(user, "p", topic), number };
        let (ann, other) = (kept("ann", "Bees", 7), kept("ann", "Ants", 7));
        assert!(ann.id().starts_with("ann.p.") && ann.id().ends_with(".7"), "{}", ann.id());
        assert_ne!(ann.id(), other.id());
        assert_ne!(ann.id(), kept("ann", "Bees", 8).id());
        assert_ne!(kept("Ann", "Bees", 7).id(), ann.id());
        let long = Kept::new(order(&"Ü".repeat(128), &"p".repeat(64), "Bees"), None);
        assert!(SagaKey::new("wiki", &long.id()).is_ok(), "{}", long.id());
        assert!(Kept::new(order("ann", "p", "Bees"), Some(u64::MAX - 1)).number == u64::MAX);
    }

    #[test]
    fn an_order_never_takes_the_place_of_another_unseen() {
        let folder = std::env::temp_dir().join(format!("holdfast-orders-{}", Uuid::new_v4().simple()));
        let orders = Orders::open(&folder).expect("a folder");
        let first = Kept::new(order("ann", "p", "Bees"), None);
        let second = Kept::new(order("ann", "p", "Ants"), Some(first.number));
        assert!(orders.put(None, &first).expect("written"));
        assert!(!orders.put(None, &second).expect("read"));
        assert_eq!(orders.of("ann", "p").expect("read"), Some(first.clone()));
        assert_eq!(orders.of_saga(&first.id()).expect("read"), Some(first.clone()));
        assert!(orders.put(Some(first.number), &second).expect("written"));
        assert_eq!(orders.of_saga(&first.id()).expect("read"), None);
        // What was refused long ago does not remove what came after it.
        orders.remove(&first).expect("let alone");
        assert_eq!(orders.of("ann", "p").expect("read"), Some(second.clone()));
        orders.remove(&second).expect("removed");
        assert_eq!(orders.of("ann", "p").expect("read"), None);
        fs::remove_dir_all(folder).expect("removed");
    }
}
