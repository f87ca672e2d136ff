//! From a provider's report of usage to tokens by dimension.
//!
//! **Shape.** Each function takes a whole answer, one event of its stream, or the usage object
//! alone, as JSON. `None` means that there is no report in it; a report of zeros is a report. Only
//! what is reported is set, so that the parts of a stream can be observed one after another.
//!
//! **Correctness.** The dimensions must not overlap, and providers count differently: what is
//! inside another count at one of them is outside at the next. A part that is larger than its
//! whole leaves the rest at 0 rather than below it.

use holdfast_core::Tokens;
use holdfast_core::usage::Dimension;
use serde_json::Value;

/// Reads the usage of OpenAI's chat completions (and of its responses, which name the same counts
/// otherwise).
///
/// `prompt_tokens` includes cached and audio tokens, `completion_tokens` includes reasoning and
/// audio tokens.
#[must_use]
pub fn openai(answer: &Value) -> Option<Tokens> {
    let usage = report(answer, &["/usage", "/response/usage"]);
    let prompt = count(usage, &["/prompt_tokens", "/input_tokens"]);
    let completion = count(usage, &["/completion_tokens", "/output_tokens"]);
    let of_prompt = |name: &str| {
        let paths = [format!("/prompt_tokens_details/{name}"), format!("/input_tokens_details/{name}")];
        count(usage, &[paths[0].as_str(), paths[1].as_str()])
    };
    let (cached, audio) = (of_prompt("cached_tokens"), of_prompt("audio_tokens"));
    let audio_cached = of_prompt("cached_tokens_details/audio_tokens");
    let both = sum([audio_cached]);
    let audio_out =
        count(usage, &["/completion_tokens_details/audio_tokens", "/output_tokens_details/audio_tokens"]);
    let input = |all: u64| all.saturating_add(both).saturating_sub(sum([cached, audio]));
    // An embedding has no output, and no count of it; it is reported in full all the same.
    let completion = completion.or(prompt.and(Some(0)));
    tokens([
        ("input", prompt.map(input)),
        ("cache_read", prompt.and(cached).map(|cached| cached.saturating_sub(both))),
        ("input_audio", prompt.and(audio).map(|audio| audio.saturating_sub(both))),
        ("cache_read_audio", prompt.and(audio_cached)),
        ("output", completion.map(|all| all.saturating_sub(sum([audio_out])))),
        ("output_audio", completion.and(audio_out)),
    ])
}

/// Reads the usage of Anthropic's messages; of a stream, that of `message_start` and of every
/// `message_delta`.
///
/// `input_tokens` excludes what was read from or written to the cache. The output in
/// `message_start` is a placeholder and left out. `cache_creation_input_tokens` includes what is
/// cached for an hour, which has a price of its own; a `message_delta` that does not tell them apart
/// repeats what `message_start` told.
#[must_use]
pub fn anthropic(answer: &Value) -> Option<Tokens> {
    let usage = report(answer, &["/usage", "/message/usage"]);
    let event = answer.get("type").and_then(Value::as_str);
    let is_start = event == Some("message_start");
    let of_hour = count(usage, &["/cache_creation/ephemeral_1h_input_tokens"]);
    let of_minutes = count(usage, &["/cache_creation/ephemeral_5m_input_tokens"]);
    let written = count(usage, &["/cache_creation_input_tokens"])
        .or_else(|| of_hour.or(of_minutes).map(|_| sum([of_hour, of_minutes])));
    let is_told_apart = of_hour.or(of_minutes).is_some();
    let written = written.filter(|_| is_told_apart || event != Some("message_delta"));
    tokens([
        ("input", count(usage, &["/input_tokens"])),
        ("cache_read", count(usage, &["/cache_read_input_tokens"])),
        ("cache_write", written.map(|all| all.saturating_sub(sum([of_hour])))),
        ("cache_write_1h", of_hour.filter(|count| *count > 0)),
        ("output", count(usage, &["/output_tokens"]).filter(|_| !is_start)),
    ])
}

