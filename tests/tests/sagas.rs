//! Sagas: the wiki, and what must hold of it whatever fails. Money, files, git and vectors all as its
//! rules say.

use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, anyhow, ensure};
use holdfast_core::{Asset, Decimal, Units};
use holdfast_examples::backend::job::{SNAPSHOT_FEE, WikiJob};
use holdfast_saga::proof::{self, BoxError, Trial, World};
use holdfast_saga::{Ending, Faults, SagaOutcome, What};
use holdfast_testkit::tenant::Tenant;
use holdfast_testkit::wait;
use holdfast_tests::shop::Shop;
use holdfast_tests::{Caller, SOON, Serve, client, count, database, jetstream, run};
use serde_json::Value;

/// A tenant's ledger, the services, and as many accounts as are wanted.
struct Town {
    tenant: Tenant,
    _serve: Serve,
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
        Ok(Town { shop, tenant, _serve: serve, caller, pages, worlds: AtomicUsize::new(0) })
    }

    /// A user with money, a project, and a runner that commits `faults`.
    async fn world(&self, faults: Faults) -> Result<World<WikiJob>, BoxError> {
        let number = self.worlds.fetch_add(1, Ordering::Relaxed);
        let user = format!("user-{number}");
        self.caller.fund(&user, FUNDS).await?;
        let input = self.shop.order(&self.tenant, &user, "bees", self.pages).await?;
        let runner = self.shop.runner(&self.tenant, faults).await?;
        Ok(World { runner, id: format!("{user}.bees"), account: user, input })
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
            let open =
                count(&mut connection, "SELECT count(*) FROM projection.hold WHERE status = 'open'").await?;
            assert_eq!(open, 0);
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
    let crash = holdfast_saga::Fault::CrashAt { entry: 6, moment: holdfast_saga::Moment::After };
    let world = town.world(Faults::new(vec![crash])).await.map_err(|error| anyhow!(error))?;
    town.shop.wiki_job()?.keep(&world.id, &world.input)?;
    let crashed = world.runner.run(&world.id, &world.account, &world.input).await;
    ensure!(matches!(crashed, Err(holdfast_saga::SagaError::Crashed)), "{crashed:?}");
    jetstream(&town.tenant, "backend").await?.delete_stream(holdfast_saga::STREAM).await?;

    let runner = town.shop.runner(&town.tenant, Faults::default()).await?;
    let open = wait::until("the ledger's open saga", SOON, async || {
        runner.open_sagas().await.ok().filter(|open| !open.is_empty())
    });
    let reconciled = runner.reconcile(open.await?).await?;
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
    let crash = holdfast_saga::Fault::CrashAt { entry: 6, moment: holdfast_saga::Moment::After };
    let world = town.world(Faults::new(vec![crash])).await.map_err(|error| anyhow!(error))?;
    let crashed = world.runner.run(&world.id, &world.account, &world.input).await;
    ensure!(matches!(crashed, Err(holdfast_saga::SagaError::Crashed)), "{crashed:?}");
    jetstream(&town.tenant, "backend").await?.delete_stream(holdfast_saga::STREAM).await?;
    let runner = town.shop.runner(&town.tenant, Faults::default()).await?;
    let open = wait::until("the ledger's open saga", SOON, async || {
        runner.open_sagas().await.ok().filter(|open| !open.is_empty())
    });
    let reconciled = runner.reconcile(open.await?).await?;
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
