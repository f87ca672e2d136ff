"""The signed envelope, version 1: how a command is written, and how its outcome is checked.

**Correctness.** The body is serialized once. Its bytes are signed, spliced into the message, and
kept for every retry; nothing here parses and writes them again, so a retry is the same command.
"""

from __future__ import annotations

import hmac
import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

from ._bytes import base64url, length_prefixed, sha256, to_json
from .keys import MacKey

COMMAND_TAG = b"holdfast/command/v1"
OUTCOME_TAG = b"holdfast/outcome/v1"
MESSAGE_BYTES_MAX = 65_536
"""The most that the ledger reads of one command; a larger one is passed over in silence."""
PLAIN_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,64}")


def subject_token(name: str) -> str:
    """An account id, or a model, as one token of a subject."""
    return name if PLAIN_TOKEN.fullmatch(name) else "~" + base64url(name.encode())


@dataclass(frozen=True)
class Command:
    """A command as it is signed. `iat` and `exp` are Unix milliseconds."""

    id: UUID
    iss: str
    aud: str
    verb: str
    account: str
    reply: str
    iat: int
    exp: int
    body: bytes

    @property
    def subject(self) -> str:
        """Where it is published."""
        return f"ledger.cmd.{self.iss}.{self.verb}.{subject_token(self.account)}"

    @property
    def outcome_subject(self) -> str:
        """Where its outcome is told."""
        return f"ledger.rsp.{self.iss}.{self.reply}.{self.id}"

    @property
    def fingerprint(self) -> bytes:
        """What makes two commands under one id the same."""
        return sha256(length_prefixed(self.verb.encode(), self.account.encode(), sha256(self.body)))

    def preimage(self, kid: str) -> bytes:
        """The bytes that the key `kid` signs."""
        texts = (kid, self.iss, self.aud, self.verb, self.account, self.reply)
        return length_prefixed(
            COMMAND_TAG,
            *(text.encode() for text in texts),
            self.id.bytes,
            struct.pack(">Q", self.iat),
            struct.pack(">Q", self.exp),
            sha256(self.body),
        )

    def envelope(self, keys: Iterable[MacKey]) -> bytes:
        """The message to publish, with a signature of each key (one to three)."""
        head = {
            "v": 1,
            "id": str(self.id),
            **{
                name: getattr(self, name) for name in ("iss", "aud", "verb", "account", "reply", "iat", "exp")
            },
            "sig": {key.kid: key.mac(self.preimage(key.kid)) for key in keys},
        }
        return to_json(head)[:-1] + b',"body":' + self.body + b"}"


def outcome_signature(key: MacKey, subject: str, payload: bytes) -> str:
    """The header `Holdfast-Signature` of `payload` told on `subject`."""
    fields = (OUTCOME_TAG, key.kid.encode(), subject.encode(), sha256(payload))
    return f"{key.kid}:{key.mac(length_prefixed(*fields))}"


def is_genuine(keys: Iterable[MacKey], header: str | None, subject: str, payload: bytes) -> bool:
    """Whether one of our outcome `keys` signed `payload` for the `subject` it was received on."""
    kid, _, _ = (header or "").partition(":")
    key = next((key for key in keys if key.kid == kid), None)
    if key is None or header is None:
        return False
    return hmac.compare_digest(outcome_signature(key, subject, payload).encode(), header.encode())
