"""One start at a time. Whatever is pushed meanwhile makes one more start, not one each."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ct_llm.cycle_dir import read_record, write_record
from ct_llm.errors import CtError, InputError, RetryableError, StorageError
from ct_llm.records import Record
from ct_llm.watch.webhook.events import Push

MAX_REMEMBERED = 1_000
RETRY_SECONDS = (10.0, 60.0, 300.0, 1800.0)
"""Pauses after failures that may pass; the last one from then on."""


@dataclass(frozen=True)
class Started:
    said: str
    """What came of it."""
    again_in: float | None = None
    """Seconds until one more start, unless a push makes it earlier; None: only a push makes one."""


Start = Callable[[Push | None], Awaitable[Started]]
"""Starts a cycle and returns when the next one may be started. None: no push asks for it, time does.
Raises RetryableError when the same start may succeed later, another CtError when it will not."""
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
        """Begin with one start: what was pushed while no server listened, nobody tells of."""
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
        pause: float | None = 0.0
        num_failures = 0
        while True:
            await self._wanted_within(pause)
            self._wanted.clear()
            push, self.is_starting = self._waiting, True
            try:
                started = await self._start(push)
                pause, said = started.again_in, started.said
                num_failures = 0
            except RetryableError as error:
                pause = self._retry_seconds[min(num_failures, len(self._retry_seconds) - 1)]
                said = f"{error} Trying again in {pause:.0f} seconds."
                num_failures += 1
            except CtError as error:
                pause, said = None, str(error)
                num_failures = 0
            finally:
                self.is_starting = False
            self._say(f"{push.repo} is at {push.revision[:12]}: {said}" if push else said)
            is_covered = num_failures == 0 and not self._wanted.is_set()
            if is_covered and self._waiting is not None:
                self._waiting = None
                await self._write_state()

    async def _wanted_within(self, seconds: float | None) -> None:
        """Wait for a push, but no longer than that; None: however long it takes."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wanted.wait()

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
