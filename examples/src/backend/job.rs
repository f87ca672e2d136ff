//! The wiki as a saga: plan, pages, snapshot, index, all paid by one hold.
//!
//! **Shape.** A model plans, then writes each page, which is saved as a file; all pages are committed as
//! one snapshot, and indexed. When a step fails, the earlier ones are undone in reverse. What a provider
//! billed stays charged; the snapshot's fee is the house's own and is given back.
//!
//! **Correctness.** Every write has a name that follows from the saga, so a repeat writes the same; and
//! what a saga wrote is all below one folder, key or prefix, so that it can be undone without its log.

use std::collections::BTreeMap;
use std::path::PathBuf;

use holdfast_core::usage::Quote;
use holdfast_core::{Asset, Decimal, Tokens, UsageSource};
use holdfast_saga::{Cost, Done, Estimate, Failure, Outputs, Saga, Step, StepContext};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::model::{Model, ModelError, Piece};
use crate::clients::{CallError, FilesClient, GitClient, VectorsClient};
use crate::durable::Staged;
use crate::git::Snapshot;
use crate::provider::{ChatRequest, Content, Message, StreamOptions, prompt_tokens};
use crate::vectors::DocumentBody;
use crate::wiki::{Plan, PlannedPage, page_prompt, parse_plan, plan_prompt};

/// The most tokens of a plan and of a page.
pub const PLAN_TOKENS: u64 = 1_000;
/// The most tokens of a page.
pub const PAGE_TOKENS: u64 = 800;
/// The most tokens of a prompt: what is reserved for.
const PROMPT_TOKENS: u64 = 400;
/// What keeping a snapshot costs, in dollars.
pub const SNAPSHOT_FEE: &str = "0.001";

/// What a wiki is asked for with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// The user, who pays.
    pub user: String,
    /// The project that the wiki goes to.
    pub project: String,
    /// What it is about.
    pub topic: String,
    /// How many pages it has at most.
    pub pages: usize,
    /// The model that writes it, with the rates that hold for all of it.
    pub quote: Quote,
}

/// The services that a wiki needs.
#[derive(Debug, Clone)]
pub struct WikiJob {
    /// Writes.
    pub model: Model,
    /// Keeps the pages.
    pub files: FilesClient,
    /// Keeps the snapshot.
    pub git: GitClient,
    /// Finds pages.
    pub vectors: VectorsClient,
    /// Where orders are kept, so that a saga whose log is lost can be driven again.
    pub orders: PathBuf,
}

impl WikiJob {
    /// Writes an order down under the id of its saga, which is the project's name.
    ///
    /// # Errors
    /// When the disk does not let it.
    pub fn keep(&self, id: &str, order: &Order) -> std::io::Result<()> {
        let json = serde_json::to_vec(order).map_err(std::io::Error::other)?;
        Staged::write(&self.orders, &json)?.publish(&self.order_file(id))
    }

    /// The order to carry out for this one: the one that was kept before, if it asks for the same. Its
    /// rates hold, whatever the price is by now.
    pub(super) fn same_as_before(&self, id: &str, order: Order) -> Order {
        match self.order(id) {
            Ok(Some(kept)) if (Order { quote: order.quote.clone(), ..kept.clone() }) == order => kept,
            _ => order,
        }
    }

    fn order_file(&self, id: &str) -> PathBuf {
        self.orders.join(format!("{id}.json"))
    }

    fn order(&self, id: &str) -> Result<Option<Order>, Failure> {
        match std::fs::read(self.order_file(id)) {
            Ok(json) => serde_json::from_slice(&json).map(Some).map_err(Failure::last),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Failure::again(error)),
        }
    }
}

impl Saga for WikiJob {
    const NAME: &'static str = "wiki";
    type Input = Order;

    fn estimate(&self, order: &Order) -> Estimate {
        let pages = u64::try_from(order.pages).unwrap_or(u64::MAX);
        let calls = price(&order.quote, PROMPT_TOKENS, PLAN_TOKENS)
            + pages.saturating_mul(price(&order.quote, PROMPT_TOKENS, PAGE_TOKENS));
        let fee = u64::try_from(fee().units(Asset::USD).unwrap_or(0)).unwrap_or(0);
        Estimate::new(dollars(calls.saturating_add(fee)))
    }

