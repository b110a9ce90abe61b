"""The append-only log of data/ledger/log.py under an event loop: who appends waits until the record is on the disk."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rewardscale.data.ledger.log import AppendLog, read_log


class GroupLog:
    """This process's file in `directory`, and the reading of all: `replay` gets each record that is there.

    Records that come while others are being flushed share the next flush. `append` belongs to one event loop at a time.

    Raises DataError for a damaged record, OSError (full disk, read-only folder).
    """

    def __init__(self, directory: Path, writer: str, replay: Callable[[Any], None]):
        self._log = AppendLog(directory, writer)
        for record in read_log(directory):
            replay(record)
        self._buffer: list[Any] = []
        self._waiting: list[asyncio.Future[None]] = []
        self._flushing: asyncio.Task[None] | None = None

    async def append(self, record: Any) -> None:
        """Writes; returns when it is durable. Written, too, if the one who waits is cancelled."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        self._buffer.append(record)
        self._waiting.append(future)
        if self._flushing is None or self._flushing.done():
            self._flushing = loop.create_task(self._flush())
        await asyncio.shield(future)

    async def _flush(self) -> None:
        loop = asyncio.get_running_loop()
        while self._buffer:
            records, self._buffer = self._buffer, []
            waiting, self._waiting = self._waiting, []
            error: Exception | None = None
            try:
                await loop.run_in_executor(None, self._write, records)
            except Exception as raised:
                error = raised
            for future in waiting:
                if future.done():
                    continue
                if error is None:
                    future.set_result(None)
                else:
                    future.set_exception(error)

    def _write(self, records: list[Any]) -> None:
        self._log.extend(records)
        self._log.sync()

    async def drained(self) -> None:
        """Returns when all that was appended is on disk."""
        if self._flushing is not None:
            await self._flushing

    def write_now(self, record: Any) -> None:
        """As `append`, outside an event loop."""
        self._write([record])

    def close(self) -> None:
        """Gives the file free, and leaves none that is empty."""
        self._log.close()
        if not self._log.records:
            self._log.path.unlink(missing_ok=True)
