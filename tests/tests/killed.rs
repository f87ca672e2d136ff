//! The backend killed at each point between reserve and settled, then started again on its journal:
//! exactly one end, the right amount, and nothing held past its time.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use holdfast_examples::clients::{BackendClient, Chat};
use holdfast_examples::provider::{Act, Script};
use holdfast_testkit::proxy::{Cut, Proxy};
use holdfast_testkit::tenant::Tenant;
use holdfast_testkit::wait;
use holdfast_tests::shop::{MODEL, Shop};
use holdfast_tests::{AUDIENCE, SOON, Serve, TOKEN, binary, client, database, jetstream};
use rustix::process::Signal;
use secrecy::SecretString;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, Command};

/// Forty bytes: ten tokens.
const MESSAGE: &str = "0123456789 0123456789 0123456789 0123456";
const INPUT: i64 = 10 * 300;
const OUTPUT: i64 = 2_500;
const FUNDS: i64 = 1_000_000_000;
/// Long enough for a chat and a restart, short enough to see a hold expire.
const TTL_SECONDS: &str = "8";

/// A backend in a process of its own.
struct Backend {
    child: Child,
    log: Lines<BufReader<ChildStderr>>,
    client: BackendClient,
}

impl Backend {
    /// Starts one on the shop's journal, with the bus at `nats`.
    async fn start(shop: &Shop, nats: &str, halt: Option<&str>) -> Result<Self> {
        let mut command = Command::new(binary()?.with_file_name("holdfast-example"));
        command.args(["backend", "--audience", AUDIENCE, "--model", MODEL, "--hold-ttl", TTL_SECONDS]);
        command.arg("--data").arg(shop.data.join("backend")).args(["--provider", &shop.provider_url]);
        command.args(["--files", &shop.urls[0], "--git", &shop.urls[1], "--vectors", &shop.urls[2]]);
        command.args(["--saga-lease", "3"]);
        command.args(halt.map(|point| format!("--halt={point}")));
        command.env("INTERNAL_SERVICE_TOKEN", TOKEN).env("HOLDFAST_NATS_URL", nats).env("NO_COLOR", "1");
        let mut child = command.stderr(Stdio::piped()).kill_on_drop(true).spawn()?;
        let mut log = BufReader::new(child.stderr.take().context("no log")?).lines();
        let url = said(&mut log, "listening on ").await?;
        let client = BackendClient::new(&url, SecretString::from(TOKEN));
        Ok(Backend { child, log, client })
    }

    async fn chat(&self) -> Result<Chat> {
        let ask = json!({"message": MESSAGE, "max_tokens": 100});
        self.client.chat("ann", &ask).await
    }

    async fn kill(mut self) -> Result<()> {
        Ok(self.child.kill().await?)
    }
}

/// Waits until the log says `what`; answers the rest of the line.
async fn said(log: &mut Lines<BufReader<ChildStderr>>, what: &str) -> Result<String> {
    let found = async {
        while let Some(line) = log.next_line().await? {
            if let Some((_, rest)) = line.split_once(what) {
                return Ok(rest.trim().to_owned());
            }
        }
        anyhow::bail!("the backend ended")
    };
    tokio::time::timeout(SOON, found).await.with_context(|| format!("the backend never said {what:?}"))?
}

struct World {
    tenant: Tenant,
    serve: Serve,
    shop: Shop,
}

impl World {
    async fn new(script: Script) -> Result<Self> {
        let tenant = Tenant::new().await?;
        let serve = Serve::start(&tenant).await?;
        let shop = Shop::open().await?;
        client(&tenant, "backend").await?.fund("ann", "1").await?;
        shop.provider.queue(MODEL, [script]);
        Ok(World { tenant, serve, shop })
    }

    fn nats(&self) -> &str {
        self.tenant.nats_url("backend")
    }

    async fn backend(&self, halt: Option<&str>) -> Result<Backend> {
        Backend::start(&self.shop, self.nats(), halt).await
    }

    /// How many commands the stream has.
    async fn commands(&self) -> Result<u64> {
        let stream = jetstream(&self.tenant, "ledger").await?.get_stream("LEDGER_COMMANDS").await?;
        Ok(stream.cached_info().state.messages)
    }

    async fn commands_above(&self, before: u64) -> Result<()> {
        let grown = wait::until("a command was published", SOON, async || {
            self.commands().await.ok().filter(|now| *now > before)
        });
        grown.await.map(drop)
    }

