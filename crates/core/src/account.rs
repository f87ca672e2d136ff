//! A billing account: its terms, its balances, and the holds that are of interest.

use serde::{Deserialize, Serialize};

use crate::holds::Holds;
use crate::id::{AccountId, Position};
use crate::money::{Asset, Units};
use crate::text::Tier;

/// What an account takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AccountStatus {
    /// Everything.
    Active,
    /// No reserve, deduct or increase; overage that would `draw` acts as `cap`.
    Frozen,
    /// Nothing but the absorption of a late capture. For ever.
    Closed,
}

impl AccountStatus {
    /// The status in SQL and JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            AccountStatus::Active => "active",
            AccountStatus::Frozen => "frozen",
            AccountStatus::Closed => "closed",
        }
    }
}

/// An account as the log has made it.
///
/// `holds` has every open hold, and of the ended ones those that its owner chose to keep: the
/// rules only look at the hold that a command names, and whoever decides must have loaded it.
#[derive(Debug, Clone, PartialEq)]
pub struct Account {
    /// Its id.
    pub id: AccountId,
    /// What it is kept in.
    pub asset: Asset,
    /// The subscription tier.
    pub tier: Tier,
    /// How far below zero `available` may be taken.
    pub overdraft_limit: Units,
    /// What it takes.
    pub status: AccountStatus,
    /// What is there.
    pub posted: Units,
    /// What is promised to open holds; never negative.
    pub held: Units,
    /// How it was opened, to tell the same request again from another.
    pub opening: Opening,
    /// Its last event.
    pub last_position: Position,
    /// Its holds, by id.
    pub holds: Holds,
}

/// The terms that an account was opened with.
#[derive(Debug, Clone, PartialEq)]
pub struct Opening {
    /// Where in the log.
    pub position: Position,
    /// The tier then.
    pub tier: Tier,
    /// The overdraft limit then.
    pub overdraft_limit: Units,
}

impl Account {
    /// `posted − held`; negative when an overdraft or a chargeback took it there.
    #[must_use]
    pub fn available(&self) -> Units {
        self.posted.saturating_sub(self.held)
    }

    /// What may be taken: `max(0, available + overdraft_limit)`.
    #[must_use]
    pub fn takeable(&self) -> Units {
        let wide = i128::from(self.posted) - i128::from(self.held) + i128::from(self.overdraft_limit);
        Units::try_from(wide.max(0)).unwrap_or(Units::MAX)
    }

    /// How many of the known holds are open.
    #[must_use]
    pub fn open_holds(&self) -> usize {
        self.holds.iter().filter(|(_, hold)| hold.is_open()).count()
    }
}
