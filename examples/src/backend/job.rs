//! The wiki as a saga: plan, pages, snapshot, index, all paid by one hold.
//!
//! **Shape.** A model plans, then writes each page, which is saved as a file; all pages are committed as
//! one snapshot, and indexed. When a step fails, the earlier ones are undone in reverse. What a provider
//! billed stays charged, also for an answer that is of no use; the snapshot's fee is the house's own and
//! is given back.
//!
//! **Correctness.** Every write has a name that follows from the saga, so a repeat writes the same; and
//! what a saga wrote is all below one folder, key or prefix, so that it can be undone without its log.

use std::collections::BTreeMap;

use holdfast_core::usage::{OUTPUT, Quote};
use holdfast_core::{Asset, Decimal, Tokens, UsageSource};
use holdfast_saga::{Cost, Done, Estimate, Failure, Outputs, Saga, Step, StepContext};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::model::{Model, ModelError, Piece};
use super::orders::Orders;
use crate::clients::{CallError, FilesClient, GitClient, VectorsClient};
use crate::git::Snapshot;
use crate::provider::{ChatRequest, Content, Message, StreamOptions, prompt_tokens};
use crate::vectors::DocumentBody;
use crate::wiki::{Plan, PlannedPage, TITLE_MAX_CHARS, page_prompt, parse_plan, plan_prompt};

/// The most tokens of a plan.
pub const PLAN_TOKENS: u64 = 1_000;
/// The most tokens of a page.
pub const PAGE_TOKENS: u64 = 800;
/// What all pages are below, as files and as documents.
const FOLDER: &str = "wiki/";
/// The one step that the house itself is paid for.
const SNAPSHOT: &str = "snapshot";
/// How many bytes of text are about one token, where nobody has counted them.
const BYTES_PER_TOKEN: u64 = 4;
/// A character of the most bytes that one has.
const LONGEST_CHAR: &str = "\u{10ffff}";
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
    pub orders: Orders,
}

impl Order {
    /// Whether it asks for the same, at whatever rates.
    pub(super) fn asks_for_the_same_as(&self, other: &Order) -> bool {
        let asked = |order: &Order| {
            let Order { user, project, topic, pages, quote } = order.clone();
            (user, project, topic, pages, quote.model)
        };
        asked(self) == asked(other)
    }

    /// What is missing in the price list of its model: none of its calls could be priced.
    pub(super) fn unpriced(&self) -> Option<&'static str> {
        ["input", OUTPUT].into_iter().find(|dimension| self.quote.rates.of(dimension, 0).is_none())
    }

    /// The most tokens of the prompt for a page: all titles are as long as they may be.
    fn page_prompt_tokens(&self) -> u64 {
        let title = LONGEST_CHAR.repeat(TITLE_MAX_CHARS);
        let page = |number: usize| PlannedPage { slug: number.to_string(), title: title.clone() };
        let plan = Plan { pages: (0..self.pages).map(page).collect(), title: title.clone() };
        plan.pages.first().map_or(0, |first| prompt_tokens(&user_says(page_prompt(&plan, first))))
    }
}

impl WikiJob {
    fn order(&self, id: &str) -> Result<Option<Order>, Failure> {
        match self.orders.of_saga(id) {
            Ok(kept) => Ok(kept.map(|kept| kept.order)),
            Err(error) if error.kind() == std::io::ErrorKind::InvalidData => Err(Failure::last(error)),
            Err(error) => Err(Failure::again(error)),
        }
    }
}

impl Saga for WikiJob {
    const NAME: &'static str = "wiki";
    type Input = Order;

    fn estimate(&self, order: &Order) -> Estimate {
        let pages = u64::try_from(order.pages).unwrap_or(u64::MAX);
        let prompt = prompt_tokens(&user_says(plan_prompt(&order.topic, order.pages)));
        let page = price(&order.quote, order.page_prompt_tokens(), PAGE_TOKENS);
        let calls = price(&order.quote, prompt, PLAN_TOKENS).saturating_add(pages.saturating_mul(page));
        let fee = u64::try_from(fee().units(Asset::USD).unwrap_or(0)).unwrap_or(0);
        Estimate::new(dollars(calls.saturating_add(fee)))
    }

    fn next_step(&self, order: &Order, done: &Outputs) -> Option<Step> {
        let Ok(plan) = done.read::<Plan>("plan") else { return Some(self.plan(order)) };
        let missing = plan.pages.iter().find(|page| !done.has(&page_step(page)));
        if let Some(page) = missing {
            return Some(self.page(order, &plan, page));
        }
        if !done.has(SNAPSHOT) {
            return Some(self.snapshot(order, &plan));
        }
        (!done.has("index")).then(|| self.index(order, &plan))
    }

    async fn recover(&self, id: &str) -> Result<Option<Order>, Failure> {
        self.order(id)
    }

