"""What providers report, as disjoint dimensions.

Each provider counts in its own way: OpenAI's and Gemini's input include what was cached,
Anthropic's does not; Gemini's candidates leave out the thoughts, which are billed as output.
An explicit zero is a report like any other; only a report that is not there is missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

from ._bytes import to_json
from .pricing import Tokens

GEMINI_COUNTS = (
    "promptTokenCount",
    "prompt_token_count",
    "candidatesTokenCount",
    "candidates_token_count",
    "thoughtsTokenCount",
    "thoughts_token_count",
)
"""A report has at least one of these; zeros may be left out of it."""
COUNTS = ("prompt_tokens", "completion_tokens", "input_tokens", "output_tokens")
"""The same of the other two providers."""
ANTHROPIC_CACHED = ("ephemeral_1h_input_tokens", "ephemeral_5m_input_tokens")
"""What was written to the cache, by how long it stays."""
TEXTS = ("text", "content", "refusal", "thinking", "reasoning_content", "partial_json")
"""The members of a part that are text."""
BYTES_PER_TOKEN = 4
"""Of text whose tokens nobody counted."""


@dataclass(frozen=True)
class Usage:
    """What a provider reported.

    `complete` is false for a report at the start of a stream, which cannot know the output yet.
    One that does not count the output is not taken for complete, unless none was reserved for.
    """

    tokens: Tokens
    complete: bool = True


@dataclass(frozen=True)
class Seen:
    """What one chunk of a stream, or one response, told: a report, text, or neither."""

    usage: Usage | None = None
    text: str = ""


def estimate_tokens(text_bytes: int) -> int:
    """Tokens for so many bytes of text: one for every four, rounded up."""
    return -(-text_bytes // BYTES_PER_TOKEN)


def openai_usage(raw: Mapping[str, Any]) -> Usage:
    """`usage` of OpenAI's chat completions, embeddings or responses.

    Input includes what was cached and what is audio; output includes reasoning and audio.
    """
    total_in = _count(raw, "prompt_tokens", "input_tokens")
    total_out = _count(raw, "completion_tokens", "output_tokens")
    details = _part(raw, "prompt_tokens_details", "input_tokens_details")
    cached_audio = _count(_part(details, "cached_tokens_details"), "audio_tokens")
    cached = _count(details, "cached_tokens") - cached_audio
    audio = _count(details, "audio_tokens") - cached_audio
    out_audio = _count(
        _part(raw, "completion_tokens_details", "output_tokens_details"),
        "audio_tokens",
    )
    tokens = {
        "input": total_in - cached - audio - cached_audio,
        "cache_read": cached,
        "input_audio": audio,
        "cache_read_audio": cached_audio,
        "output": total_out - out_audio,
        "output_audio": out_audio,
    }
    return Usage(_kept(tokens))


def anthropic_usage(raw: Mapping[str, Any]) -> Usage:
    """`usage` of Anthropic's messages; input leaves out what the cache was read for or written with.

    The last event of a stream may report output alone; then only that is in the tokens. What was
    cached for an hour has a price of its own.
    """
    names = {
        "input_tokens": "input",
        "cache_read_input_tokens": "cache_read",
        "cache_creation_input_tokens": "cache_write",
        "output_tokens": "output",
    }
    tokens = {ours: _count(raw, theirs) for theirs, ours in names.items() if _is_count(raw.get(theirs))}
    of_hour, of_minutes = (_count(_part(raw, "cache_creation"), name) for name in ANTHROPIC_CACHED)
    if of_hour or of_minutes:
        tokens["cache_write"] = max(tokens.get("cache_write", of_hour + of_minutes) - of_hour, 0)
    if of_hour:
        tokens["cache_write_1h"] = of_hour
    return Usage(tokens)


def gemini_usage(raw: Mapping[str, Any]) -> Usage:
    """`usageMetadata` of Gemini, in either spelling.

    The prompt includes what was cached; thoughts are apart from the candidates and are output;
    prompts of tools are apart from the prompt and are input.
    """
    prompt = _count(raw, "promptTokenCount", "prompt_token_count")
    cached = _count(raw, "cachedContentTokenCount", "cached_content_token_count")
    candidates = _count(raw, "candidatesTokenCount", "candidates_token_count")
    thoughts = _count(raw, "thoughtsTokenCount", "thoughts_token_count")
    tools = _count(raw, "toolUsePromptTokenCount", "tool_use_prompt_token_count")
    cached_audio = _audio(raw, "cacheTokensDetails", "cache_tokens_details")
    audio = _audio(raw, "promptTokensDetails", "prompt_tokens_details") - cached_audio
    out_audio = _audio(raw, "candidatesTokensDetails", "candidates_tokens_details")
    tokens = {
        "input": prompt - cached - audio + tools,
        "cache_read": cached - cached_audio,
        "input_audio": audio,
        "cache_read_audio": cached_audio,
        "output": candidates - out_audio + thoughts,
        "output_audio": out_audio,
    }
    return Usage(_kept(tokens))


def usage_of(response: Any) -> Usage | None:
    """The report in a response or a chunk of any of the three providers; None when there is none."""
    return read_chunk(response).usage


def read_chunk(chunk: Any) -> Seen:
    """What a response or a chunk tells: a mapping, an object of a provider's SDK, or bare text."""
    if isinstance(chunk, str):
        return Seen(text=chunk)
    raw = as_mapping(chunk)
    if raw is None:
        return Seen()
    return Seen(_report(raw), _text(raw))


