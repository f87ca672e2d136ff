"""What providers report, as disjoint dimensions, and what a chunk says."""

from __future__ import annotations

from typing import Any

import pytest

from holdfast import usage_of
from holdfast.usage import Seen, Usage, estimate_tokens, read_chunk

REPORTS: list[tuple[str, dict[str, Any], dict[str, int] | None]] = [
    ("openai", {"usage": {"prompt_tokens": 10, "completion_tokens": 3}}, {"input": 10, "output": 3}),
    (
        "openai, all details",
        {
            "usage": {
                "prompt_tokens": 100,
                "completion_tokens": 50,
                "prompt_tokens_details": {"cached_tokens": 60, "audio_tokens": 10},
                "completion_tokens_details": {"reasoning_tokens": 30, "audio_tokens": 5},
            }
        },
        {"input": 30, "cache_read": 60, "input_audio": 10, "output": 45, "output_audio": 5},
    ),
    (
        "openai, cached sound",
        {
            "usage": {
                "prompt_tokens": 100,
                "completion_tokens": 0,
                "prompt_tokens_details": {
                    "cached_tokens": 60,
                    "audio_tokens": 50,
                    "cached_tokens_details": {"audio_tokens": 20},
                },
            }
        },
        {"input": 10, "cache_read": 40, "input_audio": 30, "cache_read_audio": 20, "output": 0},
    ),
    (
        "openai, responses",
        {
            "type": "response.completed",
            "response": {
                "usage": {
                    "input_tokens": 100,
                    "input_tokens_details": {"cached_tokens": 40},
                    "output_tokens": 7,
                    "output_tokens_details": {"reasoning_tokens": 5},
                    "total_tokens": 107,
                }
            },
        },
        {"input": 60, "cache_read": 40, "output": 7},
    ),
    ("openai, embeddings", {"usage": {"prompt_tokens": 8, "total_tokens": 8}}, {"input": 8, "output": 0}),
    ("openai, zero", {"usage": {"prompt_tokens": 0, "completion_tokens": 0}}, {"input": 0, "output": 0}),
    ("openai, null", {"usage": None, "choices": []}, None),
    ("openai, empty", {"usage": {}}, None),
    ("openai, nonsense", {"usage": {"prompt_tokens": -1, "completion_tokens": "3"}}, None),
    (
        "anthropic",
        {
            "usage": {
                "input_tokens": 10,
                "cache_creation_input_tokens": 200,
                "cache_read_input_tokens": 3000,
                "output_tokens": 40,
            }
        },
        {"input": 10, "cache_write": 200, "cache_read": 3000, "output": 40},
    ),
    (
        "anthropic, zero and null",
        {"usage": {"input_tokens": 0, "cache_read_input_tokens": None, "output_tokens": 0}},
        {"input": 0, "output": 0},
    ),
    (
        "anthropic, cached for an hour",
        {
            "usage": {
                "input_tokens": 1,
                "cache_creation_input_tokens": 500,
                "cache_creation": {"ephemeral_5m_input_tokens": 200, "ephemeral_1h_input_tokens": 300},
                "output_tokens": 2,
            }
        },
        {"input": 1, "cache_write": 200, "cache_write_1h": 300, "output": 2},
    ),
    (
        "anthropic, no sum of what was cached",
        {
            "usage": {
                "input_tokens": 1,
                "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 300},
                "output_tokens": 2,
            }
        },
        {"input": 1, "cache_write": 0, "cache_write_1h": 300, "output": 2},
    ),
    (
        "anthropic, the end of a stream that repeats what was cached",
        {
            "type": "message_delta",
            "usage": {"input_tokens": 1, "cache_creation_input_tokens": 500, "output_tokens": 15},
        },
        {"input": 1, "output": 15},
    ),
    ("anthropic, end of a stream", {"type": "message_delta", "usage": {"output_tokens": 15}}, {"output": 15}),
    (
        "gemini",
        {
            "usageMetadata": {
                "promptTokenCount": 100,
                "cachedContentTokenCount": 80,
                "candidatesTokenCount": 20,
                "thoughtsTokenCount": 300,
                "totalTokenCount": 420,
            }
        },
        {"input": 20, "cache_read": 80, "output": 320},
    ),
    (
        "gemini, sound and tools",
        {
            "usageMetadata": {
                "promptTokenCount": 100,
                "cachedContentTokenCount": 30,
                "toolUsePromptTokenCount": 7,
                "promptTokensDetails": [
                    {"modality": "TEXT", "tokenCount": 50},
                    {"modality": "AUDIO", "tokenCount": 50},
                ],
                "cacheTokensDetails": [{"modality": "AUDIO", "tokenCount": 30}],
                "candidatesTokenCount": 10,
                "candidatesTokensDetails": [{"modality": "AUDIO", "tokenCount": 8}],
            }
        },
        {"input": 57, "cache_read_audio": 30, "input_audio": 20, "output": 2, "output_audio": 8},
    ),
    (
        "gemini, in Python's spelling",
        {
            "usage_metadata": {
                "prompt_token_count": 5,
                "candidates_token_count": 2,
                "thoughts_token_count": None,
            }
        },
        {"input": 5, "output": 2},
    ),
    ("gemini, zeros left out", {"usageMetadata": {"promptTokenCount": 0}}, {"input": 0, "output": 0}),
    ("gemini, only a total", {"usageMetadata": {"totalTokenCount": 5}}, None),
    ("nothing", {"candidates": []}, None),
]


