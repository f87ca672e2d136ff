//! Sagas: the wiki, and what must hold of it whatever fails. Money, files, git and vectors all as its
//! rules say.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use holdfast_core::{Asset, Decimal, Issuer, Units, Verb};
use holdfast_examples::backend::job::{SNAPSHOT_FEE, WikiJob};
use holdfast_examples::backend::orders::Kept;
use holdfast_examples::clients::BackendClient;
use holdfast_examples::provider::{Act, Script};
use holdfast_saga::proof::{self, BoxError, Trial, World};
use holdfast_saga::{
    Cost, Done, Ending, Estimate, Failure, Fault, Faults, Limits, Moment, Outputs, Runner, RunnerOptions,
    Saga, SagaError, SagaOutcome, Step, StepContext, What,
};
use holdfast_testkit::tenant::Tenant;
use holdfast_testkit::wait;
use holdfast_tests::shop::{MODEL, Shop};
use holdfast_tests::{Caller, SOON, Serve, TOKEN, client, count, database, jetstream, run};
use rustix::process::Signal;
use secrecy::SecretString;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Notify;

/// A tenant's ledger, the services, and as many accounts as are wanted.
struct Town {
    tenant: Tenant,
    serve: Serve,
    shop: Shop,
    caller: Caller,
    pages: usize,
    worlds: AtomicUsize,
}

const FUNDS: &str = "1";

impl Town {
    async fn new(pages: usize) -> Result<Self> {
        let tenant = Tenant::new().await?;
        let serve = Serve::start(&tenant).await?;
        let caller = client(&tenant, "backend").await?;
        let shop = Shop::open().await?;
        Ok(Town { shop, tenant, serve, caller, pages, worlds: AtomicUsize::new(0) })
    }

    /// A user with money, a project, and a runner that commits `faults`.
    async fn world(&self, faults: Faults) -> Result<World<WikiJob>, BoxError> {
        let number = self.worlds.fetch_add(1, Ordering::Relaxed);
        let user = format!("user-{number}");
        self.caller.fund(&user, FUNDS).await?;
        let input = self.shop.order(&self.tenant, &user, "bees", self.pages).await?;
        let runner = self.shop.runner(&self.tenant, faults).await?;
        Ok(World { runner, id: Kept::new(input.clone(), None).id(), account: user, input })
    }

    async fn check(&self, trial: &Trial<'_, WikiJob>) -> Result<(), BoxError> {
        Ok(self.must_be_as_the_rules_say(&trial.world.account, trial.outcome).await?)
    }

    /// What is there of a wiki, and what it cost, agree with how it ended.
    async fn must_be_as_the_rules_say(&self, user: &str, outcome: &SagaOutcome) -> Result<()> {
        let completed = outcome.ended == Ending::Completed;
        let files = self.shop.files.list(user, "bees").await?.len();
        let found = self.shop.vectors.query(user, "bees", "bees", 50).await?.len();
        let commits = self.shop.git.log(user, "bees").await?;
        let key = outcome.saga.to_string();
        let made = commits.iter().filter(|commit| commit.key.as_deref() == Some(&key)).count();
        let undone = commits.iter().filter(|commit| commit.undoes.as_deref() == Some(&key)).count();
        let there = (files, found, made - undone);
        let expected = if completed { (self.pages, self.pages, 1) } else { (0, 0, 0) };
        ensure!(there == expected, "files, documents and snapshots: {there:?}, not {expected:?}");

        let balance = self.shop_balance(user).await?;
        let kept = units(&outcome.kept)?;
        ensure!(balance == (units(FUNDS)? - kept, 0), "{balance:?} is left, {kept} was kept");
        ensure!(units(&outcome.charged)? - units(&outcome.refunded)? == kept, "{outcome:?}");
        let fee = outcome.steps.iter().find(|step| step.step == "snapshot");
        let fee = fee.map(|step| step.kept.as_str());
        ensure!(fee == completed.then_some(SNAPSHOT_FEE) || (!completed && fee.is_none_or(|fee| fee == "0")));
        Ok(())
    }

    /// Posted and held, from the log itself: the projections may be behind.
    async fn shop_balance(&self, user: &str) -> Result<(Units, Units)> {
        let mut connection = database(&self.tenant).await?;
        let row = sqlx::query_as(
            "SELECT posted, held FROM ledger_log WHERE account = $1 ORDER BY position DESC LIMIT 1",
        );
        Ok(row.bind(user).fetch_one(&mut connection).await?)
    }
}

/// The order of a world's saga.
fn kept(world: &World<WikiJob>) -> Result<Kept> {
    let number = world.id.rsplit('.').next().context("a number")?.parse()?;
    Ok(Kept { order: world.input.clone(), number })
}

