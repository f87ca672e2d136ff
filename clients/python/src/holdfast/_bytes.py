"""The few operations on bytes that signing and ids are made of."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import struct


def sha256(data: bytes) -> bytes:
    """The SHA-256 digest of `data`."""
    return hashlib.sha256(data).digest()


def hmac_sha256(key: bytes, data: bytes) -> bytes:
    """The HMAC-SHA256 of `data` under `key`."""
    return hmac.new(key, data, hashlib.sha256).digest()


def base64url(data: bytes) -> str:
    """URL-safe base64 without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def length_prefixed(*fields: bytes) -> bytes:
    """`LP(field)` of each field, joined: its length as four bytes, big-endian, then itself."""
    return b"".join(struct.pack(">I", len(field)) + field for field in fields)


def to_json(value: object) -> bytes:
    """JSON without white space, text as raw UTF-8."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