@pytest.mark.parametrize(
    ("response", "expected"), [row[1:] for row in REPORTS], ids=[row[0] for row in REPORTS]
)
def test_a_report(response: dict[str, Any], expected: dict[str, int] | None) -> None:
    assert usage_of(response) == (None if expected is None else Usage(expected))


def test_the_start_of_a_stream_is_no_complete_report() -> None:
    start: dict[str, Any] = {
        "type": "message_start",
        "message": {"usage": {"input_tokens": 25, "output_tokens": 1}},
    }
    assert usage_of(start) == Usage({"input": 25}, complete=False)
    kinds = {"ephemeral_5m_input_tokens": 200, "ephemeral_1h_input_tokens": 300}
    start["message"]["usage"] |= {"cache_creation_input_tokens": 500, "cache_creation": kinds}
    assert usage_of(start) == Usage({"input": 25, "cache_write": 200, "cache_write_1h": 300}, complete=False)


class Dumped:
    """As an SDK's object."""

    def model_dump(self) -> dict[str, Any]:
        return {"usage": {"prompt_tokens": 1, "completion_tokens": 2}}


@pytest.mark.parametrize(
    ("chunk", "text"),
    [
        ("bare", "bare"),
        ({"choices": [{"delta": {"content": "a", "reasoning_content": "b"}}]}, "ab"),
        ({"choices": [{"message": {"content": "whole"}}]}, "whole"),
        ({"choices": [{"delta": {"refusal": "no"}}]}, "no"),
        ({"choices": [{"delta": {"tool_calls": [{"index": 0, "function": {"arguments": '{"a"'}}]}}]}, '{"a"'),
        ({"choices": [{"message": {"function_call": {"name": "f", "arguments": "{}"}}}]}, "{}"),
        ({"candidates": [{"content": {"parts": [{"functionCall": {"args": {"a": 1}}}]}}]}, '{"a":1}'),
        ({"candidates": [{"content": {"parts": [{"function_call": {"args": {"a": 1}}}]}}]}, '{"a":1}'),
        ({"choices": [{"delta": {"content": None}}]}, ""),
        ({"type": "response.output_text.delta", "delta": "r"}, "r"),
        ({"type": "content_block_delta", "delta": {"type": "text_delta", "text": "c"}}, "c"),
        ({"type": "content_block_delta", "delta": {"thinking": "d"}}, "d"),
        ({"content": [{"type": "text", "text": "e"}, {"type": "text", "text": "f"}]}, "ef"),
        ({"candidates": [{"content": {"parts": [{"text": "g"}, {"inlineData": {}}]}}]}, "g"),
        ({}, ""),
        (b"bytes", ""),
        (None, ""),
    ],
)
def test_the_text_of_a_chunk(chunk: Any, text: str) -> None:
    assert read_chunk(chunk).text == text


def test_the_object_of_an_sdk_is_read_like_its_json() -> None:
    assert read_chunk(Dumped()) == Seen(Usage({"input": 1, "output": 2}))


@pytest.mark.parametrize(("size", "tokens"), [(0, 0), (1, 1), (4, 1), (5, 2), (4000, 1000)])
def test_four_bytes_are_a_token_rounded_up(size: int, tokens: int) -> None:
    assert estimate_tokens(size) == tokens