fn units(amount: &str) -> Result<Units> {
    Ok(amount.parse::<Decimal>()?.units(Asset::USD)?)
}

/// Runs one proof on a town of its own and says how many runs it had.
macro_rules! proof {
    ($name:ident, $proof:ident, $pages:expr, $least:expr) => {
        #[tokio::test]
        async fn $name() -> Result<()> {
            let town = Town::new($pages).await?;
            let (make, check) = (
                async |faults| town.world(faults).await,
                async |trial: &Trial<'_, WikiJob>| town.check(trial).await,
            );
            let proved = proof::$proof(&make, &check).await?;
            eprintln!("{}: {} runs", stringify!($proof), proved.points);
            ensure!(proved.points >= $least, "{} runs", proved.points);
            let mut connection = database(&town.tenant).await?;
            // The projections may be behind.
            let none_open = wait::until("no hold is open", SOON, async || {
                let sql = "SELECT count(*) FROM projection.hold WHERE status = 'open'";
                count(&mut connection, sql).await.ok().filter(|open| *open == 0)
            });
            none_open.await?;
            let verified = run(&town.tenant, &["verify", "--prices"]).await?;
            ensure!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
            Ok(())
        }
    };
}

proof!(every_step_may_run_twice, every_step_twice, 2, 1);
proof!(a_failure_at_every_step, failure_at_every_step, 2, 20);
proof!(every_undo_may_run_twice, every_undo_twice, 2, 5);
proof!(a_failure_at_every_undo, failure_at_every_undo, 2, 10);
proof!(a_crash_at_every_entry, crash_at_every_entry, 1, 50);
proof!(every_pair_of_failures, every_pair_of_failures, 1, 60);

#[tokio::test]
async fn a_wiki_whose_log_is_deleted_half_way_is_driven_to_its_end() -> Result<()> {
    let town = Town::new(2).await?;
    let crash = holdfast_saga::Fault::CrashAt { entry: 8, moment: holdfast_saga::Moment::After };
    let world = town.world(Faults::new(vec![crash])).await.map_err(|error| anyhow!(error))?;
    let kept = kept(&world)?;
    ensure!(town.shop.wiki_job()?.orders.put(None, &kept)?);
    let crashed = world.runner.run(&world.id, &world.account, &world.input).await;
    ensure!(matches!(crashed, Err(holdfast_saga::SagaError::Crashed)), "{crashed:?}");
    jetstream(&town.tenant, "backend").await?.delete_stream(holdfast_saga::STREAM).await?;

    let runner = town.shop.runner(&town.tenant, Faults::default()).await?;
    let open = wait::until("the ledger's open saga", SOON, async || {
        runner.open_sagas().await.ok().filter(|open| !open.is_empty())
    });
    let reconciled = runner.reconcile(open.await?).await;
    let outcome = reconciled.into_iter().next().context("one saga")?.outcome?;
    assert_eq!(outcome.ended, Ending::Completed);
    town.must_be_as_the_rules_say(&world.account, &outcome).await?;
    // Its log says where it came from.
    let entries = runner.log().read(&runner.key(&world.id)?).await?;
    ensure!(matches!(entries.first().map(|entry| &entry.entry.what), Some(What::Started { .. })));
    Ok(())
}

#[tokio::test]
async fn a_wiki_whose_log_and_order_are_lost_is_undone() -> Result<()> {
    let town = Town::new(2).await?;
    let crash = holdfast_saga::Fault::CrashAt { entry: 8, moment: holdfast_saga::Moment::After };
    let world = town.world(Faults::new(vec![crash])).await.map_err(|error| anyhow!(error))?;
    let crashed = world.runner.run(&world.id, &world.account, &world.input).await;
    ensure!(matches!(crashed, Err(holdfast_saga::SagaError::Crashed)), "{crashed:?}");
    jetstream(&town.tenant, "backend").await?.delete_stream(holdfast_saga::STREAM).await?;
    let runner = town.shop.runner(&town.tenant, Faults::default()).await?;
    let open = wait::until("the ledger's open saga", SOON, async || {
        runner.open_sagas().await.ok().filter(|open| !open.is_empty())
    });
    let reconciled = runner.reconcile(open.await?).await;
    let outcome = reconciled.into_iter().next().context("one saga")?.outcome?;
    assert_eq!(outcome.ended, Ending::Undone);
    // Its order is lost too, so its files cannot be named any more; but no money stays promised.
    let (_, held) = town.shop_balance(&world.account).await?;
    assert_eq!(held, 0);
    Ok(())
}