    async fn abandon(&self, context: StepContext) -> Result<Vec<String>, Failure> {
        let refunded = vec![SNAPSHOT.to_owned()];
        // Without its order nobody knows where things are; but whose fee it was is known.
        let Some(order) = self.order(context.saga.id())? else { return Ok(refunded) };
        let (user, project) = (&order.user, &order.project);
        for id in self.vectors.list(user, project, FOLDER).await.map_err(call)? {
            self.vectors.remove(user, project, &id).await.map_err(call)?;
        }
        self.git.undo(user, project, &snapshot_key(&context)).await.map_err(call)?;
        for file in self.files.list(user, project).await.map_err(call)? {
            if file.path.starts_with(FOLDER) {
                self.files.remove(user, project, &file.path).await.map_err(call)?;
            }
        }
        Ok(refunded)
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
                match parse_plan(&text, order.pages) {
                    Ok(plan) => Ok(Done::at(json!(plan), cost)),
                    Err(error) => Err(Failure::again(error).costing(cost)),
                }
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
                match job.files.save(&order.user, &order.project, &path, text).await {
                    Ok(()) => Ok(Done::at(json!({"path": path}), cost)),
                    Err(error) => Err(call(error).costing(cost)),
                }
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
        Step::new(SNAPSHOT, move |context: StepContext| {
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
        let bytes = read.ok_or_else(|| Failure::last(format!("{} is not there", page.path())))?;
        String::from_utf8(bytes.into()).map_err(Failure::last)
    }

    /// Has the model write something; answers it with what it cost.
    async fn write(&self, order: &Order, prompt: String, most: u64) -> Result<(String, Cost), Failure> {
        let messages = user_says(prompt);
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
        let broken = loop {
            match pieces.next().await {
                Ok(Some(Piece::Text(piece))) => text.push_str(&piece),
                Ok(Some(Piece::Usage(tokens))) => reported = Some(tokens),
                Ok(None) => break None,
                Err(error) => break Some(error),
            }
        };
        let Some((source, tokens)) = used(input, most, &text, reported, broken.is_some()) else {
            // Nothing shows that the provider worked.
            return Err(Failure::again(broken.map_or_else(String::new, |error| error.to_string())));
        };
        let usage = order.quote.usage(source, &tokens);
        let amount = usage.price(Asset::USD).map_err(Failure::last)?;
        let amount = dollars(u64::try_from(amount).unwrap_or(0));
        let cost = Cost { amount, usage: Some(json!(usage)), reason: None };
        match broken {
            None => Ok((text, cost)),
            Some(error) => Err(Failure::again(error).costing(cost)),
        }
    }
}

/// What a call used, and how that is known: what the provider reports; of a stream that broke without a
/// report, what came; of one that ended without, the most that it may have been. None when there is
/// nothing to show for it.
fn used(
    input: u64,
    most: u64,
    text: &str,
    reported: Option<Tokens>,
    broken: bool,
) -> Option<(UsageSource, Tokens)> {
    if let Some(tokens) = reported {
        return Some((UsageSource::Reported, tokens));
    }
    if !broken {
        return Some((UsageSource::Estimated, tokens(input, most)));
    }
    let output = u64::try_from(text.len()).unwrap_or(u64::MAX).div_ceil(BYTES_PER_TOKEN).min(most);
    (output > 0).then(|| (UsageSource::Delivered, tokens(input, output)))
}

fn user_says(text: String) -> Vec<Message> {
    vec![Message { role: "user".to_owned(), content: Some(Content::Text(text)) }]
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

#[cfg(test)]
mod tests {
    use super::*;

    fn order(pages: usize, topic: &str, rates: &serde_json::Value) -> Order {
        let quote = json!({
            "provider": "google", "model": "gemini-2.5-flash", "variant": null, "book": "0".repeat(64),
            "effective_from": null, "rates": rates,
        });
        let quote = serde_json::from_value(quote).expect("a quote");
        Order { user: "ann".to_owned(), project: "p".to_owned(), topic: topic.to_owned(), pages, quote }
    }

    #[test]
    fn what_is_reserved_is_enough_for_the_longest_prompts() {
        let rates = json!({"input": [[0, 300_000]], "output": [[0, 2_500_000]]});
        for (pages, topic) in [(1, "Bees".to_owned()), (32, LONGEST_CHAR.repeat(1_000))] {
            let order = order(pages, &topic, &rates);
            let most = order.page_prompt_tokens();
            let title = LONGEST_CHAR.repeat(TITLE_MAX_CHARS);
            let page = |number: usize| PlannedPage { slug: format!("s{number}"), title: title.clone() };
            let plan = Plan { title: title.clone(), pages: (0..pages).map(page).collect() };
            for page in &plan.pages {
                assert!(prompt_tokens(&user_says(page_prompt(&plan, page))) <= most);
            }
            assert!(prompt_tokens(&user_says(plan_prompt(&topic, pages))) >= topic.len() as u64 / 4);
        }
    }

    #[test]
    fn a_model_without_a_price_for_output_is_told_and_estimated_without_overflow() {
        for (rates, missing) in [
            (json!({"input": [[0, 300_000]]}), Some("output")),
            (json!({"output": [[0, 300_000]]}), Some("input")),
            (json!({"input": [[0, 1]], "output": [[0, 1]]}), None),
        ] {
            let order = order(32, "Bees", &rates);
            assert_eq!(order.unpriced(), missing);
            let job_estimate = price(&order.quote, 1, 1).saturating_add(price(&order.quote, 1, 1));
            assert_eq!(job_estimate == u64::MAX, missing.is_some());
        }
    }

    #[test]
    fn a_stream_that_broke_is_counted_by_what_came() {
        let reported = || Some(tokens(3, 5));
        let cases = [
            ("12345", reported(), false, Some((UsageSource::Reported, tokens(3, 5)))),
            ("12345", reported(), true, Some((UsageSource::Reported, tokens(3, 5)))),
            ("12345", None, false, Some((UsageSource::Estimated, tokens(9, 100)))),
            ("12345", None, true, Some((UsageSource::Delivered, tokens(9, 2)))),
            ("", None, true, None),
        ];
        for (text, reported, broken, expected) in cases {
            assert_eq!(used(9, 100, text, reported, broken), expected, "{text:?}, broken: {broken}");
        }
    }
}