/// Reads the `usageMetadata` of Google's Gemini.
///
/// `promptTokenCount` includes cached tokens; `candidatesTokenCount` excludes thoughts, which are
/// billed as output; `toolUsePromptTokenCount` is input beside the prompt. A count of 0 is left
/// out by Gemini, so whoever reports one of these has reported everything.
#[must_use]
pub fn gemini(answer: &Value) -> Option<Tokens> {
    let usage = report(answer, &["/usageMetadata"]);
    count(usage, &["/promptTokenCount", "/candidatesTokenCount", "/thoughtsTokenCount"])?;
    let of = |path: &str| count(usage, &[path]).unwrap_or(0);
    let cached = of("/cachedContentTokenCount");
    let audio_cached = of_modality(usage, "cacheTokensDetails").min(cached);
    let audio = of_modality(usage, "promptTokensDetails").saturating_sub(audio_cached);
    let audio_out = of_modality(usage, "candidatesTokensDetails");
    let output = of("/candidatesTokenCount").saturating_add(of("/thoughtsTokenCount"));
    let input = of("/promptTokenCount").saturating_sub(sum([Some(cached), Some(audio)]));
    let reported = |count: u64| (count > 0).then_some(count);
    tokens([
        ("input", Some(input.saturating_add(of("/toolUsePromptTokenCount")))),
        ("cache_read", Some(cached - audio_cached)),
        ("cache_read_audio", reported(audio_cached)),
        ("input_audio", reported(audio)),
        ("output", Some(output.saturating_sub(audio_out))),
        ("output_audio", reported(audio_out)),
    ])
}

/// The report within an answer, or what was given when it is the report itself.
fn report<'a>(answer: &'a Value, paths: &[&str]) -> &'a Value {
    let within = paths.iter().find_map(|path| answer.pointer(path).filter(|usage| usage.is_object()));
    within.unwrap_or(answer)
}

fn count(usage: &Value, paths: &[&str]) -> Option<u64> {
    paths.iter().find_map(|path| usage.pointer(path).and_then(Value::as_u64))
}

fn sum<const N: usize>(counts: [Option<u64>; N]) -> u64 {
    counts.into_iter().flatten().fold(0, u64::saturating_add)
}

/// Gemini's count of sound in one of its lists by modality.
fn of_modality(usage: &Value, list: &str) -> u64 {
    let entries = usage.get(list).and_then(Value::as_array).into_iter().flatten();
    entries
        .filter(|entry| entry.get("modality").and_then(Value::as_str) == Some("AUDIO"))
        .filter_map(|entry| entry.get("tokenCount").and_then(Value::as_u64))
        .fold(0, u64::saturating_add)
}