#[tokio::test]
async fn a_wiki_that_is_too_dear_is_refused_before_anything_is_done() -> Result<()> {
    let town = Town::new(2).await?;
    let world = town.world(Faults::default()).await.map_err(|error| anyhow!(error))?;
    town.caller.send(holdfast_core::Verb::Deduct, &world.account, r#"{"amount":"0.999"}"#).await?;
    let outcome = world.runner.run(&world.id, &world.account, &world.input).await?;
    assert_eq!(outcome.ended, Ending::Refused);
    ensure!(outcome.because.as_deref().is_some_and(|why| why.contains("insufficient_funds")), "{outcome:?}");
    let served: Value = serde_json::to_value(town.shop.provider.served())?;
    assert_eq!(served["models"], serde_json::json!({}));
    Ok(())
}

/// Kinds, amounts and reasons of what was charged to an account or given back, in their order.
async fn charges(town: &Town, account: &str) -> Result<Vec<(String, i64, Value)>> {
    let rows = sqlx::query_as::<_, (String, i64, Value)>(
        "SELECT kind, amount, body FROM ledger_log
         WHERE account = $1 AND kind IN ('captured', 'captured_late', 'refunded') ORDER BY position",
    );
    Ok(rows.bind(account).fetch_all(&mut database(&town.tenant).await?).await?)
}

fn charged_for<'a>(outcome: &'a SagaOutcome, step: &str) -> &'a str {
    outcome.steps.iter().find(|outcome| outcome.step == step).map_or("", |outcome| outcome.charged.as_str())
}

async fn delete_logs(town: &Town) -> Result<()> {
    jetstream(&town.tenant, "backend").await?.delete_stream(holdfast_saga::STREAM).await?;
    Ok(())
}

#[tokio::test]
async fn another_services_saga_of_the_same_name_is_let_alone() -> Result<()> {
    let town = Town::new(1).await?;
    town.caller.fund("user-1", FUNDS).await?;
    let hold = uuid::Uuid::new_v4();
    let body = json!({"amount": "0.5", "hold": hold, "saga": "wiki/user-1.bees.0.1"}).to_string();
    town.caller.send(Verb::Reserve, "user-1", &body).await?;
    let runner = town.shop.runner(&town.tenant, Faults::default()).await?;
    let open = wait::until("the ledger's open saga", SOON, async || {
        runner.open_sagas().await.ok().filter(|open| !open.is_empty())
    });
    let reconciled = runner.reconcile(open.await?).await;
    ensure!(reconciled.is_empty(), "{reconciled:?}");
    assert_eq!(town.shop_balance("user-1").await?, (units(FUNDS)?, units("0.5")?));
    ensure!(runner.list().await?.is_empty());
    Ok(())
}

#[tokio::test]
async fn a_wiki_that_was_completed_is_not_written_again_when_its_log_is_gone() -> Result<()> {
    let town = Town::new(2).await?;
    let world = town.world(Faults::default()).await.map_err(|error| anyhow!(error))?;
    let first = world.runner.run(&world.id, &world.account, &world.input).await?;
    delete_logs(&town).await?;
    let calls = serde_json::to_value(town.shop.provider.served())?;
    // A failure would undo what is complete.
    let fails = Fault::FailStep { step: "plan".to_owned(), moment: Moment::Before, again: false };
    let runner = town.shop.runner(&town.tenant, Faults::new(vec![fails])).await?;
    let again = runner.run(&world.id, &world.account, &world.input).await?;
    assert_eq!(again.because.as_deref(), Some("it was completed before; its log is gone"));
    let told = |outcome: &SagaOutcome| (outcome.ended, outcome.charged.clone(), outcome.kept.clone());
    assert_eq!(told(&again), told(&first));
    assert_eq!(serde_json::to_value(town.shop.provider.served())?, calls);
    town.must_be_as_the_rules_say(&world.account, &first).await?;
    eprintln!("completed before: {} charged, {} kept, no call made again", again.charged, again.kept);
    Ok(())
}

#[tokio::test]
async fn an_answer_that_is_of_no_use_is_charged_all_the_same() -> Result<()> {
    let town = Town::new(1).await?;
    let world = town.world(Faults::default()).await.map_err(|error| anyhow!(error))?;
    let useless = Script { words: Some(11), ..Act::Success.into() };
    let cut = Script { after_pieces: Some(4), ..Act::Cut.into() };
    town.shop.provider.queue(MODEL, [useless, cut]);
    let outcome = world.runner.run(&world.id, &world.account, &world.input).await?;
    assert_eq!(outcome.ended, Ending::Completed, "{outcome:?}");
    town.must_be_as_the_rules_say(&world.account, &outcome).await?;
    let charges = charges(&town, &world.account).await?;
    let failed: Vec<_> = charges
        .iter()
        .filter(|(_, _, body)| body.to_string().contains("which failed"))
        .map(|(kind, amount, body)| {
            let usage = &body["fact"][kind]["priced"]["usage"];
            (*amount, usage["source"].clone(), usage["tokens"]["output"].clone())
        })
        .collect();
    let [useless, cut] = &failed[..] else { return Err(anyhow!("{charges:?}")) };
    assert_eq!((&useless.1, &useless.2), (&json!("reported"), &json!(11)));
    assert_eq!(cut.1, json!("delivered"));
    let plan = units(charged_for(&outcome, "plan"))?;
    ensure!(plan > useless.0 + cut.0, "{outcome:?}");
    eprintln!("plan: {plan} nano-dollars charged, of them {} and {} for failed tries", useless.0, cut.0);
    Ok(())
}

