//! The request of a chat completion, as far as it is looked at.

use serde::{Deserialize, Serialize};

/// Bytes of text that count as one token of a prompt.
const BYTES_PER_TOKEN: u64 = 4;

/// A request. Members that are not listed are passed over, as the API does with what it does not
/// know.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ChatRequest {
    /// The model.
    pub model: String,
    /// The conversation so far.
    pub messages: Vec<Message>,
    /// Whether the answer comes in pieces.
    #[serde(default)]
    pub stream: bool,
    /// What else a stream says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream_options: Option<StreamOptions>,
    /// The most tokens of the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u64>,
    /// The newer name of the same; it goes before the older one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_completion_tokens: Option<u64>,
}

/// What else a stream says.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct StreamOptions {
    /// Whether a last chunk reports usage.
    #[serde(default)]
    pub include_usage: bool,
}

/// One message.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks.
    pub role: String,
    /// What is said; an assistant that only calls tools says nothing.
    #[serde(default)]
    pub content: Option<Content>,
}

/// What a message says.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Content {
    /// Text.
    Text(String),
    /// Parts, of which only text is looked at.
    Parts(Vec<Part>),
}

/// A part of a message.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Part {
    /// Its text, where it is text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

impl Message {
    /// The message's texts.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        let (text, parts): (Option<&str>, &[Part]) = match &self.content {
            None => (None, &[]),
            Some(Content::Text(text)) => (Some(text), &[]),
            Some(Content::Parts(parts)) => (None, parts),
        };
        text.into_iter().chain(parts.iter().filter_map(|part| part.text.as_deref()))
    }
}

impl ChatRequest {
    /// The most tokens that the answer may have.
    #[must_use]
    pub fn limit(&self) -> Option<u64> {
        self.max_completion_tokens.or(self.max_tokens)
    }

    /// Whether a stream reports usage in a chunk of its own.
    #[must_use]
    pub fn includes_usage(&self) -> bool {
        self.stream_options.is_some_and(|options| options.include_usage)
    }

    /// All texts, one line after the other.
    #[must_use]
    pub fn text(&self) -> String {
        self.messages.iter().flat_map(Message::texts).collect::<Vec<_>>().join("\n")
    }
}

/// How many tokens a prompt has: one for every four bytes of its texts, rounded up. A caller may
/// estimate with the same function, and is then exact.
#[must_use]
pub fn prompt_tokens(messages: &[Message]) -> u64 {
    let bytes: usize = messages.iter().flat_map(Message::texts).map(str::len).sum();
    u64::try_from(bytes).unwrap_or(u64::MAX).div_ceil(BYTES_PER_TOKEN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_bytes_of_text_in_fours() {
        let cases = [
            (r"[]", 0),
            (r#"[{"role":"user","content":"abcd"}]"#, 1),
            (r#"[{"role":"user","content":"abcde"}]"#, 2),
            (r#"[{"role":"system","content":"ab"},{"role":"user","content":"ü"}]"#, 1),
            (r#"[{"role":"user","content":[{"type":"text","text":"abcd"},{"type":"image_url"}]}]"#, 1),
            (r#"[{"role":"assistant","content":null},{"role":"assistant"}]"#, 0),
        ];
        for (text, tokens) in cases {
            let messages: Vec<Message> = serde_json::from_str(text).expect("messages");
            assert_eq!(prompt_tokens(&messages), tokens, "{text}");
        }
    }
}