fn tokens<const N: usize>(counts: [(&str, Option<u64>); N]) -> Option<Tokens> {
    let reported = counts.into_iter().filter_map(|(name, count)| Some((Dimension::new(name).ok()?, count?)));
    let tokens: Tokens = reported.collect();
    (!tokens.0.is_empty()).then_some(tokens)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(extract: fn(&Value) -> Option<Tokens>, cases: &[(&str, Option<&str>)]) {
        for (answer, expected) in cases {
            let answer: Value = serde_json::from_str(answer).expect("JSON");
            let expected = expected.map(|tokens| serde_json::from_str::<Tokens>(tokens).expect("tokens"));
            assert_eq!(extract(&answer), expected, "{answer}");
        }
    }

    #[test]
    fn openai_reports() {
        check(
            openai,
            &[
                (
                    r#"{"usage":{"prompt_tokens":10,"completion_tokens":3}}"#,
                    Some(r#"{"input":10,"output":3}"#),
                ),
                (
                    r#"{"usage":{"prompt_tokens":100,"completion_tokens":50,
                        "prompt_tokens_details":{"cached_tokens":60,"audio_tokens":10},
                        "completion_tokens_details":{"reasoning_tokens":30,"audio_tokens":5}}}"#,
                    Some(r#"{"input":30,"cache_read":60,"input_audio":10,"output":45,"output_audio":5}"#),
                ),
                (
                    r#"{"type":"response.completed","response":{"usage":{"input_tokens":100,"output_tokens":7,
                        "input_tokens_details":{"cached_tokens":40},"output_tokens_details":{"reasoning_tokens":5}}}}"#,
                    Some(r#"{"input":60,"cache_read":40,"output":7}"#),
                ),
                (
                    r#"{"prompt_tokens":5,"completion_tokens":0,"prompt_tokens_details":{"cached_tokens":9}}"#,
                    Some(r#"{"input":0,"cache_read":9,"output":0}"#),
                ),
                (r#"{"usage":{"prompt_tokens":0,"completion_tokens":0}}"#, Some(r#"{"input":0,"output":0}"#)),
                (
                    r#"{"usage":{"prompt_tokens":100,"completion_tokens":0,"prompt_tokens_details":{
                        "cached_tokens":60,"audio_tokens":50,"cached_tokens_details":{"audio_tokens":20}}}}"#,
                    Some(r#"{"input":10,"cache_read":40,"input_audio":30,"cache_read_audio":20,"output":0}"#),
                ),
                (r#"{"usage":{"prompt_tokens":8,"total_tokens":8}}"#, Some(r#"{"input":8,"output":0}"#)),
                (r#"{"choices":[],"usage":null}"#, None),
                (r#"{"usage":{}}"#, None),
                (r#"{"usage":{"prompt_tokens":-1,"completion_tokens":"3"}}"#, None),
            ],
        );
    }

    #[test]
    fn anthropic_reports() {
        check(
            anthropic,
            &[
                (
                    r#"{"usage":{"input_tokens":10,"cache_creation_input_tokens":200,"cache_read_input_tokens":3000,
                        "output_tokens":40}}"#,
                    Some(r#"{"input":10,"cache_write":200,"cache_read":3000,"output":40}"#),
                ),
                (
                    r#"{"type":"message_start","message":{"usage":{"input_tokens":25,"output_tokens":1}}}"#,
                    Some(r#"{"input":25}"#),
                ),
                (
                    r#"{"type":"message_start","message":{"usage":{"input_tokens":1,"output_tokens":1,
                        "cache_creation_input_tokens":500,
                        "cache_creation":{"ephemeral_5m_input_tokens":200,"ephemeral_1h_input_tokens":300}}}}"#,
                    Some(r#"{"input":1,"cache_write":200,"cache_write_1h":300}"#),
                ),
                (
                    r#"{"usage":{"input_tokens":1,"output_tokens":2,
                        "cache_creation":{"ephemeral_5m_input_tokens":0,"ephemeral_1h_input_tokens":300}}}"#,
                    Some(r#"{"input":1,"cache_write":0,"cache_write_1h":300,"output":2}"#),
                ),
                (
                    r#"{"type":"message_delta","usage":{"input_tokens":1,"cache_creation_input_tokens":500,
                        "output_tokens":15}}"#,
                    Some(r#"{"input":1,"output":15}"#),
                ),
                (
                    r#"{"type":"message_delta","delta":{},"usage":{"output_tokens":15}}"#,
                    Some(r#"{"output":15}"#),
                ),
                (
                    r#"{"usage":{"input_tokens":0,"cache_read_input_tokens":null,"output_tokens":0}}"#,
                    Some(r#"{"input":0,"output":0}"#),
                ),
                (r#"{"type":"content_block_delta","delta":{"text":"hi"}}"#, None),
            ],
        );
    }

    #[test]
    fn gemini_reports() {
        check(
            gemini,
            &[
                (
                    r#"{"usageMetadata":{"promptTokenCount":100,"cachedContentTokenCount":80,
                        "candidatesTokenCount":20,"thoughtsTokenCount":300,"totalTokenCount":420}}"#,
                    Some(r#"{"input":20,"cache_read":80,"output":320}"#),
                ),
                (
                    r#"{"usageMetadata":{"promptTokenCount":100,"cachedContentTokenCount":30,"toolUsePromptTokenCount":7,
                        "promptTokensDetails":[{"modality":"TEXT","tokenCount":50},{"modality":"AUDIO","tokenCount":50}],
                        "cacheTokensDetails":[{"modality":"AUDIO","tokenCount":30}]}}"#,
                    Some(r#"{"input":57,"cache_read":0,"cache_read_audio":30,"input_audio":20,"output":0}"#),
                ),
                (
                    r#"{"usageMetadata":{"promptTokenCount":4,"candidatesTokenCount":10,
                        "candidatesTokensDetails":[{"modality":"AUDIO","tokenCount":8}]}}"#,
                    Some(r#"{"input":4,"cache_read":0,"output":2,"output_audio":8}"#),
                ),
                (
                    r#"{"usageMetadata":{"promptTokenCount":0}}"#,
                    Some(r#"{"input":0,"cache_read":0,"output":0}"#),
                ),
                (
                    r#"{"usageMetadata":{"candidatesTokenCount":3}}"#,
                    Some(r#"{"input":0,"cache_read":0,"output":3}"#),
                ),
                (r#"{"candidates":[]}"#, None),
                (r#"{"usageMetadata":{"totalTokenCount":5}}"#, None),
            ],
        );
    }
}
