//! The holds of an account, in as little memory as most accounts need.

use std::collections::BTreeMap;
use std::fmt;

use crate::hold::Hold;
use crate::id::HoldId;

/// Holds by id. An account has none or one at most times and some a thousand: a node of a tree, with room
/// for eleven, would be most of what a million accounts take.
#[derive(Clone, Default)]
pub struct Holds(Kept);

#[derive(Clone, Default)]
enum Kept {
    #[default]
    None,
    One(Box<(HoldId, Hold)>),
    /// Boxed, since a node has room for eleven.
    #[allow(clippy::box_collection, reason = "an account without holds is two words smaller by it")]
    Many(Box<BTreeMap<HoldId, Box<Hold>>>),
}

impl Holds {
    /// The hold `id`.
    #[must_use]
    pub fn get(&self, id: &HoldId) -> Option<&Hold> {
        match &self.0 {
            Kept::None => None,
            Kept::One(one) => (one.0 == *id).then_some(&one.1),
            Kept::Many(many) => many.get(id).map(Box::as_ref),
        }
    }

    /// The same, to be changed.
    pub fn get_mut(&mut self, id: &HoldId) -> Option<&mut Hold> {
        match &mut self.0 {
            Kept::None => None,
            Kept::One(one) => (one.0 == *id).then_some(&mut one.1),
            Kept::Many(many) => many.get_mut(id).map(Box::as_mut),
        }
    }

    /// Whether `id` is one of them.
    #[must_use]
    pub fn contains(&self, id: &HoldId) -> bool {
        self.get(id).is_some()
    }

    /// Adds a hold; answers the one that it takes the place of.
    pub fn insert(&mut self, id: HoldId, hold: Hold) -> Option<Hold> {
        if let Some(known) = self.get_mut(&id) {
            return Some(std::mem::replace(known, hold));
        }
        self.0 = match std::mem::take(&mut self.0) {
            Kept::None => Kept::One(Box::new((id, hold))),
            Kept::One(one) => {
                let (first, held) = *one;
                Kept::Many(Box::new([(first, Box::new(held)), (id, Box::new(hold))].into()))
            }
            Kept::Many(mut many) => {
                many.insert(id, Box::new(hold));
                Kept::Many(many)
            }
        };
        None
    }

    /// Takes a hold out.
    pub fn remove(&mut self, id: &HoldId) -> Option<Hold> {
        match &mut self.0 {
            Kept::Many(many) => {
                let removed = many.remove(id).map(|hold| *hold);
                if many.is_empty() {
                    self.0 = Kept::None;
                }
                removed
            }
            Kept::One(one) if one.0 == *id => match std::mem::take(&mut self.0) {
                Kept::One(one) => Some(one.1),
                _ => None,
            },
            _ => None,
        }
    }

    /// All of them, in the order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = (&HoldId, &Hold)> {
        let (one, many) = match &self.0 {
            Kept::None => (None, None),
            Kept::One(one) => (Some((&one.0, &one.1)), None),
            Kept::Many(many) => (None, Some(many.iter().map(|(id, hold)| (id, hold.as_ref())))),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        match &self.0 {
            Kept::None => 0,
            Kept::One(_) => 1,
            Kept::Many(many) => many.len(),
        }
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Equal when they hold the same, however that is kept.
impl PartialEq for Holds {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl fmt::Debug for Holds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::hold::{HoldStatus, Policies};
    use crate::id::Position;
    use crate::time::Timestamp;

    fn hold(amount: i64) -> Hold {
        Hold {
            status: HoldStatus::Open,
            amount,
            captured: 0,
            absorbed: 0,
            policies: Policies::default(),
            reserved_at: Timestamp::from_micros(0),
            expires_at: Timestamp::from_micros(1),
            ended: None,
            last_position: Position(1),
            rates: None,
        }
    }

    proptest! {
        #[test]
        fn they_are_what_a_map_would_be(steps in prop::collection::vec((0..4_u128, any::<bool>(), 0..100_i64), 0..60)) {
            let (mut holds, mut map) = (Holds::default(), BTreeMap::new());
            for (id, insert, amount) in steps {
                let id = Uuid::from_u128(id);
                if insert {
                    prop_assert_eq!(holds.insert(id, hold(amount)), map.insert(id, hold(amount)));
                } else {
                    prop_assert_eq!(holds.remove(&id), map.remove(&id));
                }
                if let (Some(kept), Some(expected)) = (holds.get_mut(&id), map.get_mut(&id)) {
                    kept.captured += 1;
                    expected.captured += 1;
                }
                prop_assert_eq!(holds.get(&id), map.get(&id));
                prop_assert_eq!(holds.contains(&id), map.contains_key(&id));
                prop_assert!(holds.iter().eq(map.iter()));
                prop_assert_eq!((holds.len(), holds.is_empty()), (map.len(), map.is_empty()));
            }
        }
    }
}