def as_mapping(value: Any) -> Mapping[str, Any] | None:
    """A mapping, or what an SDK's object says of itself; None for anything else."""
    if isinstance(value, Mapping):
        return value
    for name in ("model_dump", "to_dict"):
        method = getattr(value, name, None)
        if callable(method):
            dumped = method()
            return dumped if isinstance(dumped, Mapping) else None
    return None


def _report(raw: Mapping[str, Any]) -> Usage | None:
    metadata = raw.get("usageMetadata", raw.get("usage_metadata"))
    if isinstance(metadata, Mapping):
        counted = any(_is_count(metadata.get(name)) for name in GEMINI_COUNTS)
        return gemini_usage(metadata) if counted else None
    message = raw.get("message")
    if raw.get("type") == "message_start" and isinstance(message, Mapping):
        return _started(message)
    response = raw.get("response")
    holder = response if isinstance(response, Mapping) else raw
    usage = holder.get("usage")
    if not isinstance(usage, Mapping):
        return None
    if not any(_is_count(usage.get(name)) for name in COUNTS):
        return None
    openai = "prompt_tokens" in usage or "total_tokens" in usage or "input_tokens_details" in usage
    if openai:
        return openai_usage(usage)
    if raw.get("type") == "message_delta" and not isinstance(usage.get("cache_creation"), Mapping):
        # It repeats what the start of the stream told, without telling the kinds of cache apart.
        usage = {name: count for name, count in usage.items() if name != "cache_creation_input_tokens"}
    return anthropic_usage(usage)


def _started(message: Mapping[str, Any]) -> Usage | None:
    """The report at the start of Anthropic's stream, whose output is a placeholder."""
    usage = message.get("usage")
    if not isinstance(usage, Mapping):
        return None
    tokens = {name: count for name, count in anthropic_usage(usage).tokens.items() if name != "output"}
    return Usage(tokens, complete=False)


def _text(raw: Mapping[str, Any]) -> str:
    """The text that a chunk adds."""
    delta = raw.get("delta")
    if isinstance(delta, str):
        return delta
    own = [delta] if isinstance(delta, Mapping) else _mappings(raw.get("content"))
    choices = [choice.get("delta") or choice.get("message") for choice in _mappings(raw.get("choices"))]
    contents = [candidate.get("content") for candidate in _mappings(raw.get("candidates"))]
    parts = [part for content in _mappings(contents) for part in _mappings(content.get("parts"))]
    return "".join(_words(part) for part in (*own, *_mappings(choices), *parts))


def _words(part: Mapping[str, Any]) -> str:
    """All text of a part: what is said, refused or thought, and what is handed to a tool."""
    tools = [tool.get("function") for tool in _mappings(part.get("tool_calls"))]
    handed = [tool.get("arguments") for tool in _mappings([*tools, part.get("function_call")])]
    gemini = part.get("functionCall", part.get("function_call"))
    args = gemini.get("args") if isinstance(gemini, Mapping) else None
    found = [*(part.get(name) for name in TEXTS), *handed, to_json(args).decode() if args else None]
    return "".join(text for text in found if isinstance(text, str))


def _mappings(values: Any) -> list[Mapping[str, Any]]:
    found = values if isinstance(values, Iterable) and not isinstance(values, str | Mapping) else ()
    return [value for value in found if isinstance(value, Mapping)]


def _count(raw: Mapping[str, Any], *names: str) -> int:
    """The first of `names` that is there; an absent count and null are 0."""
    for name in names:
        found = raw.get(name)
        if _is_count(found):
            return found
    return 0


def _is_count(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _part(raw: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    return next((found for name in names if isinstance(found := raw.get(name), Mapping)), {})


def _audio(raw: Mapping[str, Any], *names: str) -> int:
    details = next((found for name in names if (found := raw.get(name))), ())
    return sum(
        _count(detail, "tokenCount", "token_count")
        for detail in _mappings(details)
        if str(detail.get("modality", "")).upper().endswith("AUDIO")
    )


def _kept(tokens: Mapping[str, int]) -> dict[str, int]:
    """`input` and `output` always, the others when they count something; none below 0."""
    return {name: max(count, 0) for name, count in tokens.items() if count > 0 or name in ("input", "output")}
