//! Ten models priced by hand, from the providers' price lists in dollars for a million tokens.

use chrono::{DateTime, Utc};
use holdfast_core::Asset;
use holdfast_core::usage::{Tokens, UsageSource};
use holdfast_prices::{Ask, Book};

/// Provider, model, price list, tokens, dollars, and how the dollars come about.
const CASES: [(&str, &str, Option<&str>, &str, &str); 12] = [
    // 1,000 × 2.50 + 500 × 10.00
    ("openai", "gpt-4o", None, r#"{"input":1000,"output":500}"#, "0.0075"),
    // (200 × 0.15 + 800 × 0.075 + 1 × 0.60) / 10⁶ = 90.6 / 10⁶
    ("openai", "gpt-4o-mini", None, r#"{"input":200,"cache_read":800,"output":1}"#, "0.0000906"),
    // 123 × 2 + 4,567 × 8, since 2025-06-10
    ("openai", "o3", None, r#"{"input":123,"output":4567}"#, "0.036782"),
    // 10 × 3 + 1,000 × 0.30 + 2,000 × 3.75 + 100 × 15
    (
        "anthropic",
        "claude-sonnet-4-0",
        None,
        r#"{"input":10,"cache_read":1000,"cache_write":2000,"output":100}"#,
        "0.00933",
    ),
    // 1 × 15 + 1 × 75, and writes to the cache for an hour at 30
    ("anthropic", "claude-opus-4-1", None, r#"{"input":1,"cache_write_1h":1,"output":1}"#, "0.00012"),
    // 200,000 × 1.25 + 1,000 × 10: the last token of the lower tier
    ("google", "gemini-2.5-pro", None, r#"{"input":200000,"output":1000}"#, "0.26"),
    // 200,001 × 2.50 + 1,000 × 15: all of it in the higher tier
    ("google", "gemini-2.5-pro", None, r#"{"input":200001,"output":1000}"#, "0.5150025"),
    // 150,000 × 1.25 at half and 10 × 5: cached tokens are input for the tier, and batches cost half
    ("google", "gemini-2.5-pro", Some("batch"), r#"{"input":150000,"output":10}"#, "0.0938"),
    // 1,200 × 0.30 + 32 × 1.00 (sound) + 4,000 × 2.50
    ("google", "gemini-2.5-flash", None, r#"{"input":1200,"input_audio":32,"output":4000}"#, "0.010392"),
    // 3 × 2 + 5 × 6
    ("mistral", "mistral-large-latest", None, r#"{"input":3,"output":5}"#, "0.000036"),
    // 7 × 3 + 4 × 0.75 + 9 × 15
    ("x-ai", "grok-4-0709", None, r#"{"input":7,"cache_read":4,"output":9}"#, "0.000159"),
    // 1 × 0.27 + 1 × 0.07 + 1 × 1.10: the price of the day, at night it is half
    ("deepseek", "deepseek-chat", None, r#"{"input":1,"cache_read":1,"output":1}"#, "0.00000144"),
];

#[test]
fn by_hand() {
    let book = Book::vendored();
    let at: DateTime<Utc> = "2026-11-22T12:00:00Z".parse().expect("a time");
    for (provider, model, variant, tokens, dollars) in CASES {
        let ask = Ask {
            model: model.to_owned(),
            provider: Some(provider.to_owned()),
            variant: variant.map(str::to_owned),
        };
        let tokens: Tokens = serde_json::from_str(tokens).expect("tokens");
        let usage = book.quote(&ask, at).expect("priced").usage(UsageSource::Reported, &tokens);
        assert_eq!(usage.check(), Ok(()), "{model}");
        assert_eq!(Asset::USD.format(usage.price(Asset::USD).expect("fits")), dollars, "{model} {tokens:?}");
    }
}
