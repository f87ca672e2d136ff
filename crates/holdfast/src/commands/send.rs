//! `send`: signs and sends any command.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use holdfast_client::{Client, ClientOptions, Request, signed};
use holdfast_core::{Issuer, Verb};
use holdfast_protocol::{ClientKeys, Outcome};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::Exit;
use crate::output::{self, Output};
use crate::settings::{TokenArgs, one_of};

/// The ledger takes a signature for five minutes.
const PRINTED_FOR: Duration = Duration::from_secs(300);

/// What to send.
#[derive(Debug, Args)]
pub(crate) struct SendArgs {
    /// The verb: open_account, set_account, top_up, reverse_top_up, deduct, reserve, capture,
    /// release, extend, increase or refund.
    verb: String,
    /// The account.
    account: String,
    /// The body, as JSON.
    #[arg(default_value = "{}")]
    body: String,
    /// The command id; a new one unless given. The same id again asks for the same outcome.
    #[arg(long)]
    id: Option<Uuid>,
    /// Who asks.
    #[arg(long, env = "HOLDFAST_ISSUER", default_value = "operator")]
    issuer: String,
    /// The deployment.
    #[arg(long, env = "HOLDFAST_AUDIENCE", default_value = "ledger.dev")]
    audience: String,
    /// The generation of the issuer's keys.
    #[arg(long, default_value_t = 1)]
    generation: u32,
    /// The bus, as the issuer's user.
    #[arg(long, env = "NATS_URL", hide_env_values = true)]
    nats_url: Option<String>,
    /// The issuer's own keys from `holdfast token derive`, instead of the token.
    #[arg(long, env = "HOLDFAST_KEYS_FILE", value_name = "FILE")]
    keys_file: Option<std::path::PathBuf>,
    /// How many seconds to wait for the outcome.
    #[arg(long, default_value_t = 10)]
    wait: u64,
    /// Print the `nats pub` command line instead of sending; valid for five minutes.
    #[arg(long)]
    print: bool,
    #[command(flatten)]
    token: TokenArgs,
}

pub(crate) async fn run(args: SendArgs, output: Output) -> Result<Exit> {
    let verb: Verb = args.verb.parse()?;
    let body = RawValue::from_string(args.body.clone()).context("the body is not JSON")?;
    // A printed command is sent by hand later: it is worth deciding for as long as it is valid.
    let valid_for = if args.print { PRINTED_FOR } else { Duration::from_secs(args.wait) };
    let request = Request {
        id: args.id.unwrap_or_else(Uuid::now_v7),
        verb,
        account: &args.account,
        body: &body,
        within: Duration::from_secs(args.wait),
        valid_for,
    };
    let nats_url = args.nats_url.clone().unwrap_or_default();
    let options = ClientOptions { nats_url, keys: keys(&args)?, audience: args.audience.clone() };
    if args.print {
        let (subject, payload) = signed(&options, &request);
        let payload = String::from_utf8(payload.to_vec())?.replace('\'', r"'\''");
        output::text(&format!("nats pub {subject} '{payload}'"))?;
        return Ok(Exit::Fine);
    }
    if options.nats_url.is_empty() {
        bail!("NATS_URL is not set; give the bus's URL with user and password");
    }
    let outcome = Client::connect(options).await?.send(request).await?;
    show(&outcome, output)?;
    Ok(if outcome.accepted() { Exit::Fine } else { Exit::Failed })
}

fn keys(args: &SendArgs) -> Result<ClientKeys> {
    let issuer = Issuer::new(&args.issuer)?;
    let Some(file) = &args.keys_file else {
        return Ok(ClientKeys::derive(&args.token.roots()?[0], &issuer, args.generation));
    };
    let keys: ClientKeys = one_of("HOLDFAST_KEYS", None, Some(file))?.parse()?;
    if keys.issuer != issuer {
        bail!("{} has the keys of `{}`; pass --issuer {}", file.display(), keys.issuer, keys.issuer);
    }
    Ok(keys)
}

fn show(outcome: &Outcome, output: Output) -> Result<()> {
    if output == Output::Json {
        return output::json(outcome);
    }
    let mut table = output::table(&["member", "value"]);
    if let serde_json::Value::Object(members) = serde_json::to_value(outcome)? {
        for (name, value) in members {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            table.add_row([name, text]);
        }
    }
    output::text(&table.to_string())
}