    fn next_step(&self, order: &Order, done: &Outputs) -> Option<Step> {
        let Ok(plan) = done.read::<Plan>("plan") else { return Some(self.plan(order)) };
        let missing = plan.pages.iter().find(|page| !done.has(&page_step(page)));
        if let Some(page) = missing {
            return Some(self.page(order, &plan, page));
        }
        if !done.has("snapshot") {
            return Some(self.snapshot(order, &plan));
        }
        (!done.has("index")).then(|| self.index(order, &plan))
    }

    async fn recover(&self, id: &str) -> Result<Option<Order>, Failure> {
        self.order(id)
    }

    async fn abandon(&self, context: StepContext) -> Result<Vec<String>, Failure> {
        let Some(order) = self.order(context.saga.id())? else { return Ok(Vec::new()) };
        let (user, project) = (&order.user, &order.project);
        self.vectors.remove_project(user, project).await.map_err(call)?;
        self.git.undo(user, project, &snapshot_key(&context)).await.map_err(call)?;
        for file in self.files.list(user, project).await.map_err(call)? {
            if file.path.starts_with("wiki/") {
                self.files.remove(user, project, &file.path).await.map_err(call)?;
            }
        }
        Ok(vec!["snapshot".to_owned()])
    }
}

fn page_step(page: &PlannedPage) -> String {
    format!("page-{}", page.slug)
}

fn snapshot_key(context: &StepContext) -> String {
    context.saga.to_string()
}

impl WikiJob {
    fn plan(&self, order: &Order) -> Step {
        let (job, order) = (self.clone(), order.clone());
        Step::new("plan", move |_| {
            let (job, order) = (job.clone(), order.clone());
            async move {
                let prompt = plan_prompt(&order.topic, order.pages);
                let (text, cost) = job.write(&order, prompt, PLAN_TOKENS).await?;
                let plan = parse_plan(&text, order.pages).map_err(Failure::again)?;
                Ok(Done::at(json!(plan), cost))
            }
        })
    }

    fn page(&self, order: &Order, plan: &Plan, page: &PlannedPage) -> Step {
        let (job, order, plan, page) = (self.clone(), order.clone(), plan.clone(), page.clone());
        let (undo_job, undo_order, path) = (job.clone(), order.clone(), page.path());
        Step::new(page_step(&page), move |_| {
            let (job, order, prompt, path) =
                (job.clone(), order.clone(), page_prompt(&plan, &page), page.path());
            async move {
                let (text, cost) = job.write(&order, prompt, PAGE_TOKENS).await?;
                job.files.save(&order.user, &order.project, &path, text).await.map_err(call)?;
                Ok(Done::at(json!({"path": path}), cost))
            }
        })
        .undone_by(move |_| {
            let (job, order, path) = (undo_job.clone(), undo_order.clone(), path.clone());
            async move { job.files.remove(&order.user, &order.project, &path).await.map_err(call) }
        })
    }

    fn snapshot(&self, order: &Order, plan: &Plan) -> Step {
        let (job, order, plan) = (self.clone(), order.clone(), plan.clone());
        let (undo_job, undo_order) = (job.clone(), order.clone());
        Step::new("snapshot", move |context: StepContext| {
            let (job, order, plan) = (job.clone(), order.clone(), plan.clone());
            async move {
                let mut files = BTreeMap::new();
                for page in &plan.pages {
                    files.insert(page.path(), Some(job.read(&order, page).await?));
                }
                let message = format!("Wiki: {}", plan.title);
                let snapshot = Snapshot { message, files, key: snapshot_key(&context) };
                let committed = job.git.commit(&order.user, &order.project, &snapshot).await.map_err(call)?;
                let cost = Cost { reason: Some("keeping a snapshot".to_owned()), ..Cost::of(fee()) };
                Ok(Done::at(json!({"commit": committed.commit}), cost))
            }
        })
        .undone_by(move |context: StepContext| {
            let (job, order) = (undo_job.clone(), undo_order.clone());
            async move {
                job.git.undo(&order.user, &order.project, &snapshot_key(&context)).await.map_err(call)
            }
        })
        .refunded()
    }

