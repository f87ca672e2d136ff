//! `doctor`: what is wrong with my set-up, and what to do about it.

use anyhow::Result;
use async_nats::jetstream;
use holdfast_engine::bus;
use holdfast_store::connect::connect;
use holdfast_store::{Role, head, safety};
use serde_json::json;

use super::Exit;
use crate::output::{self, Output};
use crate::runtime::PARTITION;
use crate::settings::{ServeArgs, one_of, rules};

/// One thing that was looked at.
struct Check {
    name: &'static str,
    /// What is wrong, in words that say what to do; nothing when it is fine.
    problems: Vec<String>,
}

pub(crate) async fn run(args: ServeArgs, output: Output) -> Result<Exit> {
    let mut checks = vec![Check { name: "token and issuers", problems: secrets(&args) }];
    checks.push(Check { name: "postgres", problems: postgres(&args).await });
    let nats_url = one_of("HOLDFAST_NATS_URL", args.nats_url.clone(), args.nats_url_file.as_ref());
    checks.push(Check { name: "nats, as the ledger", problems: nats(nats_url, true).await });
    let http_url =
        one_of("HOLDFAST_HTTP_NATS_URL", args.http_nats_url.clone(), args.http_nats_url_file.as_ref());
    checks.push(Check { name: "nats, as the façade", problems: nats(http_url, false).await });
    show(&checks, output)?;
    let well = checks.iter().all(|check| check.problems.is_empty());
    Ok(if well { Exit::Fine } else { Exit::Failed })
}

fn show(checks: &[Check], output: Output) -> Result<()> {
    if output == Output::Json {
        let checks: Vec<_> =
            checks.iter().map(|check| json!({"check": check.name, "problems": check.problems})).collect();
        return output::json(&json!({ "checks": checks }));
    }
    let mut table = output::table(&["check", "result"]);
    for check in checks {
        let result = if check.problems.is_empty() { "fine".to_owned() } else { check.problems.join("\n") };
        table.add_row([check.name, &result]);
    }
    output::text(&table.to_string())
}

fn secrets(args: &ServeArgs) -> Vec<String> {
    let checked = || {
        let roots = args.token.roots()?;
        let text = match &args.issuers {
            Some(file) => std::fs::read_to_string(file)?,
            None => crate::settings::ISSUERS.to_owned(),
        };
        rules(&roots, &text, &args.audience)
    };
    checked().err().map(|error| format!("{error:#}")).into_iter().collect()
}

async fn postgres(args: &ServeArgs) -> Vec<String> {
    let asked = async {
        let url = args.database.url()?;
        let mut login = connect(&url, Role::Login).await?;
        let mut problems = safety::problems(&mut login).await?;
        for role in [Role::Writer, Role::Projector, Role::Reader] {
            match connect(&url, role).await {
                Ok(mut connection) => {
                    if let Err(error) = head::read(&mut connection, PARTITION).await {
                        problems.push(format!("as {role:?}: {error}; run `holdfast migrate`"));
                    }
                }
                Err(error) => {
                    problems.push(format!("cannot act as {role:?}: {error}; run `holdfast migrate`"))
                }
            }
        }
        anyhow::Ok(problems)
    };
    asked.await.unwrap_or_else(|error| vec![format!("{error:#}")])
}

async fn nats(url: Result<String>, owns_streams: bool) -> Vec<String> {
    let asked = async {
        let client = bus::connect(&url?, "holdfast doctor").await?;
        let mut problems = Vec::new();
        if !client.is_server_compatible(2, 14, 0) {
            problems.push(format!("NATS {} is too old; install 2.14 or newer", client.server_info().version));
        }
        if owns_streams {
            for name in [bus::COMMANDS, bus::EVENTS, bus::REFUSED] {
                problems.extend(stream(&client, name).await);
            }
        }
        anyhow::Ok(problems)
    };
    asked.await.unwrap_or_else(|error| vec![format!("{error:#}")])
}

/// What is wrong with a stream. One that is missing is made by `serve`.
async fn stream(client: &async_nats::Client, name: &str) -> Option<String> {
    let jetstream = jetstream::new(client.clone());
    let stream = jetstream.get_stream(name).await.ok()?;
    let (found, shipped) = (&stream.cached_info().config, bus::stream_config(name));
    let same = found.subjects == shipped.subjects
        && found.deny_delete == shipped.deny_delete
        && found.discard == shipped.discard
        && found.allow_atomic_publish == shipped.allow_atomic_publish;
    (!same).then(|| {
        format!("{name} differs from nats/streams/{name}.json; compare with `nats stream info {name}`")
    })
}
