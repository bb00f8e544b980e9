"""The steps of a promotion on a real Hub, through the real client, over a network that can fail."""

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import httpx2
from huggingface_hub import HfApi

from ct_llm.config import HubConfig, PromoteConfig
from ct_llm.digests import adapter_digest
from ct_llm.hub.adapter_repo import read_head
from ct_llm.hub.ledger import append_to_ledger
from ct_llm.promote.champion import used_files
from ct_llm.promote.promote import promote, summarise_cycle
from ct_llm.records import CycleSummary, PromotionRecord, Verdict
from tests.unit.promote.cycle_records import (
    decide,
    prepared,
    request,
    snapshot,
    trained,
    write_adapter,
)


class Killed(BaseException):
    """The process dies here; nothing in it may catch this."""


Fault = Callable[[str, bool], httpx2.Response | None]
"""Called with "METHOD path" before a request is sent (False) and after it arrived (True).

It may raise, or give another answer than the Hub's.
"""


@dataclass
class Network(httpx2.BaseTransport):
    """The real network, but for what `fault` breaks."""

    wire: httpx2.HTTPTransport = field(default_factory=httpx2.HTTPTransport)
    log: list[str] = field(default_factory=list)
    fault: Fault | None = None

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        line = f"{request.method} {request.url.path}"
        self.log.append(line)
        answer = self.fault(line, False) if self.fault else None
        if answer is not None:
            return answer
        response = self.wire.handle_request(request)
        response.read()
        answer = self.fault(line, True) if self.fault else None
        return answer or response

    def close(self) -> None:
        self.wire.close()


Loss = Literal["no answer", "500", "kill"]


def lose_answer(part: str, loss: Loss) -> Fault:
    """The first request with `part` in it arrives, its answer does not; nothing fails later on."""
    left = [loss]

    def fault(request: str, arrived: bool) -> httpx2.Response | None:
        if not (part in request and arrived and left):
            return None
        how = left.pop()
        if how == "kill":
            raise Killed
        if how == "no answer":
            raise httpx2.ReadError("connection lost")
        return httpx2.Response(500, request=httpx2.Request("POST", "http://hub/lost"))

    return fault


@dataclass
class World:
    folder: Path
    api: HfApi
    repo: str

    def cycle(
        self, seed: int, verdict: Verdict = "promote", cycle_id: str | None = None, **changes: Any
    ) -> Callable[[], PromotionRecord]:
        """The promote step of a cycle that began now; call it as often as a killed run would."""
        extra = changes.pop("extra", None)
        config = changes.pop("config", PromoteConfig(license="apache-2.0"))
        base_revision = changes.pop("base_revision", "b" * 40)
        adapter = write_adapter(self.folder / uuid.uuid4().hex, seed, extra=extra)
        data = snapshot(100 * seed, f"{seed:040x}")
        asked = request(read_head(self.api, self.repo), cycle_id or f"c{seed}", data)
        decision = decide(adapter_digest(adapter), verdict, **changes)
        return lambda: promote(
            config,
            api=self.api,
            hub=HubConfig(),
            request=asked,
            data=prepared(),
            snapshot=data,
            adapter=trained(adapter, base_revision=base_revision),
            adapter_folder=adapter,
            decision=decision,
        )

    def finish(
        self,
        seed: int,
        promotion: PromotionRecord,
        verdict: Verdict = "promote",
        seconds_by_step: dict[str, float] | None = None,
    ) -> CycleSummary:
        """The ledger entry of a finished cycle."""
        data = snapshot(100 * seed, f"{seed:040x}")
        asked = request(read_head(self.api, self.repo), f"c{seed}", data)
        decided, at = decide("a" * 64, verdict), f"2026-11-24T16:00:{seed:02d}Z"
        seconds = seconds_by_step or {}
        summary = summarise_cycle(asked, data, prepared(), decided, promotion, seconds, at)
        append_to_ledger(self.api, self.repo, summary, used=used_files(data))
        return summary

    def put(self, path: str, content: bytes) -> None:
        """A commit on main by somebody else."""
        self.api.upload_file(path_or_fileobj=content, path_in_repo=path, repo_id=self.repo)

    def titles(self) -> list[str]:
        return [c.title for c in reversed(self.api.list_repo_commits(self.repo))][1:]

    def reviews(self) -> list[Any]:
        return list(self.api.get_repo_discussions(self.repo))

    def files(self, revision: str = "main") -> dict[str, str]:
        """Content id of each path."""
        info = self.api.model_info(self.repo, revision=revision, files_metadata=True)
        return {f.rfilename: f.lfs.sha256 if f.lfs else str(f.blob_id) for f in info.siblings or ()}

    def read(self, path: str, revision: str = "main") -> str:
        local = self.api.hf_hub_download(self.repo, path, revision=revision)
        return Path(local).read_text(encoding="utf-8")
