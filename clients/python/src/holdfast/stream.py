"""A provider's stream, read on behalf of a hold.

With the policy `drain` the source is read by a task of its own: cancelling whoever reads the
chunks then leaves the source alive, so that it can be read on for the usage at its end.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")
AHEAD_MAX = 16
"""Chunks read ahead of the reader."""


class Stream(Generic[T]):
    """Iterates over `source`; `begin` is awaited before the first chunk, `note` called with each."""

    def __init__(
        self,
        source: AsyncIterable[T],
        begin: Callable[[], Awaitable[None]],
        note: Callable[[T], None],
        *,
        apart: bool,
    ) -> None:
        self.finished = False
        self.error: BaseException | None = None
        self._source: AsyncIterator[T] = aiter(source)
        self._begin: Callable[[], Awaitable[None]] | None = begin
        self._note = note
        self._apart = apart
        self._reader: asyncio.Task[None] | None = None
        self.abandoned = False
        self._chunks: asyncio.Queue[T | None] = asyncio.Queue()
        self._room = asyncio.Semaphore(AHEAD_MAX)

    @property
    def alive(self) -> bool:
        """Whether it was begun and may have more to come."""
        return self._begin is None and not self.finished and self.error is None

    def __aiter__(self) -> Stream[T]:
        return self

    async def __anext__(self) -> T:
        if self._begin is not None:
            begin, self._begin = self._begin, None
            try:
                await begin()
            except BaseException as error:
                self.error = error
                raise
        return await (self._next_apart() if self._apart else self._next())

    async def drain(self, timeout_s: float) -> None:
        """Reads the source to its end without a reader, for at most `timeout_s`."""
        self.abandoned = True
        self._room.release()
        if self._apart and self._begin is None and self._reader is None and not self.finished:
            self._reader = asyncio.create_task(self._read())
        if self._reader is not None:
            await asyncio.wait([self._reader], timeout=timeout_s)
        await self.close()

    async def close(self) -> None:
        """Lets go of the source."""
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.wait([self._reader])
        close = getattr(self._source, "aclose", None) or getattr(self._source, "close", None)
        if close is not None:
            # What the source says while it is closed changes nothing about what was delivered.
            with contextlib.suppress(Exception):
                await close()

    async def _next(self) -> T:
        try:
            chunk = await anext(self._source)
        except StopAsyncIteration:
            self.finished = True
            raise
        except BaseException as error:
            self.error = error
            raise
        self._note(chunk)
        return chunk

    async def _next_apart(self) -> T:
        if self._reader is None:
            self._reader = asyncio.create_task(self._read())
        chunk = await self._chunks.get()
        self._room.release()
        if chunk is not None:
            return chunk
        self._chunks.put_nowait(None)
        if self.error is not None:
            raise self.error
        raise StopAsyncIteration

    async def _read(self) -> None:
        try:
            async for chunk in self._source:
                self._note(chunk)
                if not self.abandoned:
                    await self._room.acquire()
                    self._chunks.put_nowait(chunk)
            self.finished = True
        except Exception as error:
            self.error = error
        finally:
            self._chunks.put_nowait(None)