#[tokio::test]
async fn a_page_that_cannot_be_saved_is_charged_all_the_same() -> Result<()> {
    let town = Town::new(1).await?;
    let world = town.world(Faults::default()).await.map_err(|error| anyhow!(error))?;
    // A file where the folder of the pages would be.
    town.shop.files.save(&world.account, "bees", "wiki", "in the way").await?;
    let outcome = world.runner.run(&world.id, &world.account, &world.input).await?;
    assert_eq!(outcome.ended, Ending::Undone, "{outcome:?}");
    let page = outcome.steps.iter().find(|step| step.step.starts_with("page-")).context("a page")?;
    ensure!(units(&page.kept)? > 0 && page.refunded == "0", "{page:?}");
    let (posted, held) = town.shop_balance(&world.account).await?;
    assert_eq!((posted, held), (units(FUNDS)? - units(&outcome.kept)?, 0));
    eprintln!("the page that was not saved: {} kept", page.kept);
    Ok(())
}

/// Two steps, `pay` and `fee`, of which the second is given back when it is undone.
#[derive(Clone, Default)]
struct Tiny {
    /// How long its hold lives; an hour unless it says.
    ttl: Option<Duration>,
    /// How often an action was run.
    acted: Arc<AtomicUsize>,
    /// How many tries at `fee` fail, at a cost.
    fee_fails: Arc<AtomicU32>,
    /// Whether `fee` fails for good, at no cost.
    fee_is_over: Arc<AtomicBool>,
    /// What `pay` waits for, if anything.
    go: Option<Arc<Notify>>,
}

fn at(amount: &str) -> Cost {
    Cost::of(amount.parse().expect("an amount"))
}

impl Saga for Tiny {
    const NAME: &'static str = "tiny";
    type Input = ();

    fn estimate(&self, (): &()) -> Estimate {
        let estimate = Estimate::new("0.5".parse().expect("an amount"));
        Estimate { ttl: self.ttl.unwrap_or(estimate.ttl), ..estimate }
    }

    fn next_step(&self, (): &(), done: &Outputs) -> Option<Step> {
        let tiny = self.clone();
        if !done.has("pay") {
            return Some(Step::new("pay", move |_| {
                let tiny = tiny.clone();
                async move {
                    tiny.acted.fetch_add(1, Ordering::Relaxed);
                    if let Some(go) = &tiny.go {
                        go.notified().await;
                    }
                    Ok(Done::at(json!("paid"), at("0.2")))
                }
            }));
        }
        let fee = Step::new("fee", move |_| {
            let tiny = tiny.clone();
            async move {
                tiny.acted.fetch_add(1, Ordering::Relaxed);
                if tiny.fee_is_over.load(Ordering::Relaxed) {
                    return Err(Failure::last("it is over"));
                }
                let left = |left: u32| left.checked_sub(1);
                if tiny.fee_fails.fetch_update(Ordering::Relaxed, Ordering::Relaxed, left).is_ok() {
                    return Err(Failure::again("not yet").costing(at("0.05")));
                }
                Ok(Done::at(json!("done"), at("0.1")))
            }
        });
        (!done.has("fee")).then(|| fee.refunded())
    }

    async fn recover(&self, _: &str) -> Result<Option<()>, Failure> {
        Ok(Some(()))
    }

    async fn abandon(&self, _: StepContext) -> Result<Vec<String>, Failure> {
        Ok(vec!["fee".to_owned()])
    }
}

impl Town {
    async fn tiny(&self, tiny: &Tiny, faults: Vec<Fault>) -> Result<Runner<Tiny>> {
        let client = client(&self.tenant, "backend").await?.0.as_ref().clone();
        let mut options = RunnerOptions::new(client.issuer().clone());
        let pause = Duration::from_millis(1);
        options.limits = Limits { interruptions_max: 3, pause, pause_max: pause, ..Limits::default() };
        options.ledger_within = Duration::from_millis(500);
        options.faults = Faults::new(faults);
        Ok(Runner::new(client, tiny.clone(), options).await?)
    }
}

