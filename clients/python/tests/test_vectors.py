"""The repository's vectors, each to the byte."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest
from stack import REPOSITORY

from holdfast._bytes import sha256
from holdfast.envelope import Command, is_genuine, outcome_signature, subject_token
from holdfast.ids import command_id, hold_id, new_id
from holdfast.keys import ServiceKeys, root_prk

VECTORS: list[dict[str, Any]] = json.loads(
    (REPOSITORY / "crates/protocol/vectors/envelope-v1.json").read_text(encoding="utf-8")
)["vectors"]
LINE = (
    "hfk1.chat-api.b938071478370113.5kaEWLhqYCWVgbh8Iu6bwZi-5WUYDZ2HeHhO19i91Ew"
    ".283dfafc75f7767d.fxh-ur4Jgf0lUx3fS2dd6MTiW0JflZjYjzfMkU5Kh9Q"
)


def of_kind(member: str) -> list[Any]:
    return [pytest.param(vector, id=vector["name"]) for vector in VECTORS if member in vector]


def command_of(vector: dict[str, Any]) -> Command:
    fields = {**vector["fields"], "id": uuid.UUID(vector["fields"]["id"])}
    return Command(**fields, body=vector["body"].encode())


@pytest.mark.parametrize("vector", of_kind("mac"))
def test_a_command_is_signed_as_the_vector_says(vector: dict[str, Any]) -> None:
    command = command_of(vector)
    key = ServiceKeys.derive(vector["token"], command.iss, vector["generation"]).command
    preimage = command.preimage(key.kid)
    found = {
        "prk": root_prk(vector["token"]).hex(),
        "key": key.key.hex(),
        "kid": key.kid,
        "preimage_len": len(preimage),
        "preimage_sha256": sha256(preimage).hex(),
        "mac": key.mac(preimage),
        "fingerprint": command.fingerprint.hex(),
        "subject": command.subject,
        "envelope": command.envelope([key]).decode(),
    }
    assert found == {name: vector[name] for name in found}


@pytest.mark.parametrize("vector", of_kind("sig"))
def test_an_envelope_may_carry_several_signatures(vector: dict[str, Any]) -> None:
    command = command_of(vector)
    generations = range(1, len(vector["sig"]) + 1)
    keys = [ServiceKeys.derive(vector["token"], command.iss, n).command for n in generations]
    assert command.envelope(keys).decode() == vector["envelope"]


@pytest.mark.parametrize("vector", of_kind("payload"))
def test_an_outcome_is_checked_as_the_vector_says(vector: dict[str, Any]) -> None:
    subject, payload = vector["subject"], vector["payload"].encode()
    key = ServiceKeys.derive(vector["token"], subject.split(".")[2]).outcome
    header = vector["header"].removeprefix("Holdfast-Signature: ")
    assert outcome_signature(key, subject, payload) == header
    assert is_genuine([key], header, subject, payload)
    assert not is_genuine([key], header, subject + "0", payload)
    assert not is_genuine([key], header, subject, payload + b" ")
    assert not is_genuine([key], None, subject, payload)
    assert not is_genuine([], header, subject, payload)


def test_the_line_of_strict_mode_has_the_derived_keys() -> None:
    token = VECTORS[0]["token"]
    assert ServiceKeys.read(LINE + "\n", "chat-api") == ServiceKeys.derive(token, "chat-api")
    assert ServiceKeys.derive(token + "\r\n", "chat-api") == ServiceKeys.derive(token, "chat-api")
    with pytest.raises(ValueError, match="not of 'backend'"):
        ServiceKeys.read(LINE, "backend")


@pytest.mark.parametrize("line", ["hfk1.a.b", LINE[:-1], LINE.replace("5kaE", "5k+E"), LINE + "AAAA"])
def test_a_damaged_line_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match=r"hfk1|base64url"):
        ServiceKeys.read(line, "chat-api")


def test_a_key_is_not_printed() -> None:
    keys = ServiceKeys.parse(LINE)
    assert keys.command.key.hex() not in repr(keys)
    assert repr(keys.command.key) not in repr(keys)


@pytest.mark.parametrize(
    ("account", "token"),
    [("user-1", "user-1"), ("ann@example.com", "~YW5uQGV4YW1wbGUuY29t"), ("naïve-ü", "~bmHDr3ZlLcO8")],
)
def test_an_account_is_one_token_of_a_subject(account: str, token: str) -> None:
    assert subject_token(account) == token


def test_names_stand_for_ids() -> None:
    assert str(hold_id("chat-api", "job-7")) == "5d10d4e6-a2db-59e6-8e9a-642189994ca4"
    assert str(hold_id("http", "job-7")) == "e5379d77-cab3-55de-b7bc-a479c8998f1f"
    assert str(command_id("http", "capture", "job-7")) == "21d2eac5-f971-5ad3-8b4d-afa23a756107"
    assert str(command_id("http", "deduct", "page-42")) == "c56d3c6f-6034-5153-aa54-4509d20fc59a"


def test_new_ids_are_of_version_7_and_all_different() -> None:
    ids = [new_id() for _ in range(1000)]
    assert {(found.version, found.variant) for found in ids} == {(7, uuid.RFC_4122)}
    assert len(set(ids)) == len(ids)
