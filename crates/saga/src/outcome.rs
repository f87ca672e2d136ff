//! What became of a saga, and what of it stays charged.

use serde::Serialize;

use crate::definition::Charge;
use crate::entry::Ending;
use crate::key::SagaKey;
use crate::state::{EVERYTHING, Progress, State};

/// What became of a saga. Amounts are decimal strings in whole units of the account's asset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SagaOutcome {
    /// The saga.
    pub saga: SagaKey,
    /// How it ended; [`Ending::Stuck`] when it has not, because an undo keeps failing.
    pub ended: Ending,
    /// Why, where it was not completed.
    pub because: Option<String>,
    /// What was charged in all, before refunds.
    pub charged: String,
    /// What was given back of it.
    pub refunded: String,
    /// What stays charged.
    pub kept: String,
    /// The steps that were begun, in their order.
    pub steps: Vec<StepOutcome>,
}

/// What became of a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StepOutcome {
    /// Its name.
    pub step: String,
    /// Whether it was undone.
    pub undone: bool,
    /// What becomes of its charge when it is undone.
    pub rule: Charge,
    /// What was charged for it, and for tries at it that failed.
    pub charged: String,
    /// What was given back of that.
    pub refunded: String,
    /// What stays charged.
    pub kept: String,
}

impl SagaOutcome {
    /// The outcome of a saga whose log says this; none while it is under way.
    #[must_use]
    pub fn of(saga: &SagaKey, state: &State) -> Option<Self> {
        let (ended, because) = match (&state.ended, &state.stuck) {
            (Some((ended, because)), _) => (*ended, because.clone()),
            (None, Some((step, error))) => (Ending::Stuck, Some(format!("{step}: {error}"))),
            (None, None) => return None,
        };
        let steps = state.steps.iter().filter(|step| step.name != EVERYTHING);
        let steps = steps.map(|step| StepOutcome {
            step: step.name.clone(),
            undone: step.progress == Progress::Undone,
            rule: step.charge,
            charged: step.charged_sum().to_string(),
            refunded: step.refunded_sum().to_string(),
            kept: State::kept(step).to_string(),
        });
        let (charged, refunded) = (state.charged(), state.refunded());
        Some(SagaOutcome {
            saga: saga.clone(),
            ended,
            because,
            charged: charged.to_string(),
            refunded: refunded.to_string(),
            kept: charged.minus(refunded).to_string(),
            steps: steps.collect(),
        })
    }
}