    /// Whether a backend that is started sends no command by the time that one of ours is answered.
    async fn sends_nothing(&self) -> Result<bool> {
        let before = self.commands().await?;
        let backend = self.backend(None).await?;
        let told = client(&self.tenant, "backend").await?;
        told.send(holdfast_core::Verb::TopUp, "ann", r#"{"amount":"1"}"#).await?;
        backend.kill().await?;
        Ok(self.commands().await? == before + 1)
    }

    /// Starts the backend again, waits for the end of the hold, and answers its kind, what was charged
    /// and the fact. There is one end, it is paid, and nothing is held.
    async fn restarted(self) -> Result<(String, i64, Value)> {
        let again = self.backend(None).await?;
        let mut connection = database(&self.tenant).await?;
        let ended = wait::until("the hold has ended", SOON, async || {
            let row = sqlx::query_as::<_, (String, i64, Value, i64, i64)>(
                "SELECT kind, amount, body, posted, held FROM ledger_log
                 WHERE account = 'ann' AND kind IN ('captured', 'released', 'hold_expired')",
            );
            let rows = row.fetch_all(&mut connection).await.ok()?;
            (!rows.is_empty()).then_some(rows)
        });
        let ended = ended.await?;
        ensure!(ended.len() == 1, "the hold has {} ends", ended.len());
        let (kind, amount, body, posted, held) = ended.into_iter().next().context("an end")?;
        let charged = if kind == "captured" { amount } else { 0 };
        ensure!(
            (posted, held) == (FUNDS - charged, 0),
            "{posted} posted, {held} held after {kind} of {amount}"
        );
        again.kill().await?;
        // What was answered is known: soon a start has nothing to do, and sends nothing.
        let quiet = wait::until("a backend that has nothing to do", SOON, async || {
            self.sends_nothing().await.ok().filter(|quiet| *quiet)
        });
        quiet.await?;
        Ok((kind.clone(), charged, body["fact"][&kind].clone()))
    }
}

fn answers(words: usize) -> Script {
    Script { words: Some(words), ..Act::Success.into() }
}

#[tokio::test]
async fn before_the_reserve_was_answered() -> Result<()> {
    let world = World::new(answers(7)).await?;
    let backend = world.backend(None).await?;
    // Prices are asked for before, and remembered for a while.
    client(&world.tenant, "backend").await?.fund("bob", "1").await?;
    let warm = json!({"message": MESSAGE, "max_tokens": 100});
    backend.client.chat("bob", &warm).await?.all().await?;
    let before = world.commands().await?;
    world.serve.signal(Signal::STOP)?;
    let asked = tokio::spawn({
        let client = backend.client.clone();
        async move { client.chat("ann", &json!({"message": MESSAGE})).await.map(|chat| chat.status) }
    });
    world.commands_above(before).await?;
    backend.kill().await?;
    asked.abort();
    world.serve.signal(Signal::CONT)?;
    let (kind, charged, fact) = world.restarted().await?;
    assert_eq!((kind.as_str(), charged, &fact["reason"]), ("released", 0, &json!("not_dispatched")));
    Ok(())
}

#[tokio::test]
async fn before_the_call_was_announced() -> Result<()> {
    let world = World::new(answers(7)).await?;
    let mut backend = world.backend(Some("held")).await?;
    let client = backend.client.clone();
    let asked = tokio::spawn(async move { client.chat("ann", &json!({"message": MESSAGE})).await.map(drop) });
    said(&mut backend.log, "halted").await?;
    backend.kill().await?;
    asked.abort();
    let (kind, charged, fact) = world.restarted().await?;
    assert_eq!((kind.as_str(), charged, &fact["reason"]), ("released", 0, &json!("not_dispatched")));
    Ok(())
}

/// Nobody knows whether the request went out, so the hold is kept, and expires.
#[tokio::test]
async fn before_the_call_was_sent() -> Result<()> {
    let world = World::new(answers(7)).await?;
    let mut backend = world.backend(Some("dispatched")).await?;
    let client = backend.client.clone();
    let asked = tokio::spawn(async move { client.chat("ann", &json!({"message": MESSAGE})).await.map(drop) });
    said(&mut backend.log, "halted").await?;
    backend.kill().await?;
    asked.abort();
    let (kind, charged, _) = world.restarted().await?;
    assert_eq!((kind.as_str(), charged), ("hold_expired", 0));
    Ok(())
}

#[tokio::test]
async fn in_the_middle_of_the_answer() -> Result<()> {
    let script = Script { words: Some(90), pause_ms: Some(20), ..Act::Slow.into() };
    let world = World::new(script).await?;
    let backend = world.backend(None).await?;
    let mut chat = backend.chat().await?;
    let mut came = 0;
    // Longer than the journal lags behind.
    for _ in 0..40 {
        let (_, text) = chat.next().await?.context("a piece")?;
        came += i64::try_from(text.as_str().unwrap_or_default().len())?;
    }
    backend.kill().await?;
    let (kind, charged, fact) = world.restarted().await?;
    assert_eq!((kind.as_str(), &fact["reason"]), ("captured", &json!("aborted")));
    assert_eq!(fact["priced"]["usage"]["source"], json!("delivered"));
    // What the journal knew: a good part of what came, and of what was still on its way some pieces.
    let most = INPUT + ((came + 3) / 4 + 20) * OUTPUT;
    ensure!(charged > INPUT + OUTPUT && charged <= most, "{charged} charged, {came} bytes came");
    Ok(())
}

#[tokio::test]
async fn after_the_answer_before_it_was_settled() -> Result<()> {
    let world = World::new(answers(7)).await?;
    let mut backend = world.backend(Some("answered")).await?;
    let _chat = backend.chat().await?;
    said(&mut backend.log, "halted").await?;
    // What the provider reported is written down when it is heard, which is not waited for.
    let journal = world.shop.data.join("backend/calls.sqlite-wal");
    let written = wait::until("the report is in the journal", SOON, async || {
        let bytes = std::fs::read(&journal).ok()?;
        bytes.windows(8).any(|window| window == b"reported").then_some(())
    });
    written.await?;
    backend.kill().await?;
    let (kind, charged, fact) = world.restarted().await?;
    assert_eq!((kind.as_str(), charged), ("captured", INPUT + 7 * OUTPUT));
    assert_eq!(fact["priced"]["usage"]["source"], json!("reported"));
    Ok(())
}

#[tokio::test]
async fn after_the_journal_was_written_before_it_was_published() -> Result<()> {
    let world = World::new(answers(7)).await?;
    let nats = world.nats().to_owned();
    let (login, address) = nats.rsplit_once('@').context("a login")?;
    let proxy = Proxy::start(address.parse()?).await?;
    let backend = Backend::start(&world.shop, &format!("{login}@{}", proxy.address()), None).await?;
    proxy.cut_at("ledger.cmd.backend.capture", Cut::Before);
    let chat = backend.chat().await?;
    let cut = wait::until("the capture was cut off", SOON, async || (!proxy.is_armed()).then_some(()));
    cut.await?;
    backend.kill().await?;
    drop(chat);
    let (kind, charged, fact) = world.restarted().await?;
    assert_eq!((kind.as_str(), charged), ("captured", INPUT + 7 * OUTPUT));
    assert_eq!(fact["reason"], json!("completed"));
    Ok(())
}

#[tokio::test]
async fn after_it_was_published_before_it_was_answered() -> Result<()> {
    let script = Script { words: Some(30), pause_ms: Some(20), ..Act::Slow.into() };
    let world = World::new(script).await?;
    let backend = world.backend(None).await?;
    let mut chat = backend.chat().await?;
    chat.next().await?.context("a piece")?;
    world.serve.signal(Signal::STOP)?;
    let before = world.commands().await?;
    world.commands_above(before).await?;
    backend.kill().await?;
    world.serve.signal(Signal::CONT)?;
    let (kind, charged, fact) = world.restarted().await?;
    assert_eq!((kind.as_str(), charged), ("captured", INPUT + 30 * OUTPUT));
    assert_eq!(fact["reason"], json!("completed"));
    Ok(())
}

/// A job of many steps, killed in the middle of one.
#[tokio::test]
async fn in_the_middle_of_a_wiki() -> Result<()> {
    let world = World::new(Act::Success.into()).await?;
    let slow = Script { pause_ms: Some(20), ..Act::Slow.into() };
    world.shop.provider.queue(MODEL, [Act::Success.into(), Act::Success.into(), slow]);
    let backend = world.backend(None).await?;
    let client = backend.client.clone();
    let order = json!({"project": "bees", "topic": "Bees", "pages": 2});
    let asked = tokio::spawn({
        let order = order.clone();
        async move { client.wiki("ann", &order).await.map(drop) }
    });
    let files = wait::until("a page was written", SOON, async || {
        world.shop.files.list("ann", "bees").await.ok().filter(|files| !files.is_empty())
    });
    files.await?;
    backend.kill().await?;
    asked.abort();
    let again = world.backend(None).await?;
    // The other instance's lease has to end; then whoever asks for the same is told how it ended.
    let ended = wait::until("the wiki is there", Duration::from_secs(120), async || {
        let (status, outcome) = again.client.wiki("ann", &order).await.ok()?;
        (status == 200).then_some(outcome)
    });
    let outcome = ended.await?;
    assert_eq!(outcome["ended"], json!("completed"), "{outcome}");
    assert_eq!(world.shop.files.list("ann", "bees").await?.len(), 2);
    let mut connection = database(&world.tenant).await?;
    let (held,): (i64,) = sqlx::query_as("SELECT held FROM ledger_log ORDER BY position DESC LIMIT 1")
        .fetch_one(&mut connection)
        .await?;
    assert_eq!(held, 0);
    Ok(())
}
