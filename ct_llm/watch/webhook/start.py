"""What a start is: `ct-llm run` on this machine, or a workflow on GitHub."""

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ct_llm import errors
from ct_llm.cycle_dir import read_record
from ct_llm.errors import ConfigError, InputError, RetryableError, StepFailedError
from ct_llm.records import TriggerDecision, TriggerReason
from ct_llm.watch.webhook.events import Push
from ct_llm.watch.webhook.queue import Started

MAX_LOG_BYTES = 10_000_000
GITHUB_API = "https://api.github.com"
GITHUB_SECONDS = 30.0
BUDGET_SECONDS = 3600.0
"""The decision does not tell when a budget has room again: so often it is asked for."""

OUTCOMES = {
    errors.EXIT_PROMOTED: "promoted",
    errors.EXIT_REJECTED: "rejected",
    errors.EXIT_INCONCLUSIVE: "inconclusive",
}


@dataclass(frozen=True)
class RunCycle:
    """A child process that runs one cycle to its end, its output in a log."""

    command: Sequence[str]
    env: Mapping[str, str] = field(repr=False)
    log: Path
    decision: Path
    """Where the run leaves the TriggerDecision of its look."""

    async def __call__(self, push: Push | None) -> Started:
        """Run the command. When cancelled, pass SIGTERM on to it and wait until it has ended.

        Raises StepFailedError when it may succeed later, InputError when it will not.
        """
        try:
            process = await self._begin()
        except OSError as error:
            raise StepFailedError(f"the run could not be started: {error}.") from error
        try:
            code = await process.wait()
        except asyncio.CancelledError:
            if process.returncode is None:
                process.terminate()
            await process.wait()
            raise
        if code in OUTCOMES:
            # /metrics tells of the last look, which was before this cycle: look once more. That ends by
            # itself, as every reason to train wants rows that the last attempt has not used.
            return Started(OUTCOMES[code], again_in=0.0)
        if code == errors.EXIT_NOTHING_TO_DO:
            return await asyncio.to_thread(self._nothing_to_do)
        said = f"the run ended with exit code {code}; what it said is in {self.log}."
        if code == errors.EXIT_RETRYABLE or code < 0:
            raise StepFailedError(said)
        raise InputError(said)

    def _nothing_to_do(self) -> Started:
        wait = held_seconds(read_record(self.decision, TriggerDecision))
        if wait is None:
            return Started("no reason to train")
        until = datetime.now(UTC) + timedelta(seconds=wait)
        return Started(f"held back until {until:%Y-%m-%d %H:%M:%S} UTC", again_in=wait)

    async def _begin(self) -> asyncio.subprocess.Process:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        if self.log.exists() and self.log.stat().st_size > MAX_LOG_BYTES:
            self.log.replace(self.log.with_suffix(".log.1"))
        with self.log.open("ab") as output:
            return await asyncio.create_subprocess_exec(
                *self.command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=dict(self.env),
                # Ctrl-C in a terminal goes to its whole group; the child is told by this process.
                start_new_session=True,
            )


@dataclass(frozen=True)
class DispatchWorkflow:
    """A repository_dispatch on GitHub: the workflows that wait for `event` start."""

    repo: str
    event: str
    token: str = field(repr=False)
    adapter_repo: str
    api: str = GITHUB_API

    def __post_init__(self) -> None:
        if not re.match(r"https://|http://(127\.0\.0\.1|localhost|\[::1\])[:/]", f"{self.api}/"):
            raise ConfigError(
                "GITHUB_API_URL must begin with https://, or GITHUB_TOKEN would cross the network in "
                "the clear."
            )

    async def __call__(self, push: Push | None) -> Started:
        """Raises RetryableError when GitHub may accept it later, InputError when it will not."""
        import httpx2

        pushed = {"dataset": push.repo, "ref": push.ref, "revision": push.revision} if push else {}
        try:
            async with httpx2.AsyncClient(timeout=GITHUB_SECONDS) as client:
                response = await client.post(
                    f"{self.api.rstrip('/')}/repos/{self.repo}/dispatches",
                    json={
                        "event_type": self.event,
                        "client_payload": {**pushed, "adapter_repo": self.adapter_repo},
                    },
                    headers={
                        "Authorization": f"Bearer {self.token}",
                        "Accept": "application/vnd.github+json",
                        "X-GitHub-Api-Version": "2022-11-28",
                    },
                )
        except httpx2.TransportError as error:
            raise RetryableError(f"GitHub is not reachable ({type(error).__name__}).") from error
        status = response.status_code
        if response.is_success:
            return Started(f"{self.event} dispatched to {self.repo}")
        limited = response.headers.get("x-ratelimit-remaining") == "0"
        if status in (408, 429) or status >= 500 or (status == 403 and limited):
            raise RetryableError(f"GitHub answered {status} to the dispatch.")
        raise InputError(
            f"GitHub refused the dispatch to {self.repo} ({status}). GITHUB_TOKEN needs write access "
            "to the contents of that repo, and watch.webhook.github_repo must be its present name."
        )


def held_seconds(decision: TriggerDecision) -> float | None:
    """How long brakes alone hold training back; None: something else does, or for good."""
    reasons = [rule for rule in decision.reasons if rule.kind == "reason"]
    brakes = [rule for rule in decision.reasons if rule.kind == "brake" and rule.met]
    # Where no reason can be judged, as before the first champion, new rows are one: see `decide`.
    are_unknown = all(rule.value is None for rule in reasons)
    are_new = any(dataset.num_new_rows for dataset in decision.datasets)
    is_due = any(rule.met for rule in reasons) or (are_unknown and are_new)
    waits = [_seconds_left(brake) for brake in brakes]
    known = [wait for wait in waits if wait is not None]
    return max(known) if is_due and known and len(known) == len(waits) else None


def _seconds_left(brake: TriggerReason) -> float | None:
    """None: time does not release it."""
    if brake.rule == "budget":
        return BUDGET_SECONDS
    if brake.value is None or brake.threshold is None:
        return None
    return brake.threshold - brake.value + 1  # the next look is then surely past it
