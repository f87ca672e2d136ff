//! A billed chat in the terminal: guide-chat ACCOUNT PROMPT. It is the Rust program of docs/guide.md.

use std::io::{Write, stdout};
use std::time::Duration;

use anyhow::{Context, Result};
use holdfast_calls::{Call, Calls, End, Hold, Options, Settled};
use holdfast_client::{Client, ClientOptions};
use holdfast_core::Issuer;
use holdfast_examples::backend::model::{Model, ModelError, Piece, Pieces};
use holdfast_protocol::{ClientKeys, RootToken};
use secrecy::SecretString;
use serde_json::json;

const MODEL: &str = "gpt-4o-mini";
const MOST: u64 = 500; // tokens of an answer

/// Tells the hold of the answer, and prints it, as it comes.
async fn read(hold: &mut Hold, mut pieces: Pieces) -> Result<End> {
    loop {
        match pieces.next().await.inspect_err(|broken| eprintln!("\n{broken}")) {
            Ok(Some(Piece::Text(text))) => {
                hold.observe_text(&text);
                write!(stdout(), "{text}")?;
                stdout().flush()?;
            }
            Ok(Some(Piece::Usage(tokens))) => hold.observe(tokens),
            Ok(None) => return Ok(End::Completed(None)), // the usage that was observed is charged
            Err(_) => return Ok(End::Aborted),           // what came is charged
        }
    }
}

async fn chat(calls: &Calls, account: &str, prompt: &str) -> Result<()> {
    let tokens = u64::try_from(prompt.len().div_ceil(4))?; // an estimate, for the hold alone
    let mut hold = calls.hold(Call::new(account, MODEL, tokens, MOST)).await?;
    let request = serde_json::from_value(json!({
        "model": MODEL, "messages": [{"role": "user", "content": prompt}],
        "stream": true, "stream_options": {"include_usage": true}, "max_tokens": hold.max_output_tokens(),
    }))?;
    let key = std::env::var("OPENAI_API_KEY").ok().map(SecretString::from);
    let model = Model::new(&variable("OPENAI_BASE_URL")?, key, Duration::from_secs(60));
    hold.dispatched().await?; // from here on the hold is not released on doubt
    let answer = model.stream(&request).await.inspect_err(|error| eprintln!("{error}"));
    let end = match answer {
        Ok(pieces) => read(&mut hold, pieces).await?,
        // These two release the hold. The third keeps it, since the provider may have worked.
        Err(ModelError::NotSent(_)) => End::NotDispatched,
        Err(ModelError::Refused { .. }) => End::ProviderError,
        Err(_) => End::Unknown,
    };
    match hold.settle(end).await? {
        Settled::Captured(outcome) => {
            let (charged, left) = (outcome.amount.unwrap_or_default(), outcome.available.unwrap_or_default());
            writeln!(stdout(), "\ncharged {charged} USD, {left} USD is left")?;
        }
        Settled::Released(_) | Settled::Kept => eprintln!("nothing is charged"),
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (account, prompt) = (arguments.next().context("an account")?, arguments.next().context("a prompt")?);
    let root = RootToken::new(&std::fs::read_to_string(variable("INTERNAL_SERVICE_TOKEN_FILE")?)?.into())?;
    let keys = ClientKeys::derive(&root, &Issuer::new("backend")?, 1);
    let (nats_url, audience) = (variable("NATS_URL")?, variable("HOLDFAST_AUDIENCE")?);
    let client = Client::connect(ClientOptions { nats_url, keys, audience }).await?;
    let calls = Calls::open(Options::new(client, "chat.sqlite")).await?;
    let left = calls.unfinished();
    while calls.unfinished() > 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    if left > 0 {
        writeln!(stdout(), "calls that an earlier run left, and that are settled now: {left}")?;
    }
    let chatted = chat(&calls, &account, &prompt).await;
    calls.close().await;
    chatted
}

fn variable(name: &str) -> Result<String> {
    std::env::var(name).with_context(|| format!("{name} is not set"))
}
