//! A table of accounts that keeps each id once: of a million accounts the table itself is a good part.

use std::hash::BuildHasher as _;

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use holdfast_core::{Account, AccountId};

/// Accounts by their ids.
#[derive(Default)]
pub(super) struct Accounts {
    /// Boxed, since a table has as many empty places again. There is an account in each; the rules take
    /// an [`Option`].
    table: HashTable<Box<Option<Account>>>,
    hasher: RandomState,
}

impl Accounts {
    pub(super) fn get(&self, id: &AccountId) -> Option<&Account> {
        let found = self.table.find(self.hasher.hash_one(id), |account| has(account, id));
        found.and_then(|account| account.as_ref().as_ref())
    }

    /// The account, to be changed by the rules, which never take one away.
    pub(super) fn get_mut(&mut self, id: &AccountId) -> Option<&mut Option<Account>> {
        let found = self.table.find_mut(self.hasher.hash_one(id), |account| has(account, id));
        found.map(Box::as_mut)
    }

    pub(super) fn contains(&self, id: &AccountId) -> bool {
        self.get(id).is_some()
    }

    /// Adds an account, which must not be here.
    pub(super) fn insert(&mut self, account: Account) {
        let (hasher, hash) = (&self.hasher, self.hasher.hash_one(&account.id));
        self.table.insert_unique(hash, Box::new(Some(account)), |known| {
            known.as_ref().as_ref().map_or(0, |account| hasher.hash_one(&account.id))
        });
    }

    pub(super) fn retain(&mut self, mut keep: impl FnMut(&Account) -> bool) {
        self.table.retain(|account| account.as_ref().as_ref().is_some_and(&mut keep));
    }

    pub(super) fn len(&self) -> usize {
        self.table.len()
    }
}

fn has(account: &Option<Account>, id: &AccountId) -> bool {
    account.as_ref().is_some_and(|account| account.id == *id)
}
