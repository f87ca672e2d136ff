//! What the provider really produced, whatever it reported and whatever arrived.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::script::Act;

/// Everything that was produced since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Served {
    /// By model and by act.
    pub models: BTreeMap<String, BTreeMap<Act, Counts>>,
}

/// What one kind of call came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Calls that came in, refused ones and those that were never answered too.
    pub calls: u64,
    /// Calls whose usage was reported in full.
    pub reported: u64,
    /// Tokens of the prompts that were worked on, cached ones included.
    pub prompt_tokens: u64,
    /// Those of them that were read from the cache.
    pub cached_tokens: u64,
    /// Tokens that were produced: of a stream those that were sent before it ended, however it did.
    pub completion_tokens: u64,
}

impl Served {
    /// The sum over all acts of a model.
    #[must_use]
    pub fn of_model(&self, model: &str) -> Counts {
        let acts = self.models.get(model).into_iter().flat_map(BTreeMap::values);
        acts.fold(Counts::default(), |sum, counts| Counts {
            calls: sum.calls + counts.calls,
            reported: sum.reported + counts.reported,
            prompt_tokens: sum.prompt_tokens + counts.prompt_tokens,
            cached_tokens: sum.cached_tokens + counts.cached_tokens,
            completion_tokens: sum.completion_tokens + counts.completion_tokens,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_the_sum_of_its_acts() {
        let counts = |calls| Counts { calls, completion_tokens: 10 * calls, ..Counts::default() };
        let acts = BTreeMap::from([(Act::Success, counts(2)), (Act::Cut, counts(1))]);
        let served = Served { models: BTreeMap::from([("m".to_owned(), acts)]) };
        assert_eq!(served.of_model("m").completion_tokens, 30);
        assert_eq!(served.of_model("other"), Counts::default());
        let text = serde_json::to_string(&served).expect("plain values");
        assert_eq!(serde_json::from_str::<Served>(&text).expect("the same"), served);
    }
}
