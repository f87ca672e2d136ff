//! docs/guide.md as somebody follows it: its two programs and its commands, run as they stand there, and
//! what it says of programs that are killed.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use holdfast_core::{Asset, Decimal};
use holdfast_examples::provider::{self, Act, Provider, Script};
use holdfast_testkit::tenant::Tenant;
use holdfast_testkit::wait;
use holdfast_tests::{AUDIENCE, SOON, Serve, TOKEN, binary, database, run, tools};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio_util::sync::{CancellationToken, DropGuard};

/// The guide's account and model.
const ACCOUNT: &str = "user-1";
const MODEL: &str = "gpt-4o-mini";
/// Nano-dollars for a token.
const INPUT: i64 = 150;
const OUTPUT: i64 = 600;
/// What the guide puts into the account.
const FUNDS: i64 = 1_000_000_000;
/// How long one command may take.
const COMMAND_WITHIN: Duration = Duration::from_secs(60);
/// The chat that is killed: 20 bytes, which are 5 tokens.
const KILLED: &str = "exec python3 chat.py user-1 'Tell me a long story'";
/// How many bytes of its answer are read before: words of 4 to 8 bytes come every 50 ms, and the journal is
/// written every 200 ms.
const READ_BYTES: usize = 120;
/// The longest word with its space: it may have been counted and not printed.
const WORD_BYTES_MAX: usize = 8;
/// What the next run says.
const LEFT: &str = "calls that an earlier run left, and that are settled now: 1\n";

fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// What follows each opening fence, and the block.
fn blocks() -> Result<Vec<(String, String)>> {
    let (mut blocks, mut open) = (Vec::new(), None::<(String, String)>);
    for line in std::fs::read_to_string(project().join("docs/guide.md"))?.lines() {
        let Some(fence) = line.strip_prefix("```") else {
            if let Some((_, block)) = &mut open {
                block.push_str(line);
                block.push('\n');
            }
            continue;
        };
        match open.take() {
            Some(block) => blocks.push(block),
            None => open = Some((fence.to_owned(), String::new())),
        }
    }
    Ok(blocks)
}

/// The block that is the program `title`.
fn program(title: &str) -> Result<String> {
    let fence = format!("title=\"{title}\"");
    let found = blocks()?.into_iter().find(|(opening, _)| opening.ends_with(&fence));
    Ok(found.with_context(|| format!("the guide has no {title}"))?.1)
}

/// The commands of a block, each with the lines that it is shown to print.
fn commands(block: &str) -> Vec<(&str, Vec<&str>)> {
    let mut commands = Vec::<(&str, Vec<&str>)>::new();
    for line in block.lines() {
        if let Some(command) = line.strip_prefix("$ ") {
            commands.push((command, Vec::new()));
        } else if let Some((_, shown)) = commands.last_mut() {
            shown.push(line);
        }
    }
    commands
}

/// Whether something is said as it is shown: `…` stands for anything, and neither the width of columns nor
/// empty lines are looked at.
fn fits(shown: &[&str], said: &str) -> bool {
    let said: Vec<String> = said.lines().map(words).filter(|line| !line.is_empty()).collect();
    said.len() == shown.len() && said.iter().zip(shown).all(|(said, shown)| line_fits(&words(shown), said))
}

