"""The internal token, before anything else of a request.

**Correctness.** Whoever has no valid token learns nothing: every refusal is the same bytes, those of
the ledger's own façade. Digests are compared, each in constant time and all of them, so neither a
token's length nor where it differs can be measured.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Sequence

from ._bytes import sha256, to_json

TOKEN_HEADER = "X-INTERNAL-TOKEN"  # noqa: S105
USER_HEADER = "X-User-ID"
FORBIDDEN_STATUS = 403
FORBIDDEN_HEADERS = {"content-type": "application/problem+json", "cache-control": "no-store"}
FORBIDDEN_BODY = to_json(
    {
        "type": "urn:holdfast:error:forbidden",
        "title": "forbidden",
        "status": FORBIDDEN_STATUS,
        "code": "forbidden",
        "detail": "a valid X-INTERNAL-TOKEN is needed",
    }
)


class Gate:
    """Accepts the current token and, during a rotation, the one before."""

    def __init__(self, token: str, previous: str | None = None) -> None:
        tokens = [text.strip() for text in (token, previous) if text is not None]
        if not all(tokens):
            raise ValueError("an empty token would let everybody in")
        self._digests = [sha256(text.encode()) for text in tokens]

    def accepts(self, given: Sequence[bytes]) -> bool:
        """Whether the request carries exactly one token, and an accepted one."""
        digest = sha256(given[0] if given else b"")
        found = False
        for known in self._digests:
            found = hmac.compare_digest(digest, known) or found
        return found and len(given) == 1


def user_of(given: Iterable[bytes]) -> str | None:
    """The user of an accepted request: None unless named once, in printable ASCII."""
    values = list(given)
    if len(values) != 1 or not values[0]:
        return None
    text = values[0].decode("latin-1")
    return text if text.isascii() and text.isprintable() else None