fn crash(entry: u64, moment: Moment) -> Fault {
    Fault::CrashAt { entry, moment }
}

#[tokio::test]
async fn a_capture_without_an_outcome_does_not_run_the_work_again() -> Result<()> {
    let town = Town::new(1).await?;
    // Before it was asked for, and after it was carried out.
    for (number, fault) in [crash(4, Moment::After), crash(5, Moment::Before)].into_iter().enumerate() {
        let (tiny, user) = (Tiny::default(), format!("user-{number}"));
        town.caller.fund(&user, FUNDS).await?;
        let crashed = town.tiny(&tiny, vec![fault]).await?.run(&user, &user, &()).await;
        ensure!(matches!(crashed, Err(SagaError::Crashed)), "{crashed:?}");
        let outcome = town.tiny(&tiny, Vec::new()).await?.take_over(&user).await?;
        assert_eq!((outcome.ended, outcome.kept.as_str()), (Ending::Completed, "0.3"));
        assert_eq!(tiny.acted.load(Ordering::Relaxed), 2);
        assert_eq!(town.shop_balance(&user).await?, (units("0.7")?, 0));
    }
    // While the ledger does not answer, more often than a step may be interrupted.
    let tiny = Tiny { go: Some(Arc::default()), ..Tiny::default() };
    town.caller.fund("user-9", FUNDS).await?;
    let runner = town.tiny(&tiny, Vec::new()).await?;
    let running = tokio::spawn({
        let runner = runner.clone();
        async move { runner.run("9", "user-9", &()).await }
    });
    let begun = wait::until("the step was begun", SOON, async || {
        (tiny.acted.load(Ordering::Relaxed) == 1).then_some(())
    });
    begun.await?;
    town.serve.signal(Signal::STOP)?;
    tiny.go.iter().for_each(|go| go.notify_one());
    let unanswered = running.await?;
    ensure!(matches!(unanswered, Err(SagaError::Ledger(_))), "{unanswered:?}");
    for _ in 0..4 {
        let unanswered = runner.take_over("9").await;
        ensure!(matches!(unanswered, Err(SagaError::Ledger(_) | SagaError::Query(_))), "{unanswered:?}");
    }
    town.serve.signal(Signal::CONT)?;
    let outcome = runner.take_over("9").await?;
    assert_eq!((outcome.ended, outcome.kept.as_str()), (Ending::Completed, "0.3"));
    assert_eq!(tiny.acted.load(Ordering::Relaxed), 2);
    assert_eq!(town.shop_balance("user-9").await?, (units("0.7")?, 0));
    Ok(())
}

#[tokio::test]
async fn what_failed_tries_cost_is_charged_and_refunded_by_the_rule_of_their_step() -> Result<()> {
    let town = Town::new(1).await?;
    let fails = Fault::FailStep { step: "fee".to_owned(), moment: Moment::After, again: false };
    let cases = [
        (2, vec![], Ending::Completed, ("0.4", "0", "0.4"), "0.2"),
        (9, vec![], Ending::Undone, ("0.45", "0.25", "0.2"), "0.25"),
        (2, vec![fails], Ending::Undone, ("0.3", "0.1", "0.2"), "0.1"),
    ];
    for (number, (failures, faults, ended, sums, fee)) in cases.into_iter().enumerate() {
        let tiny = Tiny { fee_fails: Arc::new(AtomicU32::new(failures)), ..Tiny::default() };
        let user = format!("user-{number}");
        town.caller.fund(&user, FUNDS).await?;
        let outcome = town.tiny(&tiny, faults).await?.run(&user, &user, &()).await?;
        let told = (outcome.charged.as_str(), outcome.refunded.as_str(), outcome.kept.as_str());
        assert_eq!((outcome.ended, told, charged_for(&outcome, "fee")), (ended, sums, fee));
        let (posted, held) = town.shop_balance(&user).await?;
        assert_eq!((posted, held), (units(FUNDS)? - units(&outcome.kept)?, 0));
        eprintln!("{failures} failed tries: {sums:?} charged, refunded, kept");
    }
    Ok(())
}

