"""Ids: new ones, and those that a name stands for."""

from __future__ import annotations

import hashlib
import secrets
import time
import uuid

from ._bytes import length_prefixed

NAMESPACE = uuid.UUID("6f1d6b3e-8f0a-5c55-9d1f-0c6a4b7e2a10")
"""`NS` of the ledger's UUIDv5 formula."""


def new_id() -> uuid.UUID:
    """A new UUID of version 7, which sorts by time."""
    milliseconds = time.time_ns() // 1_000_000
    value = (milliseconds & (1 << 48) - 1) << 80 | secrets.randbits(80)
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return uuid.UUID(int=value)


def command_id(issuer: str, verb: str, key: str) -> uuid.UUID:
    """The command id that `key` stands for: `UUIDv5(NS, LP(issuer) ‖ LP(verb) ‖ LP(key))`.

    The same issuer, verb and key always give the same id, so whoever keeps the key can repeat
    the command and is told the first outcome.
    """
    name = length_prefixed(issuer.encode(), verb.encode(), key.encode())
    # The name is bytes, which `uuid.uuid5` takes only from Python 3.12 on.
    digest = hashlib.sha1(NAMESPACE.bytes + name, usedforsecurity=False).digest()
    return uuid.UUID(bytes=digest[:16], version=5)


def hold_id(issuer: str, job_id: str) -> uuid.UUID:
    """The hold that `job_id` stands for when `issuer` reserves, captures or releases."""
    return command_id(issuer, "reserve", job_id)
