"""Keys: derived from the root token, or given as the one line of strict mode."""

from __future__ import annotations

import base64
import re
import struct
from dataclasses import dataclass, field

from ._bytes import base64url, hmac_sha256, length_prefixed

SALT = b"holdfast/hkdf-sha256/v1"
LINE_PREFIX = "hfk1."
KEY_TEXT = re.compile(r"[A-Za-z0-9_-]{43}")
"""32 bytes in base64url without padding."""
KID_BYTES = 8
LINE_FIELDS = 6


@dataclass(frozen=True)
class MacKey:
    """A key with its public id."""

    kid: str
    key: bytes = field(repr=False)

    def mac(self, preimage: bytes) -> str:
        """The MAC of `preimage`, in base64url without padding."""
        return base64url(hmac_sha256(self.key, preimage))


@dataclass(frozen=True)
class ServiceKeys:
    """What one service needs: the key that signs its commands, and the one that proves outcomes."""

    issuer: str
    command: MacKey
    outcome: MacKey

    @classmethod
    def derive(cls, token: str, issuer: str, generation: int = 1) -> ServiceKeys:
        """The keys of `issuer` under the root `token`."""
        prk = root_prk(token)
        command = derive_key(prk, "command-mac", issuer, generation)
        return cls(issuer, command, derive_key(prk, "outcome-mac", issuer, generation))

    @classmethod
    def parse(cls, line: str) -> ServiceKeys:
        """The keys in a line of `holdfast token derive`; `ValueError` when it is none."""
        parts = line.strip().split(".")
        if len(parts) != LINE_FIELDS or parts[0] != "hfk1":
            raise ValueError("expected hfk1.<issuer>.<kid>.<key>.<outcome kid>.<outcome key>")
        _, issuer, kid, key, outcome_kid, outcome_key = parts
        return cls(issuer, MacKey(kid, _key_bytes(key)), MacKey(outcome_kid, _key_bytes(outcome_key)))

    @classmethod
    def read(cls, secret: str, issuer: str, generation: int = 1) -> ServiceKeys:
        """The keys of `issuer` from a root token or from its derived line, whichever `secret` is."""
        if not secret.lstrip().startswith(LINE_PREFIX):
            return cls.derive(secret, issuer, generation)
        keys = cls.parse(secret)
        if keys.issuer != issuer:
            raise ValueError(f"the derived keys are those of {keys.issuer!r}, not of {issuer!r}")
        return keys


def root_prk(token: str) -> bytes:
    """HKDF-Extract of the root token; one newline at its end is not part of it."""
    data = token.encode()
    data = data[:-2] if data.endswith(b"\r\n") else data.removesuffix(b"\n")
    return hmac_sha256(SALT, data)


def derive_key(prk: bytes, purpose: str, issuer: str, generation: int) -> MacKey:
    """The key for `purpose` (`command-mac` or `outcome-mac`) with its id."""
    kid = _expand(prk, f"{purpose}/kid", issuer, generation)[:KID_BYTES].hex()
    return MacKey(kid, _expand(prk, purpose, issuer, generation))


def _expand(prk: bytes, label: str, issuer: str, generation: int) -> bytes:
    """HKDF-Expand to 32 bytes, which are the first block of it."""
    info = length_prefixed(b"holdfast/v1", label.encode(), issuer.encode()) + struct.pack(">I", generation)
    return hmac_sha256(prk, info + b"\x01")


def _key_bytes(text: str) -> bytes:
    # Checked first, since Python's decoder also takes what the alphabet does not have.
    if not KEY_TEXT.fullmatch(text):
        raise ValueError("a key is 43 characters of base64url")
    return base64.urlsafe_b64decode(text + "=")
