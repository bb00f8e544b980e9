"""One start at a time. Whatever is pushed meanwhile makes one more start, not one each."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path

from ct_llm.cycle_dir import read_record, write_record
from ct_llm.errors import CtError, InputError, RetryableError, StorageError
from ct_llm.records import Record
from ct_llm.watch.webhook.events import Push

MAX_REMEMBERED = 1_000
RETRY_SECONDS = (10.0, 60.0, 300.0, 1800.0)

Start = Callable[[Push], Awaitable[str]]
"""Starts a cycle, returns when the next one may be started, and says what came of it. Raises
RetryableError when the same start may succeed later, another CtError when it will not."""
Say = Callable[[str], None]


class QueueState(Record):
    """`webhook.json` in the work folder, so that a restart neither forgets a push nor repeats one."""

    remembered: tuple[str, ...] = ()
    """Pushes that were accepted, oldest first."""
    waiting: Push | None = None
    """The newest push that no finished start has covered."""


class StartQueue:
    def __init__(
        self,
        start: Start,
        state_path: Path,
        *,
        say: Say,
        retry_seconds: Sequence[float] = RETRY_SECONDS,
    ) -> None:
        self._start = start
        self._state_path = state_path
        self._say = say
        self._retry_seconds = retry_seconds
        state = self._read_state()
        self._remembered = dict.fromkeys(state.remembered)
        self._waiting = state.waiting
        self._wanted = asyncio.Event()
        self._writing = asyncio.Lock()
        self._work: asyncio.Task[None] | None = None
        self.is_starting = False

    async def offer(self, pushes: Sequence[Push]) -> bool:
        """Take the pushes on; False when all of them were taken on before."""
        unknown = [push for push in pushes if push.key not in self._remembered]
        if not unknown:
            return False
        self._remembered.update(dict.fromkeys(push.key for push in unknown))
        while len(self._remembered) > MAX_REMEMBERED:
            del self._remembered[next(iter(self._remembered))]
        self._waiting = unknown[-1]
        self._wanted.set()
        await self._write_state()
        return True

    def open(self) -> None:
        """Begin to start what is waiting, and whatever is offered from now on."""
        if self._waiting is not None:
            self._wanted.set()
        self._work = asyncio.create_task(self._start_whatever_comes())

    async def close(self) -> None:
        """Cancel a start under way and wait until it has ended; it is then what waits."""
        if self._work is not None:
            self._work.cancel()
            with suppress(asyncio.CancelledError):
                await self._work

    @property
    def is_broken(self) -> bool:
        """Nothing will be started any more: a defect, of which `close` raises the error."""
        return self._work is not None and self._work.done()

    async def _start_whatever_comes(self) -> None:
        while True:
            await self._wanted.wait()
            if await self._start_with_patience() and not self._wanted.is_set():
                self._waiting = None
                await self._write_state()

    async def _start_with_patience(self) -> bool:
        """True when the start is done with, well or badly; False when it waits for better times."""
        for pause in (*self._retry_seconds, None):
            self._wanted.clear()
            assert self._waiting is not None
            push, self.is_starting = self._waiting, True
            try:
                self._say(f"{push.repo} is at {push.revision[:12]}: {await self._start(push)}")
                return True
            except RetryableError as error:
                again = "the next push or restart tries again" if pause is None else "trying again"
                self._say(
                    f"{error} {again} in {pause:.0f} seconds" if pause else f"{error} {again}"
                )
            except CtError as error:
                self._say(str(error))
                return True
            finally:
                self.is_starting = False
            if pause is not None:
                await asyncio.sleep(pause)
        return False

    def _read_state(self) -> QueueState:
        if not self._state_path.exists():
            return QueueState()
        try:
            return read_record(self._state_path, QueueState)
        except InputError as error:
            # Only replays are told by it, and those are harmless: it must not keep the server down.
            self._say(f"{error} Beginning a new one.")
            return QueueState()

    async def _write_state(self) -> None:
        async with self._writing:
            state = QueueState(remembered=tuple(self._remembered), waiting=self._waiting)
            try:
                await asyncio.to_thread(write_record, self._state_path, state)
            except StorageError as error:
                # The push is known in memory, so its cycle starts all the same.
                self._say(str(error))