#[tokio::test]
async fn a_crash_at_every_entry_of_a_saga_whose_tries_fail_at_a_cost() -> Result<()> {
    let town = Town::new(1).await?;
    let make = async |faults: Faults| -> Result<World<Tiny>, BoxError> {
        let account = format!("user-{}", town.worlds.fetch_add(1, Ordering::Relaxed));
        town.caller.fund(&account, FUNDS).await?;
        let tiny = Tiny { fee_fails: Arc::new(AtomicU32::new(1)), ..Tiny::default() };
        let runner = town.tiny(&tiny, faults.left()).await?;
        Ok(World { runner, id: account.clone(), account, input: () })
    };
    let check = async |trial: &Trial<'_, Tiny>| -> Result<(), BoxError> {
        let (account, outcome) = (&trial.world.account, trial.outcome);
        let (posted, held) = town.shop_balance(account).await?;
        // A try whose end was not written has cost the house what it cost; nothing is charged twice.
        let legal: &[&str] = if outcome.ended == Ending::Undone { &["0.2"] } else { &["0.35", "0.3"] };
        if !legal.contains(&outcome.kept.as_str())
            || (posted, held) != (units(FUNDS)? - units(&outcome.kept)?, 0)
        {
            return Err(format!("{posted} posted, {held} held, {outcome:?}").into());
        }
        Ok(())
    };
    let proved = proof::crash_at_every_entry(&make, &check).await?;
    eprintln!("crash_at_every_entry with a try that failed: {} runs", proved.points);
    ensure!(proved.points >= 40, "{} runs", proved.points);
    Ok(())
}

#[tokio::test]
async fn a_late_capture_cannot_follow_the_end_of_a_saga_whose_hold_expired() -> Result<()> {
    let town = Town::new(1).await?;
    town.caller.fund("user-1", FUNDS).await?;
    let tiny = Tiny { ttl: Some(Duration::from_secs(2)), ..Tiny::default() };
    // `pay` is done, `fee` begun: the entries 5 and 6.
    let runner = town.tiny(&tiny, vec![crash(6, Moment::After)]).await?;
    let crashed = runner.run("1", "user-1", &()).await;
    ensure!(matches!(crashed, Err(SagaError::Crashed)), "{crashed:?}");
    let mut connection = database(&town.tenant).await?;
    let expired = wait::until("the hold has expired", SOON, async || {
        let sql = "SELECT count(*) FROM ledger_log WHERE kind = 'hold_expired'";
        count(&mut connection, sql).await.ok().filter(|count| *count == 1)
    });
    expired.await?;
    let outcome = town.tiny(&tiny, Vec::new()).await?.take_over("1").await?;
    assert_eq!((outcome.ended, outcome.kept.as_str()), (Ending::Undone, "0.2"));
    // The instance that was taken over has not noticed, and captures at last.
    let (key, issuer) = (runner.key("1")?, Issuer::new("backend")?);
    let body = json!({"hold": key.hold(&issuer), "amount": "0.1", "final": false}).to_string();
    let late = town.caller.send_as(key.capture_id(&issuer, "fee"), Verb::Capture, "user-1", &body).await?;
    assert_eq!(late.code.as_deref(), Some("hold_settled"), "{late:?}");
    assert_eq!(town.shop_balance("user-1").await?, (units("0.8")?, 0));
    Ok(())
}

#[tokio::test]
async fn after_a_lost_log_the_charge_of_a_step_that_fails_now_is_known_and_given_back() -> Result<()> {
    let town = Town::new(1).await?;
    town.caller.fund("user-1", FUNDS).await?;
    let tiny = Tiny { fee_fails: Arc::new(AtomicU32::new(1)), ..Tiny::default() };
    let runner = town.tiny(&tiny, vec![crash(11, Moment::Before)]).await?;
    let crashed = runner.run("1", "user-1", &()).await;
    ensure!(matches!(crashed, Err(SagaError::Crashed)), "{crashed:?}");
    let before = charges(&town, "user-1").await?;
    delete_logs(&town).await?;
    tiny.fee_is_over.store(true, Ordering::Relaxed);
    let runner = town.tiny(&tiny, Vec::new()).await?;
    let open = wait::until("the ledger's open saga", SOON, async || {
        runner.open_sagas().await.ok().filter(|open| !open.is_empty())
    });
    let outcome = runner.reconcile(open.await?).await.into_iter().next().context("one saga")?.outcome?;
    let told = (outcome.charged.as_str(), outcome.refunded.as_str(), outcome.kept.as_str());
    eprintln!("{} charges before the log was lost; then {told:?} charged, refunded, kept", before.len());
    assert_eq!((outcome.ended, before.len()), (Ending::Undone, 3));
    assert_eq!(told, ("0.35", "0.15", "0.2"));
    assert_eq!(town.shop_balance("user-1").await?, (units("0.8")?, 0));
    Ok(())
}

