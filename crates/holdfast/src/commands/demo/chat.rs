//! The chats: what callers and providers do, and how each call is settled.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use holdfast_examples::clients::{BackendClient, Event};
use holdfast_examples::provider::{Act, Provider, Script};
use serde_json::json;

/// The most tokens of an answer.
const MAX_TOKENS: u64 = 400;

/// A way for a chat to go, each with a model of its own, so that the costs by model show it too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Answered,
    Error,
    Silence,
    NoUsage,
    Broken,
    Leaves,
}

impl Way {
    /// Of twenty calls fourteen are answered, two fail, and one each goes another way.
    fn of(number: usize) -> Self {
        match number % 20 {
            3 | 13 => Way::Error,
            7 => Way::Silence,
            9 => Way::NoUsage,
            11 => Way::Broken,
            17 => Way::Leaves,
            _ => Way::Answered,
        }
    }

    const ALL: [Way; 6] = [Way::Answered, Way::Error, Way::Silence, Way::NoUsage, Way::Broken, Way::Leaves];

    fn what(self) -> &'static str {
        match self {
            Way::Answered => "answered: what was reported is charged",
            Way::Error => "provider error: released",
            Way::Silence => "no answer: kept until it expires",
            Way::NoUsage => "no usage reported: the estimate is charged",
            Way::Broken => "stream broke: what came is charged",
            Way::Leaves => "caller left: what came is charged",
        }
    }

    fn model(self) -> &'static str {
        match self {
            Way::Answered => "gemini-2.5-flash",
            Way::Error => "gpt-4o",
            Way::Silence => "claude-sonnet-4-0",
            Way::NoUsage => "mistral-large-latest",
            Way::Broken => "gpt-4o-mini",
            Way::Leaves => "gemini-2.5-pro",
        }
    }

    fn script(self) -> Script {
        match self {
            Way::Answered => Act::Success.into(),
            Way::Error => Act::ServerError.into(),
            Way::Silence => Act::Timeout.into(),
            Way::NoUsage => Act::NoUsage.into(),
            Way::Broken => Script { words: Some(60), after_pieces: Some(20), ..Act::Cut.into() },
            Way::Leaves => Script { words: Some(100), pause_ms: Some(10), ..Act::Slow.into() },
        }
    }
}

/// Tells the provider what `calls` calls will come to.
pub(super) fn script(provider: &Provider, calls: usize) {
    for way in Way::ALL {
        let count = (0..calls).filter(|number| Way::of(*number) == way).count();
        provider.queue(way.model(), vec![way.script(); count]);
    }
}

/// How a call went.
pub(super) struct End {
    /// In words.
    pub(super) what: &'static str,
    /// The line that is shown.
    pub(super) line: String,
}

/// Call number `number`, of `user`.
pub(super) async fn call(backend: &BackendClient, number: usize, user: &str) -> Result<End> {
    let way = Way::of(number);
    let message =
        format!("Question {number}: {}", "why is the sky blue, and how do we know? ".repeat(number % 7 + 1));
    let ask = json!({"message": message, "model": way.model(), "max_tokens": MAX_TOKENS});
    let mut chat = backend.chat(user, &ask).await?;
    let told = match way {
        Way::Leaves => {
            for _ in 0..6 {
                chat.next().await?.context("a piece of the answer")?;
            }
            drop(chat);
            "-".to_owned()
        }
        _ => told(way, chat.status, &chat.all().await?)?,
    };
    let line = format!("call {number:>3} {user:<5} {:<21} {:<44} {told}", way.model(), way.what());
    Ok(End { what: way.what(), line })
}

/// What the caller was told at the end.
fn told(way: Way, status: u16, events: &[Event]) -> Result<String> {
    let (name, data) = events.last().context("the answer was empty")?;
    let expected = match way {
        Way::Answered | Way::NoUsage => (200, "settled"),
        Way::Broken => (200, "failed"),
        Way::Error => (502, "problem"),
        Way::Silence => (504, "problem"),
        Way::Leaves => (200, "text"),
    };
    ensure!((status, name.as_str()) == expected, "a chat that should have {way:?} answered {status}: {data}");
    let charged = data["charged"].as_str().map(|charged| format!("charged {charged}"));
    Ok(charged.unwrap_or_else(|| format!("{status}")))
}

/// How long the caller of a model waits.
pub(super) const PROVIDER_WITHIN: Duration = Duration::from_millis(400);
/// How long a hold lives; a call that never answers is let go then.
pub(super) const HOLD_TTL: Duration = Duration::from_secs(3);
