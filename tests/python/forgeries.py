"""What a forger might publish: each is one honest deduct with one thing wrong.

The forger is as strong as can be: he owns the publishing service's connection, and some of these
are made with true keys. None may be answered, and none may leave a row.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, replace
from typing import Any, Callable

from bus import Publication
from envelope import Command, MacKey, Members, Signatures, base64url, render, to_json

STALE_MS = 400_000
"""Beyond the 300 seconds that `iat` may be off."""
ENVELOPE_MAX_BYTES = 64 * 1024
HONEST_BODY = b'{"amount":"2","reason":"forged"}'


@dataclass(frozen=True)
class Case:
    """An honest command, with the keys of its issuer and of another one."""

    command: Command
    own: MacKey
    other_issuer: str
    other: MacKey

    @property
    def signatures(self) -> Signatures:
        return self.command.sign(self.own)

    @property
    def members(self) -> Members:
        return self.command.members(self.signatures)

    @property
    def mac(self) -> str:
        return self.signatures[self.own.kid]

    def publish(self, members: Members) -> Publication:
        return Publication(self.command.subject, render(members))

    def signed_with(self, signatures: Signatures) -> Publication:
        """The honest command with other signatures."""
        return self.publish(self.command.members(signatures))

    def tampered(self, **changes: Any) -> Publication:
        """The command with fields changed after it was signed, on the subject that fits them."""
        changed = replace(self.command, **changes)
        return Publication(changed.subject, render(changed.members(self.signatures)))

    def resigned(self, **changes: Any) -> Publication:
        """The command with fields changed before it is signed, correctly."""
        changed = replace(self.command, **changes)
        return Publication(changed.subject, changed.envelope(self.own))

    def on_subject_of(self, **changes: Any) -> Publication:
        """The honest bytes on the subject that the changed command would have."""
        return Publication(replace(self.command, **changes).subject, self.command.envelope(self.own))


def flipped(data: bytes, index: int) -> bytes:
    """`data` with the lowest bit of one byte changed."""
    return data[:index] + bytes([data[index] ^ 1]) + data[index + 1 :]


def body_bit(case: Case) -> Publication:
    """`"2"` becomes `"3"`: still JSON, still a fine deduct."""
    body = case.command.body
    return case.tampered(body=flipped(body, body.index(b'"2"') + 1))


def mac_bit(case: Case) -> Publication:
    raw = base64.urlsafe_b64decode(case.mac + "=")
    return case.signed_with({case.own.kid: base64url(flipped(raw, 0))})


def mac_stray_bits(case: Case) -> Publication:
    """The last of 43 characters has two bits that decode to nothing; they must be zero."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    last = alphabet[alphabet.index(case.mac[-1]) | 1]
    return case.signed_with({case.own.kid: case.mac[:-1] + last})


def mac_cut(case: Case) -> Publication:
    raw = base64.urlsafe_b64decode(case.mac + "=")
    return case.signed_with({case.own.kid: base64url(raw[:16])})


def duplicate_member(case: Case) -> Publication:
    """A reader that keeps the last one would find the signed account."""
    return case.publish([("account", to_json("somebody-else")), *case.members])


def duplicate_by_escape(case: Case) -> Publication:
    """`\\u0061ccount` is `account`, written so that only a parser can tell."""
    envelope = render(case.members)
    escaped = b'{"\\u0061ccount":' + to_json(case.command.account) + b"," + envelope[1:]
    return Publication(case.command.subject, escaped)


def unknown_member(case: Case) -> Publication:
    return case.publish([*case.members, ("note", b'"not signed"')])


def without_signature(case: Case) -> Publication:
    return case.publish([member for member in case.members if member[0] != "sig"])


def one_key_twice(case: Case) -> Publication:
    entry = to_json(case.own.kid) + b":" + to_json(case.mac)
    doubled = b"{" + entry + b"," + entry + b"}"
    members = [(name, doubled if name == "sig" else value) for name, value in case.members]
    return case.publish(members)


def four_signatures(case: Case) -> Publication:
    """The true one is first; at most three are allowed."""
    others = {f"{n:016x}": case.mac for n in range(3)}
    return case.signed_with({**case.signatures, **others})


def foreign_key(case: Case) -> Publication:
    """Made with the other issuer's key, under this issuer's key id."""
    mac = case.other.mac(case.command.preimage(case.own.kid))
    return case.signed_with({case.own.kid: mac})


def foreign_kid(case: Case) -> Publication:
    """Correct under the other issuer's key and key id; but the command is not his."""
    return case.signed_with(case.command.sign(case.other))


def foreign_issuer(case: Case) -> Publication:
    """A command that the other issuer may give, truly signed by him, on this issuer's subject."""
    theirs = replace(case.command, iss=case.other_issuer, verb="open_account", body=b"{}")
    theirs = replace(theirs, account=f"{theirs.account}-theirs")
    subject = replace(theirs, iss=case.command.iss).subject
    return Publication(subject, theirs.envelope(case.other))


def other_version(case: Case) -> Publication:
    return case.publish([("v", b"2"), *case.members[1:]])


def oversized(case: Case) -> Publication:
    honest = case.command.envelope(case.own)
    return Publication(case.command.subject, honest + b" " * ENVELOPE_MAX_BYTES)


FORGERIES: dict[str, Callable[[Case], Publication]] = {
    "one bit of the body changed": body_bit,
    "white space added inside the body": lambda case: case.tampered(
        body=case.command.body.replace(b":", b": ")
    ),
    "one bit of the mac changed": mac_bit,
    "stray bits at the end of the mac": mac_stray_bits,
    "a mac cut to 16 bytes": mac_cut,
    "the account changed": lambda case: case.tampered(account=f"{case.command.account}-2"),
    "moved to another account's subject": lambda case: case.on_subject_of(account="somebody-else"),
    "moved to another verb's subject": lambda case: case.on_subject_of(verb="top_up"),
    "for another audience": lambda case: case.resigned(aud=f"{case.command.aud}.other"),
    "signed 400 s ago": lambda case: case.resigned(iat=case.command.iat - STALE_MS),
    "signed 400 s ahead": lambda case: case.resigned(
        iat=case.command.iat + STALE_MS, exp=case.command.exp + STALE_MS
    ),
    "a duplicate member": duplicate_member,
    "a duplicate member spelled with an escape": duplicate_by_escape,
    "an unknown member": unknown_member,
    "no sig": without_signature,
    "an empty sig": lambda case: case.signed_with({}),
    "one key signing twice": one_key_twice,
    "four signatures": four_signatures,
    "another issuer's key": foreign_key,
    "another issuer's kid": foreign_kid,
    "another issuer's command": foreign_issuer,
    "an unknown kid": lambda case: case.signed_with({"0" * 16: case.mac}),
    "another version": other_version,
    "more than 64 KiB": oversized,
}