#[tokio::test]
async fn lost_sagas_are_all_begun_again_before_the_first_is_driven() -> Result<()> {
    let town = Town::new(1).await?;
    let tiny = Tiny::default();
    for number in 0..5 {
        let user = format!("user-{number}");
        town.caller.fund(&user, FUNDS).await?;
        let crashed = town.tiny(&tiny, vec![crash(4, Moment::After)]).await?.run(&user, &user, &()).await;
        ensure!(matches!(crashed, Err(SagaError::Crashed)), "{crashed:?}");
    }
    delete_logs(&town).await?;
    // `pay` takes for ever, so none comes to its end.
    let waiting = Tiny { go: Some(Arc::default()), ..tiny };
    let runner = town.tiny(&waiting, Vec::new()).await?;
    let open = wait::until("the ledger's open sagas", SOON, async || {
        runner.open_sagas().await.ok().filter(|open| open.len() == 5)
    });
    let open = open.await?;
    let (driving, sagas) = (runner.clone(), open.clone());
    let reconciling = tokio::spawn(async move { driving.reconcile(sagas).await });
    let all = wait::until("all are driven", SOON, async || {
        (waiting.acted.load(Ordering::Relaxed) == 10).then_some(())
    });
    all.await?;
    let entries = runner.log().read_all(Some("tiny")).await?;
    let started = entries.iter().take(5).filter(|stored| stored.entry.what.kind() == "started").count();
    assert_eq!(started, 5);
    let driven = wait::until("all have ended", SOON, async || {
        waiting.go.iter().for_each(|go| go.notify_waiters());
        reconciling.is_finished().then_some(())
    });
    driven.await?;
    let ended = reconciling.await?;
    ensure!(ended.len() == 5 && ended.iter().all(|saga| saga.outcome.is_ok()), "{ended:?}");
    Ok(())
}

fn problem(answer: &(u16, Value)) -> (u16, &str) {
    (answer.0, answer.1["code"].as_str().unwrap_or_default())
}

fn ended(answer: &(u16, Value)) -> (u16, &str) {
    (answer.0, answer.1["ended"].as_str().unwrap_or_default())
}

