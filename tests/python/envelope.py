"""The signed envelope, version 1, once more: written from its specification, with the standard
library only, and sharing no code with the ledger. That both agree is what makes the format one.

    LP(x)    = u32_be(len(x)) ‖ x
    PRK      = HKDF-Extract-SHA256(salt, token)
    K        = HKDF-Expand(PRK, LP("holdfast/v1") ‖ LP(purpose) ‖ LP(iss) ‖ u32_be(generation), 32)
    kid      = the same with purpose + "/kid", 8 bytes, in hexadecimal
    preimage = LP(tag) ‖ LP(kid) ‖ LP(iss) ‖ LP(aud) ‖ LP(verb) ‖ LP(account) ‖ LP(reply) ‖ LP(id)
               ‖ LP(u64_be(iat)) ‖ LP(u64_be(exp)) ‖ LP(SHA-256(body))
    mac      = base64url-nopad(HMAC-SHA256(K, preimage))

An envelope is kept as a list of members rather than as a dict, so that a forger can repeat,
reorder and leave out what he likes.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import struct
import uuid
from dataclasses import dataclass
from typing import NamedTuple

SALT = b"holdfast/hkdf-sha256/v1"
COMMAND_TAG = b"holdfast/command/v1"
OUTCOME_TAG = b"holdfast/outcome/v1"
PLAIN_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,64}")

Signatures = dict[str, str]
"""MACs by key id."""
Members = list[tuple[str, bytes]]
"""An object's members in order: names, and values as JSON."""


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def hmac_sha256(key: bytes, data: bytes) -> bytes:
    return hmac.new(key, data, hashlib.sha256).digest()


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def length_prefixed(*fields: bytes) -> bytes:
    return b"".join(struct.pack(">I", len(field)) + field for field in fields)


def hkdf_expand(prk: bytes, info: bytes, length: int) -> bytes:
    """RFC 5869, section 2.3."""
    output, block, counter = b"", b"", 1
    while len(output) < length:
        block = hmac_sha256(prk, block + info + bytes([counter]))
        output, counter = output + block, counter + 1
    return output[:length]


class MacKey(NamedTuple):
    """A key with its id."""

    kid: str
    key: bytes

    def mac(self, preimage: bytes) -> str:
        return base64url(hmac_sha256(self.key, preimage))


class Root:
    """The internal token, from which every key is derived."""

    def __init__(self, token: str) -> None:
        self.prk = hmac_sha256(SALT, token.encode().removesuffix(b"\n"))

    def key(self, purpose: str, issuer: str, generation: int = 1) -> MacKey:
        kid = self._expand(f"{purpose}/kid", issuer, generation, 8).hex()
        return MacKey(kid, self._expand(purpose, issuer, generation, 32))

    def _expand(self, label: str, issuer: str, generation: int, length: int) -> bytes:
        info = length_prefixed(b"holdfast/v1", label.encode(), issuer.encode())
        return hkdf_expand(self.prk, info + struct.pack(">I", generation), length)


def account_token(account: str) -> str:
    """An account id as one token of a subject."""
    plain = PLAIN_TOKEN.fullmatch(account)
    return account if plain else "~" + base64url(account.encode())


def to_json(value: object) -> bytes:
    """JSON without white space, with text as raw UTF-8."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def render(members: Members) -> bytes:
    """The object of these members, as they are."""
    return b"{" + b",".join(to_json(name) + b":" + value for name, value in members) + b"}"


@dataclass(frozen=True)
class Command:
    """What is signed."""

    id: str
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
        return f"ledger.cmd.{self.iss}.{self.verb}.{account_token(self.account)}"

    @property
    def outcome_subject(self) -> str:
        return f"ledger.rsp.{self.iss}.{self.reply}.{self.id}"

    @property
    def fingerprint(self) -> bytes:
        return sha256(length_prefixed(self.verb.encode(), self.account.encode(), sha256(self.body)))

    def preimage(self, kid: str) -> bytes:
        texts = (kid, self.iss, self.aud, self.verb, self.account, self.reply)
        return length_prefixed(
            COMMAND_TAG,
            *(text.encode() for text in texts),
            uuid.UUID(self.id).bytes,
            struct.pack(">Q", self.iat),
            struct.pack(">Q", self.exp),
            sha256(self.body),
        )

    def sign(self, *keys: MacKey) -> Signatures:
        return {key.kid: key.mac(self.preimage(key.kid)) for key in keys}

    def members(self, signatures: Signatures) -> Members:
        """The envelope's members in the order of the specification."""
        names = ("id", "iss", "aud", "verb", "account", "reply", "iat", "exp")
        fields = [(name, to_json(getattr(self, name))) for name in names]
        return [("v", b"1"), *fields, ("sig", to_json(signatures)), ("body", self.body)]

    def envelope(self, *keys: MacKey) -> bytes:
        """The bytes to publish."""
        return render(self.members(self.sign(*keys)))


def outcome_signature(key: MacKey, subject: str, payload: bytes) -> str:
    """The value of the header `Holdfast-Signature` of an outcome."""
    fields = (OUTCOME_TAG, key.kid.encode(), subject.encode(), sha256(payload))
    return f"{key.kid}:{key.mac(length_prefixed(*fields))}"
