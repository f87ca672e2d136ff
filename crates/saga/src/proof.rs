//! Proofs: a definition is run with every step twice, with every failure and every crash, on real
//! servers, and must end well each time.
//!
//! **Shape.** A test gives two closures: one makes a fresh [`World`] (an account, an id, a runner that
//! commits the [`Faults`] it is given), the other checks what a [`Trial`] left, for example that pages
//! and charges agree. Each proof first runs the saga undisturbed, to see its steps and entries, and then
//! once for every point. What must always hold it checks by itself.
//!
//! **Correctness.** A crash drops everything that the runner remembers; a new runner goes on from the
//! log. The lease must be long enough that no `alive` is written in between, since the points are
//! numbers of entries.

use std::fmt;

use crate::definition::Saga;
use crate::entry::{Ending, Entry, What};
use crate::error::SagaError;
use crate::faults::{Fault, Faults, Moment};
use crate::outcome::SagaOutcome;
use crate::runner::Runner;
use crate::state::fold;

/// What the closures may fail with.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// How often a trial goes on after a crash, or resumes; two faults are the most that a proof commits.
const ROUNDS_MAX: usize = 10;

/// A saga that has not begun, and everything it needs.
pub struct World<S: Saga> {
    /// A runner, made with the faults that were given.
    pub runner: Runner<S>,
    /// The saga's id; a new one for each world, unless its ledger and stream are new as well.
    pub id: String,
    /// The account that pays.
    pub account: String,
    /// The input.
    pub input: S::Input,
}

/// What one run of a saga left.
pub struct Trial<'a, S: Saga> {
    /// Where it happened.
    pub world: &'a World<S>,
    /// The faults that were committed, in words.
    pub point: &'a str,
    /// How the saga ended.
    pub outcome: &'a SagaOutcome,
    /// Its log.
    pub entries: &'a [Entry],
}

/// A proof that went well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proved {
    /// How many runs there were.
    pub points: usize,
}

/// A run that did not go well.
#[derive(Debug, thiserror::Error)]
#[error("{point}: {problem}")]
pub struct Unproved {
    /// The faults that were committed.
    pub point: String,
    /// What was wrong.
    pub problem: String,
}

