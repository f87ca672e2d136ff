"""A provider of models: a real HTTP server that does what the path says."""

from __future__ import annotations

import asyncio
import json
from typing import Any

TEXT = "Twelve letters each. "
"""One chunk of a stream: 21 bytes."""


def answer(usage: dict[str, int] | None) -> dict[str, Any]:
    """A response of Gemini's, or a chunk of one."""
    body: dict[str, Any] = {"candidates": [{"content": {"parts": [{"text": TEXT}]}}]}
    return body if usage is None else {**body, "usageMetadata": usage}


USAGE = {"promptTokenCount": 1000, "candidatesTokenCount": 200, "thoughtsTokenCount": 50}
ZERO = {"promptTokenCount": 0, "candidatesTokenCount": 0}
WHOLE: dict[str, tuple[int, dict[str, Any]]] = {
    "/ok": (200, answer(USAGE)),
    "/zero": (200, answer(ZERO)),
    "/no-usage": (200, answer(None)),
    "/429": (429, {"error": "slow down"}),
    "/500": (500, {"error": "broken"}),
}


class Provider:
    """`/ok`, `/zero`, `/no-usage`, `/429`, `/500` answer; `/hang` never does, `/gone` hangs up at once.

    Streams of three chunks with the usage at the end: `/stream`; without it, `/stream-no-usage`;
    `/cut` breaks off after two; `/gated` goes on after two when `gate` is set; `/cut-before` breaks
    off before the first.
    """

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.seen: list[str] = []
        self._serving: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        self._server.close()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)
        await self._server.wait_closed()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            path = head.split(" ")[1]
            self.seen.append(path)
            await self._answer(path, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer(self, path: str, writer: asyncio.StreamWriter) -> None:
        if path == "/hang":
            await asyncio.Event().wait()
        elif path in WHOLE:
            status, body = WHOLE[path]
            data = json.dumps(body).encode()
            writer.write(b"HTTP/1.1 %d x\r\nconnection: close\r\n" % status)
            writer.write(b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(data) + data)
            await writer.drain()
        elif path != "/gone":
            await self._stream(path, writer)

    async def _stream(self, path: str, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 x\r\ntransfer-encoding: chunked\r\n\r\n")
        if path == "/cut-before":
            await writer.drain()
            return
        usage = None if path == "/stream-no-usage" else USAGE
        for n, chunk in enumerate([answer(None), answer(None), answer(usage)]):
            if n == 2 and path == "/cut":
                return
            if n == 2 and path == "/gated":
                await self.gate.wait()
            line = json.dumps(chunk).encode() + b"\n"
            writer.write(b"%x\r\n%s\r\n" % (len(line), line))
            await writer.drain()
        writer.write(b"0\r\n\r\n")
        await writer.drain()