#[tokio::test]
async fn an_order_that_came_to_nothing_may_be_given_again_and_one_that_exists_not_replaced() -> Result<()> {
    let town = Town::new(1).await?;
    let url = town.shop.backend(&town.tenant, Duration::from_secs(60), None).await?;
    let backend = BackendClient::new(&url, SecretString::from(TOKEN));
    let order = json!({"project": "bees", "topic": "Bees", "pages": 1});
    let other = json!({"project": "bees", "topic": "Ants", "pages": 1});
    town.caller.fund("ann", "0.000001").await?;

    let refused = backend.wiki("ann", &order).await?;
    assert_eq!(ended(&refused), (402, "refused"));
    // It leaves no order.
    let orders = std::fs::read_dir(town.shop.data.join("orders"))?.filter_map(Result::ok);
    let names: Vec<_> = orders.map(|entry| entry.file_name()).collect();
    assert_eq!(names, [".lock"]);
    town.caller.send(Verb::TopUp, "ann", r#"{"amount":"1"}"#).await?;

    town.shop.files.save("ann", "bees", "wiki", "in the way").await?;
    let undone = backend.wiki("ann", &order).await?;
    assert_eq!(ended(&undone), (502, "undone"));
    town.shop.files.remove("ann", "bees", "wiki").await?;

    let completed = backend.wiki("ann", &order).await?;
    assert_eq!(ended(&completed), (200, "completed"), "{}", completed.1);
    let ids = [&refused, &undone, &completed].map(|answer| answer.1["saga"].to_string());
    ensure!(ids[0] != ids[1] && ids[1] != ids[2] && ids[0] != ids[2], "{ids:?}");
    // The same is told again; another is not carried out.
    assert_eq!(backend.wiki("ann", &order).await?, completed);
    assert_eq!(problem(&backend.wiki("ann", &other).await?), (409, "wiki_exists"));
    assert_eq!(backend.wiki("ann", &order).await?, completed);
    Ok(())
}

#[tokio::test]
async fn an_order_is_small() -> Result<()> {
    let town = Town::new(1).await?;
    let url = town.shop.backend(&town.tenant, Duration::from_secs(60), None).await?;
    let backend = BackendClient::new(&url, SecretString::from(TOKEN));
    for (characters, expected) in [(1_001, (400, "invalid_request")), (70_000, (413, "too_large"))] {
        let order = json!({"project": "bees", "topic": "b".repeat(characters), "pages": 1});
        let answer = backend.wiki("ann", &order).await?;
        assert_eq!(problem(&answer), expected);
        ensure!(characters > 70_000 - 1 || answer.1["field"] == "topic", "{}", answer.1);
    }
    Ok(())
}

#[tokio::test]
async fn who_leaves_before_the_first_byte_of_a_chat_pays_for_it() -> Result<()> {
    let town = Town::new(1).await?;
    town.caller.fund("ann", FUNDS).await?;
    // A provider that takes its time until it begins to answer.
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let provider = format!("http://{}", listener.local_addr()?);
    let (asked, gone) = (Arc::<Notify>::default(), Arc::<Notify>::default());
    let serving = tokio::spawn({
        let (asked, gone) = (Arc::clone(&asked), Arc::clone(&gone));
        async move {
            let (mut socket, _) = listener.accept().await?;
            let mut request = vec![0; 16 * 1024];
            let _ = socket.read(&mut request).await?;
            asked.notify_one();
            gone.notified().await;
            let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
            let text = json!({"choices": [{"delta": {"content": "01234567"}}]});
            let usage = json!({"choices": [], "usage": {"prompt_tokens": 10, "completion_tokens": 7}});
            let answer = format!("{head}data: {text}\n\ndata: {usage}\n\ndata: [DONE]\n\n");
            socket.write_all(answer.as_bytes()).await?;
            Ok::<_, std::io::Error>(())
        }
    });
    let url = town.shop.backend(&town.tenant, Duration::from_secs(60), Some(&provider)).await?;
    let backend = BackendClient::new(&url, SecretString::from(TOKEN));
    let chat = tokio::spawn(async move {
        let ask = json!({"message": "0123456789 0123456789 0123456789 0123456", "max_tokens": 100});
        backend.chat("ann", &ask).await.map(drop)
    });
    asked.notified().await;
    chat.abort();
    gone.notify_one();
    serving.await??;
    let settled = wait::until("it is settled", SOON, async || {
        charges(&town, "ann").await.ok().filter(|charges| !charges.is_empty())
    });
    let settled = settled.await?;
    // What came before anybody could notice: eight bytes are two tokens.
    assert_eq!((settled[0].0.as_str(), settled[0].1), ("captured", 10 * 300 + 2 * 2_500));
    assert_eq!(town.shop_balance("ann").await?.1, 0);
    Ok(())
}

/// What an operator does about a saga that is stuck, with the program: look, mend, resume.
#[tokio::test]
async fn a_stuck_saga_is_listed_shown_and_resumed_by_command() -> Result<()> {
    let town = Town::new(1).await?;
    let attempts = holdfast_saga::Limits::default().attempts_max;
    let faults = Faults::new(vec![
        holdfast_saga::Fault::FailStep {
            step: "index".to_owned(),
            moment: holdfast_saga::Moment::After,
            again: false,
        },
        holdfast_saga::Fault::FailUndo { step: "snapshot".to_owned(), times: attempts },
    ]);
    let world = town.world(faults).await.map_err(|error| anyhow!(error))?;
    let outcome = world.runner.run(&world.id, &world.account, &world.input).await?;
    assert_eq!(outcome.ended, Ending::Stuck);
    let (saga, nats) = (outcome.saga.to_string(), town.tenant.nats_url("backend"));
    let command = async |arguments: &[&str]| -> Result<(bool, Value)> {
        let all = [&["--output", "json", "saga"], arguments, &["--nats-url", nats]].concat();
        let output = run(&town.tenant, &all).await?;
        Ok((output.status.success(), serde_json::from_slice(&output.stdout).unwrap_or_default()))
    };
    let (_, listed) = command(&["list", "--definition", "wiki"]).await?;
    assert_eq!(
        (&listed[0]["saga"], &listed[0]["status"]),
        (&saga.as_str().into(), &"stuck".into()),
        "{listed}"
    );
    let (_, shown) = command(&["show", &saga]).await?;
    let last = shown.as_array().and_then(|lines| lines.last()).context("lines")?;
    assert_eq!((&last["entry"], &last["step"]), (&"stuck".into(), &"snapshot".into()), "{shown}");
    assert_eq!(command(&["show", "wiki/nobody"]).await?, (false, Value::Null));

    assert!(command(&["resume", &saga]).await?.0);
    assert!(!command(&["resume", &saga]).await?.0, "only what is stuck can be resumed");
    // An instance notices it, and drives it to its end.
    let outcome = wait::until("the saga is undone", SOON, async || {
        let served = tokio::time::timeout(std::time::Duration::from_millis(200), world.runner.serve());
        let _ = served.await;
        world.runner.outcome(&world.id).await.ok().flatten().filter(|outcome| outcome.ended == Ending::Undone)
    });
    let outcome = outcome.await?;
    town.must_be_as_the_rules_say(&world.account, &outcome).await?;
    // Who has no sagas is told so, and gets no stream by asking.
    let other = run(&town.tenant, &["saga", "list", "--nats-url", town.tenant.nats_url("operator")]).await?;
    assert!(!other.status.success());
    assert!(jetstream(&town.tenant, "operator").await?.get_stream(holdfast_saga::STREAM).await.is_err());
    Ok(())
}
