"""The published vectors, reproduced by the independent implementation in envelope.py."""

from __future__ import annotations

import json
from typing import Any

from envelope import Command, MacKey, Root, length_prefixed, outcome_signature, sha256
from report import Report, expect

Vector = dict[str, Any]


def load(path: str) -> list[Vector]:
    with open(path, encoding="utf-8") as file:
        found: list[Vector] = json.load(file)["vectors"]
    return found


def command_of(vector: Vector) -> Command:
    return Command(**vector["fields"], body=vector["body"].encode())


def check_command(vector: Vector) -> None:
    """Everything that the vector states, from the token to the envelope's bytes."""
    command, root = command_of(vector), Root(vector["token"])
    key = root.key("command-mac", command.iss, vector["generation"])
    preimage = command.preimage(key.kid)
    expect("prk", vector["prk"], root.prk.hex())
    expect("key", vector["key"], key.key.hex())
    expect("kid", vector["kid"], key.kid)
    expect("body_sha256", vector["body_sha256"], sha256(command.body).hex())
    expect("preimage_len", vector["preimage_len"], len(preimage))
    expect("preimage_sha256", vector["preimage_sha256"], sha256(preimage).hex())
    expect("mac", vector["mac"], key.mac(preimage))
    expect("fingerprint", vector["fingerprint"], command.fingerprint.hex())
    expect("subject", vector["subject"], command.subject)
    expect("envelope", vector["envelope"].encode(), command.envelope(key))


def check_signatures(vector: Vector) -> None:
    """A vector signed with the keys of generations 1, 2, …"""
    command, root = command_of(vector), Root(vector["token"])
    generations = range(1, len(vector["sig"]) + 1)
    keys = [root.key("command-mac", command.iss, generation) for generation in generations]
    expect("sig", vector["sig"], command.sign(*keys))
    expect("subject", vector["subject"], command.subject)
    expect("envelope", vector["envelope"].encode(), command.envelope(*keys))


def outcome_key(vector: Vector) -> MacKey:
    service = vector["subject"].split(".")[2]
    return Root(vector["token"]).key("outcome-mac", service)


def check_outcome(vector: Vector) -> None:
    key, payload = outcome_key(vector), vector["payload"].encode()
    expect("key", vector["key"], key.key.hex())
    header = outcome_signature(key, vector["subject"], payload)
    expect("header", vector["header"], f"Holdfast-Signature: {header}")


def check_one(vector: Vector) -> None:
    if "payload" in vector:
        check_outcome(vector)
    elif "sig" in vector:
        check_signatures(vector)
    else:
        check_command(vector)


def check_all(report: Report, path: str) -> None:
    found = load(path)
    for vector in found:
        with report.check(f"vector: {vector['name']}"):
            check_one(vector)
    with report.check("vectors: no byte can move between fields under the same signature"):
        macs = [vector["mac"] for vector in found if "mac" in vector]
        expect("distinct signatures", len(macs), len(set(macs)))
        expect("an example of a length prefix", b"\0\0\0\2ab\0\0\0\0", length_prefixed(b"ab", b""))
