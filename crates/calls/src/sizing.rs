//! How much is reserved: the worst case, less than that, or what experience says.
//!
//! **Shape.** [`Sizing`] is chosen by call. [`Samples`] is what the journal's table `sample` says,
//! kept in memory too, so that a reserve waits for no disk to be sized.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use holdfast_core::{Asset, Decimal, Usage};

use crate::journal::SAMPLES_MAX;

/// A model's percentile is believed once so many of its calls are known.
const SAMPLES_MIN: usize = 20;

/// For how many output tokens a hold is reserved. What a call costs beyond its hold is settled by
/// the hold's overage policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sizing {
    /// For `max_output_tokens`.
    #[default]
    WorstCase,
    /// For `max_output_tokens`, but not for more than this amount, in whole units of the asset. A
    /// call whose input alone costs more is [`crate::HoldError::Invalid`].
    Capped(Decimal),
    /// For what this percentage of the model's earlier calls (the last 500) did not exceed, 1 to
    /// 100; the worst case until 20 calls are known.
    Percentile(u8),
}

/// Output tokens of earlier calls by model, the oldest first.
#[derive(Default)]
pub(crate) struct Samples(Mutex<HashMap<String, VecDeque<u64>>>);

impl Samples {
    pub(crate) fn of(samples: Vec<(String, u64)>) -> Self {
        let known = Samples::default();
        for (model, output) in samples {
            known.add(&model, output);
        }
        known
    }

    pub(crate) fn add(&self, model: &str, output: u64) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !known.contains_key(model) {
            known.insert(model.to_owned(), VecDeque::new());
        }
        let Some(outputs) = known.get_mut(model) else { return };
        if outputs.len() >= SAMPLES_MAX {
            outputs.pop_front();
        }
        outputs.push_back(output);
    }

    /// The smallest known count that at least `percent` of the calls did not exceed (nearest
    /// rank); none when too few are known.
    fn percentile(&self, model: &str, percent: u8) -> Option<u64> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut outputs: Vec<u64> = known.get(model)?.iter().copied().collect();
        drop(known);
        if outputs.len() < SAMPLES_MIN {
            return None;
        }
        let rank = (outputs.len() * usize::from(percent.clamp(1, 100))).div_ceil(100);
        outputs.sort_unstable();
        outputs.get(rank - 1).copied()
    }
}

/// For how many output tokens to reserve, at most `most`. `estimate` has every other count.
pub(crate) fn output_for(
    sizing: Sizing,
    estimate: &Usage,
    most: u64,
    samples: &Samples,
    asset: Asset,
) -> Result<u64, String> {
    let less = match sizing {
        Sizing::WorstCase => None,
        Sizing::Capped(cap) => {
            let units = cap.units(asset).map_err(|error| format!("the cap {cap} {error}"))?;
            if estimate.price(asset).map_err(|error| error.to_string())? > units {
                return Err(format!("it costs more than {cap} even without any output"));
            }
            estimate.affordable_output(units, asset)
        }
        Sizing::Percentile(percent) => samples.percentile(estimate.model.as_str(), percent),
    };
    Ok(less.map_or(most, |less| less.min(most)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::testing::usage;

    fn samples(outputs: impl Iterator<Item = u64>) -> Samples {
        Samples::of(outputs.map(|output| ("m".to_owned(), output)).collect())
    }

    #[test]
    fn sizes() {
        let estimate = usage(r#"{"input":1000}"#);
        let cap = |amount: &str| Sizing::Capped(amount.parse().expect("an amount"));
        // 1000 input tokens cost 0.001, a token of output 0.00001.
        let cases = [
            (Sizing::WorstCase, samples(0..0), 500),
            (cap("0.002"), samples(0..0), 100),
            (cap("1"), samples(0..0), 500),
            (cap("0.001"), samples(0..0), 0),
            (Sizing::Percentile(50), samples(1..20), 500),
            (Sizing::Percentile(50), samples(1..21), 10),
            (Sizing::Percentile(100), samples(1..21), 20),
            (Sizing::Percentile(0), samples(1..21), 1),
            (Sizing::Percentile(99), samples(1000..1100), 500),
            (Sizing::Percentile(100), samples((0..700).rev()), 499),
        ];
        for (sizing, samples, expected) in cases {
            let output = output_for(sizing, &estimate, 500, &samples, Asset::USD);
            assert_eq!(output, Ok(expected), "{sizing:?}");
        }
        for cap in [cap("0.0009"), cap("0.0000000001")] {
            assert!(output_for(cap, &estimate, 500, &samples(0..0), Asset::USD).is_err(), "{cap:?}");
        }
    }
}
