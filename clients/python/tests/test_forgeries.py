"""What is told on our subject is believed only with the ledger's signature, and for what we sent."""

from __future__ import annotations

import asyncio
import json

import nats
from conftest import until
from stack import Stack

from holdfast import Ledger, command_id
from holdfast.envelope import outcome_signature
from holdfast.keys import MacKey, ServiceKeys

FORGED_POSITION = 999_999


async def test_a_forged_outcome_is_dropped(stack: Stack, ledger: Ledger, account: str) -> None:
    key = f"page {account}"
    command = command_id("backend", "deduct", key)
    subject = f"ledger.rsp.backend.{ledger._core.bus.instance}.{command}"
    bus = ledger._core.bus
    # Whoever has the ledger's own credentials may speak on our subject, but cannot sign.
    forger = await nats.connect(stack.ready["nats"]["ledger"])
    stack.pause()
    try:
        asking = asyncio.create_task(ledger.deduct(account, "0.1", key=key))

        async def is_waiting() -> bool:
            return bool(bus._waiting)

        await until(is_waiting, "the command is under way")
        [(_, fingerprint)] = bus._waiting
        payload = json.dumps({"id": str(command), "kind": "deducted", "position": FORGED_POSITION}).encode()
        genuine = ServiceKeys.derive(stack.token, "backend").outcome
        forged = outcome_signature(MacKey(genuine.kid, bytes(32)), subject, payload)
        moved = outcome_signature(genuine, subject + "0", payload)
        for signature in (forged, moved, ""):
            headers = {"Holdfast-Signature": signature, "Holdfast-Fingerprint": fingerprint}
            await forger.publish(subject, payload, headers=headers)
        # Signed, but the answer to another command under the same id.
        headers = {"Holdfast-Signature": outcome_signature(genuine, subject, payload)}
        await forger.publish(subject, payload, headers={**headers, "Holdfast-Fingerprint": "0" * 64})
        await forger.flush()

        async def are_dropped() -> bool:
            return bool(ledger.metrics()["commands"]["forged"] == 3)

        await until(are_dropped, "three forgeries")
        assert not asking.done()
    finally:
        stack.resume()
        await forger.close()
    assert (await asking).position != FORGED_POSITION