fn words(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn line_fits(shown: &str, said: &str) -> bool {
    let parts: Vec<&str> = shown.split('…').collect();
    let [first, middle @ .., last] = parts.as_slice() else { return shown == said };
    let Some(mut rest) = said.strip_prefix(*first) else { return false };
    for part in middle {
        let Some((_, after)) = rest.split_once(*part) else { return false };
        rest = after;
    }
    rest.ends_with(*last)
}

fn is_chat(command: &str) -> bool {
    command.contains("chat")
}

/// An event of the account, as the log has it. Amounts in nano-dollars.
struct Event {
    kind: String,
    amount: Option<i64>,
    posted: i64,
    held: i64,
    body: Value,
}

impl Event {
    /// What the event says beside its balances.
    fn fact(&self) -> &Value {
        &self.body["fact"][&self.kind]
    }
}

/// Somebody who follows the guide: a folder, a ledger, a provider, and the variables that the guide sets.
struct Reader {
    folder: PathBuf,
    variables: Vec<(&'static str, OsString)>,
    has_nats: bool,
    provider: Arc<Provider>,
    tenant: Tenant,
    _serve: Serve,
    _stop: DropGuard,
}

impl Drop for Reader {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Reader {
    /// None where there is no Python.
    async fn new() -> Result<Option<Self>> {
        let Some(python) = tools::python()? else { return Ok(None) };
        let packages =
            tools::python_packages(&python, &project().join("tests/python/requirements.txt")).await?;
        let nats = tools::nats_cli("the last command of docs/guide.md")?;
        let built = binary()?;
        let chat = built.with_file_name("guide-chat");
        ensure!(chat.is_file(), "{} is missing; run `cargo build --workspace`", chat.display());

        let tenant = Tenant::new().await?;
        let serve = Serve::start(&tenant).await?;
        let (provider, stop) = (Arc::<Provider>::default(), CancellationToken::new());
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let provider_url = format!("http://{}", listener.local_addr()?);
        tokio::spawn(provider::serve(listener, Arc::clone(&provider), stop.clone()));

        let folder = format!("holdfast-guide-{}-{}", std::process::id(), tenant.number);
        let folder = std::env::temp_dir().join(folder);
        std::fs::create_dir_all(&folder)?;
        let token = folder.join("internal-token");
        std::fs::write(&token, format!("{TOKEN}\n"))?;
        std::fs::write(folder.join("chat.py"), program("chat.py")?)?;

        let folders = [Some(built.as_path()), nats.as_deref()].into_iter().flatten();
        let folders = folders.filter_map(Path::parent).map(Path::to_path_buf);
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths(folders.chain(std::env::split_paths(&path)))?;
        let python_path = std::env::join_paths([packages, project().join("clients/python/src")])?;
        let variables = vec![
            ("PATH", path),
            // Where the `nats` CLI looks for settings that could point it elsewhere.
            ("XDG_CONFIG_HOME", folder.clone().into()),
            ("PYTHONPATH", python_path),
            ("PYTHONDONTWRITEBYTECODE", "1".into()),
            ("NATS_URL", tenant.nats_url("backend").into()),
            ("HOLDFAST_DATABASE_URL", tenant.database_url.clone().into()),
            ("INTERNAL_SERVICE_TOKEN_FILE", token.into()),
            ("HOLDFAST_AUDIENCE", AUDIENCE.into()),
            ("HOLDFAST_ISSUER", "backend".into()),
            ("OPENAI_BASE_URL", provider_url.into()),
        ];
        let has_nats = nats.is_some();
        let (_serve, _stop) = (serve, stop.drop_guard());
        Ok(Some(Reader { folder, variables, has_nats, provider, tenant, _serve, _stop }))
    }

    fn shell(&self, text: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", text]).current_dir(&self.folder).stdin(Stdio::null()).kill_on_drop(true);
        command.env_remove("INTERNAL_SERVICE_TOKEN").env_remove("OPENAI_API_KEY");
        command.envs(self.variables.iter().cloned());
        command
    }

    async fn says(&self, text: &str) -> Result<String> {
        let output = tokio::time::timeout(COMMAND_WITHIN, self.shell(text).output()).await;
        let output = output.with_context(|| format!("`{text}` did not end"))??;
        let said = String::from_utf8(output.stdout)?;
        ensure!(output.status.success(), "`{text}`: {said}{}", String::from_utf8_lossy(&output.stderr));
        Ok(said)
    }

    /// Runs a command of the guide, and compares.
    async fn follow(&self, command: &str, shown: &[&str]) -> Result<()> {
        if is_chat(command) || command.starts_with("holdfast send") {
            let said = self.says(command).await?;
            ensure!(fits(shown, &said), "`{command}` said\n{said}");
            return if is_chat(command) { self.was_charged(&said).await } else { Ok(()) };
        }
        if command.starts_with("nats ") && !self.has_nats {
            return Ok(());
        }
        // These look at projections, which are a moment behind.
        let mut said = String::new();
        let found = wait::until(command, SOON, async || {
            said = self.says(command).await.unwrap_or_else(|error| error.to_string());
            fits(shown, &said).then_some(())
        });
        let found = found.await;
        found.with_context(|| format!("`{command}` said\n{said}"))
    }

    async fn events(&self) -> Result<Vec<Event>> {
        let mut connection = database(&self.tenant).await?;
        let rows: Vec<(String, Option<i64>, i64, i64, Value)> = sqlx::query_as(
            "SELECT kind, amount, posted, held, body FROM ledger_log WHERE account = $1 ORDER BY position",
        )
        .bind(ACCOUNT)
        .fetch_all(&mut connection)
        .await?;
        let event = |(kind, amount, posted, held, body)| Event { kind, amount, posted, held, body };
        Ok(rows.into_iter().map(event).collect())
    }

    async fn last_event(&self) -> Result<Event> {
        self.events().await?.pop().context("an event")
    }

    /// What a chat printed at its end is what the log has, to the nano-dollar.
    async fn was_charged(&self, said: &str) -> Result<()> {
        let last = said.lines().last().context("it said nothing")?;
        let amount = |word: &str| word.parse::<Decimal>().ok()?.units(Asset::USD).ok();
        let printed: Vec<i64> = last.split_whitespace().filter_map(amount).collect();
        let [charged, left] = printed[..] else { bail!("no charge in {last:?}") };
        let event = self.last_event().await?;
        assert_eq!((event.kind.as_str(), event.amount), ("captured", Some(charged)), "{last}");
        assert_eq!((event.posted, event.held), (left, 0), "{last}");
        Ok(())
    }

    /// Kills a chat in the middle of its answer; tells how many bytes of that it had printed.
    async fn kills_a_chat(&self) -> Result<usize> {
        let script = Script { words: Some(400), pause_ms: Some(50), ..Script::from(Act::Slow) };
        self.provider.queue(MODEL, [script]);
        let mut chat = self.shell(KILLED).stdout(Stdio::piped()).spawn()?;
        let (mut output, mut printed) = (chat.stdout.take().context("its output")?, Vec::new());
        while printed.len() < READ_BYTES {
            let read = tokio::time::timeout(SOON, output.read_buf(&mut printed)).await;
            ensure!(read.context("no answer")?? > 0, "it ended before it was killed");
        }
        chat.kill().await?;
        output.read_to_end(&mut printed).await?;
        Ok(printed.len())
    }
}

#[test]
fn the_rust_program_of_the_guide_is_the_one_that_is_built() -> Result<()> {
    let built = std::fs::read_to_string(project().join("examples/src/bin/guide-chat.rs"))?;
    ensure!(program("chat.rs")? == built, "docs/guide.md and examples/src/bin/guide-chat.rs differ");
    Ok(())
}

#[test]
fn what_is_shown_fits_what_is_said() {
    let cases = [
        ("a  b", "a b", true),
        ("a b", "a c", false),
        ("6 … captured", "6 2026-11-22 20:08:47.810 captured", true),
        ("6 … captured", "7 2026-11-22 20:08:47.810 captured", false),
        ("6 … captured", "6 2026-11-22 20:08:47.810 reserved", false),
        (r#"{"id":"…","n":1}"#, r#"{"id":"x","n":1}"#, true),
        ("ends with …", "ends with 12", true),
    ];
    for (shown, said, expected) in cases {
        assert_eq!(fits(&[shown], said), expected, "{shown} / {said}");
    }
    assert!(!fits(&["a"], "a\nb"));
}

#[tokio::test]
async fn the_guide_works_as_it_stands() -> Result<()> {
    let Some(reader) = Reader::new().await? else { return Ok(()) };
    let mut followed = 0;
    for (fence, block) in blocks()? {
        if fence != "console" {
            continue;
        }
        for (command, shown) in commands(&block) {
            reader.follow(command, &shown).await?;
            followed += 1;
        }
    }
    ensure!(followed >= 8, "the guide has {followed} commands");

    // Killed in the middle, and settled by either program: their journals have one form.
    let next = ["python3 chat.py user-1 'Why is the sky blue?'", "guide-chat user-1 'What is a ledger?'"];
    for command in next {
        let printed = reader.kills_a_chat().await?;
        let killed = reader.last_event().await?;
        ensure!(killed.kind == "reserved" && killed.held > 0, "{} after the kill", killed.kind);

        let said = reader.says(command).await?;
        ensure!(said.starts_with(LEFT), "`{command}` said\n{said}");
        reader.was_charged(&said).await?;

        let events = reader.events().await?;
        let settled: Vec<&Event> =
            events.iter().filter(|event| event.fact()["hold"] == killed.fact()["hold"]).collect();
        let [_, settled] = settled[..] else { bail!("{} events of the hold", settled.len()) };
        let usage = &settled.fact()["priced"]["usage"];
        assert_eq!((settled.kind.as_str(), &settled.fact()["reason"]), ("captured", &json!("aborted")));
        assert_eq!((&usage["source"], &usage["tokens"]["input"]), (&json!("delivered"), &json!(5)));
        let tokens = usage["tokens"]["output"].as_i64().context("output")?;
        let most = i64::try_from((printed + WORD_BYTES_MAX).div_ceil(4))?;
        ensure!((1..=most).contains(&tokens), "{tokens} tokens for {printed} bytes");
        assert_eq!(settled.amount, Some(5 * INPUT + tokens * OUTPUT));
    }

    let events = reader.events().await?;
    let charged = events.iter().filter(|event| event.kind == "captured").filter_map(|event| event.amount);
    let last = reader.last_event().await?;
    assert_eq!((last.posted, last.held), (FUNDS - charged.sum::<i64>(), 0));
    let verified = run(&reader.tenant, &["verify", "--prices"]).await?;
    ensure!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
    Ok(())
}
