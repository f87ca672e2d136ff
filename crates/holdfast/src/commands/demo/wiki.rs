//! The wikis: one that is written, one that fails half way and is undone, one that is too dear.

use anyhow::{Context, Result, ensure};
use holdfast_client::Client;
use holdfast_examples::clients::BackendClient;
use holdfast_examples::provider::{Act, Script};
use holdfast_examples::town::Town;
use holdfast_saga::SagaLog;
use holdfast_saga::timeline::{lines, summaries};
use serde_json::{Value, json};

use crate::output::{self, Output};

/// The models of the three; the second is one that breaks off, the third one that is dear.
const WRITES: &str = "gemini-2.5-flash";
const FAILS: &str = "grok-4-0709";
const DEAR: &str = "claude-opus-4-1";

/// Orders the three wikis for `user`.
pub(super) async fn play(town: &Town, backend: &BackendClient, user: &str, output: Output) -> Result<()> {
    // A plan and a page, and then a model that fails.
    let script = [Act::Success, Act::Success, Act::ServerError, Act::ServerError];
    town.provider.queue(FAILS, script.map(Script::from));
    let orders = [
        ("bees", WRITES, 3, (200, "completed"), (3, 3, 1)),
        ("ants", FAILS, 3, (502, "undone"), (0, 0, 0)),
        ("whales", DEAR, 30, (402, "refused"), (0, 0, 0)),
    ];
    for (project, model, pages, expected, things) in orders {
        let order = json!({"project": project, "topic": project, "pages": pages, "model": model});
        let (status, outcome) = backend.wiki(user, &order).await?;
        ensure!((status, outcome["ended"].as_str().unwrap_or_default()) == expected, "{outcome}");
        let found = there(town, user, project).await?;
        ensure!(found == things, "files, documents and snapshots of {project}: {found:?}");
        output::narrate(output, &line(project, &outcome, found))?;
    }
    Ok(())
}

/// How many files, documents and snapshots a project has.
async fn there(town: &Town, user: &str, project: &str) -> Result<(usize, usize, usize)> {
    let files = town.files.list(user, project).await?.len();
    let documents = town.vectors.query(user, project, project, 50).await?.len();
    let commits = town.git.log(user, project).await?;
    let made = commits.iter().filter(|commit| commit.key.is_some()).count();
    let undone = commits.iter().filter(|commit| commit.undoes.is_some()).count();
    Ok((files, documents, made - undone))
}

fn line(project: &str, outcome: &Value, (files, documents, snapshots): (usize, usize, usize)) -> String {
    let text = |name: &str| outcome[name].as_str().unwrap_or("-").to_owned();
    let why = outcome["because"].as_str().map_or_else(String::new, |why| format!(" ({why})"));
    format!(
        "wiki {project:<6} {}{why}: {files} files, {documents} documents, {snapshots} snapshots; \
         charged {}, refunded {}, kept {}",
        text("ended"),
        text("charged"),
        text("refunded"),
        text("kept"),
    )
}

/// What the wiki that failed has been through, as `holdfast saga show` shows it.
pub(super) async fn show_timeline(client: &Client, output: Output) -> Result<()> {
    let log = SagaLog::existing(client.nats().clone()).await?;
    let undone =
        summaries(log.read_all(Some("wiki")).await?).into_iter().find(|saga| saga.status == "undone");
    let saga = undone.context("a wiki was undone")?.saga;
    let stored = log.read(&saga).await?;
    let mut table = output::table(&["n", "entry", "step", "detail"]);
    for line in lines(stored.iter().map(|stored| &stored.entry)) {
        let step = line.step.unwrap_or_default();
        table.add_row([line.n.to_string(), line.entry.to_owned(), step, line.detail]);
    }
    output::narrate(output, &format!("\nsaga {saga}\n{table}"))
}