/// The saga completes when every action is run twice.
///
/// # Errors
/// [`Unproved`] names what went wrong.
pub async fn every_step_twice<S: Saga>(
    make: &impl AsyncFn(Faults) -> Result<World<S>, BoxError>,
    check: &impl AsyncFn(&Trial<'_, S>) -> Result<(), BoxError>,
) -> Result<Proved, Unproved> {
    prove(make, check, vec![(vec![Fault::EveryStepTwice], Some(Ending::Completed))]).await
}

/// Every step fails, before it did anything and after it did everything. Once for good, and the saga
/// is undone; once only the first time, and the saga completes.
///
/// # Errors
/// [`Unproved`] names what went wrong.
pub async fn failure_at_every_step<S: Saga>(
    make: &impl AsyncFn(Faults) -> Result<World<S>, BoxError>,
    check: &impl AsyncFn(&Trial<'_, S>) -> Result<(), BoxError>,
) -> Result<Proved, Unproved> {
    let mut points = Vec::new();
    for step in steps(make).await? {
        for moment in [Moment::Before, Moment::After] {
            for (again, ending) in [(false, Ending::Undone), (true, Ending::Completed)] {
                points.push((vec![Fault::FailStep { step: step.clone(), moment, again }], Some(ending)));
            }
        }
    }
    prove(make, check, points).await
}

/// Wherever the saga turns round, it is undone when every undo is run twice.
///
/// # Errors
/// [`Unproved`] names what went wrong.
pub async fn every_undo_twice<S: Saga>(
    make: &impl AsyncFn(Faults) -> Result<World<S>, BoxError>,
    check: &impl AsyncFn(&Trial<'_, S>) -> Result<(), BoxError>,
) -> Result<Proved, Unproved> {
    let turns = steps(make).await?.into_iter().map(fails);
    let points = turns.map(|fails| (vec![fails, Fault::EveryUndoTwice], Some(Ending::Undone)));
    prove(make, check, points.collect()).await
}

/// Every undo fails once, and the saga is undone; or as often as it is tried, and then the saga is
/// stuck, is resumed, and is undone.
///
/// # Errors
/// [`Unproved`] names what went wrong.
pub async fn failure_at_every_undo<S: Saga>(
    make: &impl AsyncFn(Faults) -> Result<World<S>, BoxError>,
    check: &impl AsyncFn(&Trial<'_, S>) -> Result<(), BoxError>,
) -> Result<Proved, Unproved> {
    let steps = steps(make).await?;
    let Some(last) = steps.last().cloned() else { return Ok(Proved { points: 0 }) };
    let attempts = make_one(make, "counting the tries").await?.runner.limits().attempts_max;
    let mut points = Vec::new();
    for step in steps {
        for times in [1, attempts] {
            let undo = Fault::FailUndo { step: step.clone(), times };
            points.push((vec![fails(last.clone()), undo], Some(Ending::Undone)));
        }
    }
    prove(make, check, points).await
}

/// The process dies before and after every entry of a saga that completes, and of one that is undone
/// from its last step.
///
/// # Errors
/// [`Unproved`] names what went wrong.
pub async fn crash_at_every_entry<S: Saga>(
    make: &impl AsyncFn(Faults) -> Result<World<S>, BoxError>,
    check: &impl AsyncFn(&Trial<'_, S>) -> Result<(), BoxError>,
) -> Result<Proved, Unproved> {
    let mut points = Vec::new();
    for (turns, ending) in turns(make).await? {
        for crash in crashes(make, &turns).await? {
            points.push((turns.iter().cloned().chain([crash]).collect(), Some(ending)));
        }
    }
    prove(make, check, points).await
}

/// Any two faults together: failures of steps and undos, and crashes beside entries. There are as many
/// points as pairs, so this is for sagas of few steps.
///
/// # Errors
/// [`Unproved`] names what went wrong.
pub async fn every_pair<S: Saga>(
    make: &impl AsyncFn(Faults) -> Result<World<S>, BoxError>,
    check: &impl AsyncFn(&Trial<'_, S>) -> Result<(), BoxError>,
) -> Result<Proved, Unproved> {
    let faults = every_fault(make).await?;
    prove(make, check, pairs(&faults)).await
}

/// Any two failures together, of steps and of undos.
///
/// # Errors
/// [`Unproved`] names what went wrong.
pub async fn every_pair_of_failures<S: Saga>(
    make: &impl AsyncFn(Faults) -> Result<World<S>, BoxError>,
    check: &impl AsyncFn(&Trial<'_, S>) -> Result<(), BoxError>,
) -> Result<Proved, Unproved> {
    let failures = every_failure(&steps(make).await?);
    prove(make, check, pairs(&failures)).await
}

fn pairs(faults: &[Fault]) -> Vec<(Vec<Fault>, Option<Ending>)> {
    let rest = |place: usize| faults[place + 1..].iter();
    let firsts = faults.iter().enumerate();
    firsts
        .flat_map(|(place, first)| rest(place).map(|second| (vec![first.clone(), second.clone()], None)))
        .collect()
}

/// Every single failure, for good of a step, once of an undo.
fn every_failure(steps: &[String]) -> Vec<Fault> {
    let mut failures = Vec::new();
    for step in steps {
        for moment in [Moment::Before, Moment::After] {
            failures.push(Fault::FailStep { step: step.clone(), moment, again: false });
        }
        failures.push(Fault::FailUndo { step: step.clone(), times: 1 });
    }
    failures
}

/// Every single fault: those of steps and undos, and the crashes of an undone saga, which has the most
/// entries.
async fn every_fault<S: Saga>(
    make: &impl AsyncFn(Faults) -> Result<World<S>, BoxError>,
) -> Result<Vec<Fault>, Unproved> {
    let steps = steps(make).await?;
    let mut faults = every_failure(&steps);
    let undone: Vec<Fault> = steps.last().cloned().map(fails).into_iter().collect();
    faults.extend(crashes(make, &undone).await?);
    Ok(faults)
}

/// The step fails for good after it did everything.
fn fails(step: String) -> Fault {
    Fault::FailStep { step, moment: Moment::After, again: false }
}

/// The two ways of a saga: to its end, and back from its last step.
async fn turns<S: Saga>(
    make: &impl AsyncFn(Faults) -> Result<World<S>, BoxError>,
) -> Result<Vec<(Vec<Fault>, Ending)>, Unproved> {
    let mut turns = vec![(Vec::new(), Ending::Completed)];
    turns.extend(steps(make).await?.pop().map(|last| (vec![fails(last)], Ending::Undone)));
    Ok(turns)
}

/// The names of the steps of an undisturbed run.
async fn steps<S: Saga>(
    make: &impl AsyncFn(Faults) -> Result<World<S>, BoxError>,
) -> Result<Vec<String>, Unproved> {
    let ran = trial(make, "undisturbed", Vec::new()).await?;
    expect(&ran, "undisturbed", Some(Ending::Completed))?;
    Ok(ran.outcome.steps.into_iter().map(|step| step.step).collect())
}

/// A crash before and after each entry of a run with `faults`.
async fn crashes<S: Saga>(
    make: &impl AsyncFn(Faults) -> Result<World<S>, BoxError>,
    faults: &[Fault],
) -> Result<Vec<Fault>, Unproved> {
    let entries = trial(make, "counting the entries", faults.to_vec()).await?.entries;
    let both = |entry: &Entry| {
        [Moment::Before, Moment::After].map(|moment| Fault::CrashAt { entry: entry.n, moment })
    };
    Ok(entries.iter().flat_map(both).collect())
}

/// Runs a saga once for every point.
async fn prove<S: Saga>(
    make: &impl AsyncFn(Faults) -> Result<World<S>, BoxError>,
    check: &impl AsyncFn(&Trial<'_, S>) -> Result<(), BoxError>,
    points: Vec<(Vec<Fault>, Option<Ending>)>,
) -> Result<Proved, Unproved> {
    let count = points.len();
    for (faults, ending) in points {
        let point = format!("{faults:?}");
        let ran = trial(make, &point, faults).await?;
        expect(&ran, &point, ending)?;
        let trial = Trial { world: &ran.world, point: &point, outcome: &ran.outcome, entries: &ran.entries };
        check(&trial).await.map_err(|problem| unproved(&point, problem))?;
    }
    Ok(Proved { points: count })
}

/// A run that came to an end.
struct Ran<S: Saga> {
    world: World<S>,
    outcome: SagaOutcome,
    entries: Vec<Entry>,
}

async fn make_one<S: Saga>(
    make: &impl AsyncFn(Faults) -> Result<World<S>, BoxError>,
    point: &str,
) -> Result<World<S>, Unproved> {
    make(Faults::default()).await.map_err(|problem| unproved(point, problem))
}

async fn trial<S: Saga>(
    make: &impl AsyncFn(Faults) -> Result<World<S>, BoxError>,
    point: &str,
    faults: Vec<Fault>,
) -> Result<Ran<S>, Unproved> {
    let world = make(Faults::new(faults)).await.map_err(|problem| unproved(point, problem))?;
    let outcome = finish(&world).await.map_err(|problem| unproved(point, problem))?;
    let key = world.runner.key(&world.id).map_err(|problem| unproved(point, problem))?;
    let stored = world.runner.log().read(&key).await.map_err(|problem| unproved(point, problem))?;
    let entries = stored.into_iter().map(|stored| stored.entry).collect();
    Ok(Ran { world, outcome, entries })
}

/// Runs the saga, goes on after each crash with a new runner, and resumes it when it is stuck.
async fn finish<S: Saga>(world: &World<S>) -> Result<SagaOutcome, SagaError> {
    let mut result = world.runner.run(&world.id, &world.account, &world.input).await;
    for _ in 0..ROUNDS_MAX {
        let runner = world.runner.restarted();
        result = match result {
            Err(SagaError::Crashed) => again(&runner, world).await,
            Ok(outcome) if outcome.ended == Ending::Stuck => runner.resume(&world.id, false).await,
            other => return other,
        };
    }
    result
}

async fn again<S: Saga>(runner: &Runner<S>, world: &World<S>) -> Result<SagaOutcome, SagaError> {
    match runner.take_over(&world.id).await {
        // It died before its first entry: whoever wanted the saga starts it again.
        Err(SagaError::Unknown(_)) => runner.run(&world.id, &world.account, &world.input).await,
        other => other,
    }
}

/// What holds for every run.
fn expect<S: Saga>(ran: &Ran<S>, point: &str, ending: Option<Ending>) -> Result<(), Unproved> {
    let outcome = &ran.outcome;
    let wrong = |problem: &dyn fmt::Display| Err(unproved(point, problem));
    match ending {
        Some(ending) if outcome.ended != ending => {
            return wrong(&format!("ended {}, {} was due", outcome.ended.as_str(), ending.as_str()));
        }
        None if !matches!(outcome.ended, Ending::Completed | Ending::Undone) => {
            return wrong(&format!("ended {}", outcome.ended.as_str()));
        }
        _ => {}
    }
    let told = fold(&ran.entries).ok().and_then(|state| SagaOutcome::of(&outcome.saga, &state));
    if told.as_ref() != Some(outcome) {
        return wrong(&"the log tells another outcome than the run");
    }
    let count = |kind: &str| ran.entries.iter().filter(|entry| entry.what.kind() == kind).count();
    if count("settled") != 1 || count("ended") != 1 {
        return wrong(&"the hold was not settled once");
    }
    if !matches!(ran.entries.last().map(|entry| &entry.what), Some(What::Ended { .. })) {
        return wrong(&"something was done after the end");
    }
    let undone = outcome.ended == Ending::Undone;
    if outcome.steps.iter().any(|step| step.undone != undone) {
        return wrong(&"some steps were undone and some were not");
    }
    Ok(())
}

fn unproved(point: &str, problem: impl fmt::Display) -> Unproved {
    Unproved { point: point.to_owned(), problem: problem.to_string() }
}