    fn index(&self, order: &Order, plan: &Plan) -> Step {
        let (job, order, plan) = (self.clone(), order.clone(), plan.clone());
        let (undo_job, undo_order, undo_plan) = (job.clone(), order.clone(), plan.clone());
        Step::new("index", move |_| {
            let (job, order, plan) = (job.clone(), order.clone(), plan.clone());
            async move {
                for page in &plan.pages {
                    let text = job.read(&order, page).await?;
                    let metadata = BTreeMap::from([("title".to_owned(), json!(page.title))]);
                    let metadata = serde_json::from_value(json!(metadata)).map_err(Failure::last)?;
                    let document = DocumentBody { text, metadata };
                    let (user, project, path) = (&order.user, &order.project, page.path());
                    job.vectors.save(user, project, &path, &document).await.map_err(call)?;
                }
                Ok(Done::free(json!({"documents": plan.pages.len()})))
            }
        })
        .undone_by(move |_| {
            let (job, order, plan) = (undo_job.clone(), undo_order.clone(), undo_plan.clone());
            async move {
                for page in &plan.pages {
                    let (user, project, path) = (&order.user, &order.project, page.path());
                    job.vectors.remove(user, project, &path).await.map_err(call)?;
                }
                Ok(())
            }
        })
    }

    async fn read(&self, order: &Order, page: &PlannedPage) -> Result<String, Failure> {
        let read = self.files.read(&order.user, &order.project, &page.path()).await.map_err(call)?;
        let bytes = read.ok_or_else(|| Failure::Final(format!("{} is not there", page.path())))?;
        String::from_utf8(bytes.into()).map_err(Failure::last)
    }

    /// Has the model write something; answers it with what it cost.
    async fn write(&self, order: &Order, prompt: String, most: u64) -> Result<(String, Cost), Failure> {
        let messages = vec![Message { role: "user".to_owned(), content: Some(Content::Text(prompt)) }];
        let input = prompt_tokens(&messages);
        let request = ChatRequest {
            model: order.quote.model.to_string(),
            messages,
            stream: true,
            stream_options: Some(StreamOptions { include_usage: true }),
            max_tokens: Some(most),
            max_completion_tokens: None,
        };
        let mut pieces = self.model.stream(&request).await.map_err(model)?;
        let (mut text, mut reported) = (String::new(), None);
        while let Some(piece) = pieces.next().await.map_err(Failure::again)? {
            match piece {
                Piece::Text(piece) => text.push_str(&piece),
                Piece::Usage(tokens) => reported = Some(tokens),
            }
        }
        let source = if reported.is_some() { UsageSource::Reported } else { UsageSource::Estimated };
        let usage = order.quote.usage(source, &reported.unwrap_or_else(|| tokens(input, most)));
        let amount = usage.price(Asset::USD).map_err(Failure::last)?;
        let amount = dollars(u64::try_from(amount).unwrap_or(0));
        Ok((text, Cost { amount, usage: Some(json!(usage)), reason: None }))
    }
}

fn tokens(input: u64, output: u64) -> Tokens {
    serde_json::from_value(json!({"input": input, "output": output})).expect("two known dimensions")
}

/// In nano-dollars; the most that there is when it cannot be counted.
fn price(quote: &Quote, input: u64, output: u64) -> u64 {
    let price = quote.usage(UsageSource::Estimated, &tokens(input, output)).price(Asset::USD);
    price.ok().and_then(|units| u64::try_from(units).ok()).unwrap_or(u64::MAX)
}

fn dollars(units: u64) -> Decimal {
    let units = i64::try_from(units).unwrap_or(i64::MAX);
    Asset::USD.format(units).parse().expect("an amount as the ledger writes it")
}

fn fee() -> Decimal {
    SNAPSHOT_FEE.parse().expect("an amount")
}

/// Whether a failed call of a service is worth another try.
fn call(error: CallError) -> Failure {
    if error.is_temporary() { Failure::again(error) } else { Failure::last(error) }
}

fn model(error: ModelError) -> Failure {
    match &error {
        ModelError::Refused { status, .. } if (400..500).contains(status) && *status != 429 => {
            Failure::last(error)
        }
        _ => Failure::again(error),
    }
}
