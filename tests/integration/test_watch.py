"""The watch step with the real client against a real Hub: what counts as new, and what it costs."""

import io
import itertools
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence

import httpx2
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationCopy,
    CommitOperationDelete,
    HfApi,
    set_client_factory,
)
from huggingface_hub.utils._http import default_client_factory

from ct_llm.config import DatasetConfig, WatchConfig
from ct_llm.errors import (
    ConfigError,
    DataError,
    HubAccessError,
    HubNotFoundError,
    HubUnavailableError,
)
from ct_llm.hub.dataset_repo import download_file, open_dataset_file
from ct_llm.hub_server import RunningHub
from ct_llm.records import DatasetSnapshot, Lineage, SeenDataset, TriggerDecision
from ct_llm.watch.watch import watch

NOW = "2026-11-24T16:00:00Z"
NOWHERE = "f" * 40
_numbers = itertools.count()


class Wire(httpx2.BaseTransport):
    """Every request of huggingface_hub and the bytes of its answers; can play a bad proxy."""

    def __init__(self) -> None:
        self._inner = httpx2.HTTPTransport()
        self.requests: list[str] = []
        self.num_bytes = 0
        self.drops_range = False

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(f"{request.method} {request.url.raw_path.decode()}")
        if self.drops_range:
            request.headers.pop("Range", None)
        response = self._inner.handle_request(request)
        assert isinstance(response.stream, httpx2.SyncByteStream)
        response.stream = _Counted(response.stream, self)
        return response

    def close(self) -> None:
        self._inner.close()

    def reset(self) -> None:
        self.requests.clear()
        self.num_bytes = 0

    def asked(self, part: str) -> int:
        return sum(part in request for request in self.requests)


class _Counted(httpx2.SyncByteStream):
    def __init__(self, stream: httpx2.SyncByteStream, wire: Wire) -> None:
        self._stream = stream
        self._wire = wire

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._stream:
            self._wire.num_bytes += len(chunk)
            yield chunk

    def close(self) -> None:
        self._stream.close()


class Dataset:
    """A dataset repo that changes, and what champion and last attempt have used of it."""

    def __init__(self, api: HfApi, wire: Wire, *, private: bool = False, files: str = "**") -> None:
        self.api = api
        self.wire = wire
        self.repo = f"acme/chats-{next(_numbers)}"
        self.config = DatasetConfig(repo=self.repo, files=files)
        api.create_repo(self.repo, repo_type="dataset", private=private)
        self.champion: list[SeenDataset] = []
        self.attempt: list[SeenDataset] = []

    def push(self, **files: bytes) -> None:
        """`a__parquet=...` writes a.parquet."""
        self.commit(*(CommitOperationAdd(p.replace("__", "."), c) for p, c in files.items()))

    def delete(self, *paths: str) -> None:
        self.commit(*(CommitOperationDelete(path) for path in paths))

    def rename(self, old: str, new: str) -> None:
        self.commit(CommitOperationCopy(old, new), CommitOperationDelete(old))

    def commit(
        self, *operations: CommitOperationAdd | CommitOperationDelete | CommitOperationCopy
    ) -> None:
        self.api.create_commit(self.repo, operations, commit_message="change", repo_type="dataset")

    def attempted(self) -> DatasetSnapshot:
        """A cycle uses everything there is and is rejected."""
        part = self.look()
        self.attempt = [SeenDataset(repo=self.repo, revision=part.revision, num_rows=part.num_rows)]
        return part

    def promoted(self) -> DatasetSnapshot:
        part = self.attempted()
        self.champion = self.attempt
        return part

    def look(self) -> DatasetSnapshot:
        return self.decide()[1]

    def decide(self, threshold: int = 10) -> tuple[TriggerDecision, DatasetSnapshot]:
        self.wire.reset()
        decision, data = watch(
            WatchConfig(threshold_samples=threshold),
            [self.config],
            api=self.api,
            champion=lineage(self.champion) if self.champion else None,
            last_attempt=self.attempt,
            now=NOW,
        )
        [part] = data.datasets
        assert (data.num_unseen_rows, data.num_new_rows) == (
            part.num_unseen_rows,
            part.num_new_rows,
        )
        return decision, part


@pytest.fixture
def wire() -> Iterator[Wire]:
    recorder = Wire()

    def client() -> httpx2.Client:
        hooks = default_client_factory().event_hooks
        return httpx2.Client(
            transport=recorder, event_hooks=hooks, follow_redirects=True, timeout=None
        )

    set_client_factory(client)
    yield recorder
    set_client_factory(default_client_factory)


@pytest.fixture
def api(hub: RunningHub) -> HfApi:
    return HfApi(endpoint=hub.endpoint, token=hub.token)


@pytest.fixture
def dataset(api: HfApi, wire: Wire) -> Dataset:
    return Dataset(api, wire)


def lineage(seen: Sequence[SeenDataset]) -> Lineage:
    return Lineage(
        version=1,
        cycle_id="c1",
        adapter_digest="",
        base_model="acme/base",
        base_revision="",
        parent_revision=None,
        datasets=tuple(seen),
        created_at=NOW,
        ct_llm_version="0",
    )


def rows(start: int, stop: int) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table({"text": [f"row {i}" for i in range(start, stop)]}), sink)
    return sink.getvalue()


def lines(start: int, stop: int) -> bytes:
    return b"".join(json.dumps({"text": f"row {i}"}).encode() + b"\n" for i in range(start, stop))


def counts(part: DatasetSnapshot) -> tuple[int, int, int]:
    return part.num_rows, part.num_unseen_rows, part.num_new_rows


def seen_by_path(part: DatasetSnapshot) -> dict[str, bool]:
    return {file.path: file.seen for file in part.files}


# ---------------------------------------------------------------- what counts


def test_everything_is_new_to_a_champion_that_is_not_there(dataset: Dataset):
    dataset.push(
        a__parquet=rows(0, 7),
        b__jsonl=lines(7, 12),
        c__json=b'[{"text": "x"}, {"text": "y"}]',
        README__md=b"# Chats",
        dataset_infos__json=b'{"default": {}}',
    )
    decision, part = dataset.decide()
    assert counts(part) == (14, 14, 14)
    assert {file.path: file.num_rows for file in part.files} == {
        "a.parquet": 7,
        "b.jsonl": 5,
        "c.json": 2,
    }
    assert part.seen_revision is None
    assert decision.should_train
    assert decision.sentence == "training: 14 new rows (threshold 10)"


def test_appended_shards_are_new_and_only_they_are_read(dataset: Dataset):
    dataset.push(a__parquet=rows(0, 7), b__jsonl=lines(7, 12))
    dataset.promoted()
    dataset.push(c__parquet=rows(12, 15), d__jsonl=lines(15, 16))
    decision, part = dataset.decide()
    assert counts(part) == (16, 4, 4)
    assert seen_by_path(part) == {
        "a.parquet": True,
        "b.jsonl": True,
        "c.parquet": False,
        "d.jsonl": False,
    }
    assert decision.sentence == "not training: 4 of 10 new rows"
    assert not dataset.wire.asked("a.parquet") and not dataset.wire.asked("b.jsonl")


def test_renamed_and_renumbered_shards_are_not_new(dataset: Dataset):
    dataset.push(a__parquet=rows(0, 7), b__jsonl=lines(7, 12))
    dataset.promoted()
    dataset.rename("a.parquet", "data/train-00000-of-00002.parquet")
    dataset.rename("b.jsonl", "data/b.jsonl")
    part = dataset.look()
    assert counts(part) == (12, 0, 0)
    assert set(seen_by_path(part).values()) == {True}
    assert part.removed_files == () and part.notes == ()


def test_a_copy_of_a_file_adds_no_rows(dataset: Dataset):
    dataset.push(a__parquet=rows(0, 7), same__parquet=rows(0, 7))
    assert counts(dataset.promoted()) == (7, 7, 7)
    dataset.push(again__parquet=rows(0, 7))
    assert counts(dataset.look()) == (7, 0, 0)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"a__parquet": rows(0, 7)}, {"a__parquet": rows(0, 9)}),
        ({"a__jsonl": lines(0, 7)}, {"a__jsonl": lines(0, 9)}),
        ({"a__jsonl": lines(0, 7)}, {"a__parquet": rows(0, 9), "a__jsonl": b"\n"}),
    ],
    ids=["parquet", "jsonl", "converted"],
)
def test_a_file_that_grew_counts_what_was_added(
    dataset: Dataset, before: dict[str, bytes], after: dict[str, bytes]
):
    dataset.push(**before)
    dataset.promoted()
    dataset.push(**after)
    part = dataset.look()
    assert counts(part) == (9, 2, 2)
    assert [file.num_rows for file in part.removed_files] == [7]
    assert "7 rows are taken off" in part.notes[0]


def test_compacted_shards_are_not_new(dataset: Dataset):
    dataset.push(a__parquet=rows(0, 5), b__parquet=rows(5, 9), c__parquet=rows(9, 12))
    dataset.promoted()
    dataset.commit(
        CommitOperationDelete("a.parquet"),
        CommitOperationDelete("b.parquet"),
        CommitOperationDelete("c.parquet"),
        CommitOperationAdd("all.parquet", rows(0, 12)),
    )
    part = dataset.look()
    assert counts(part) == (12, 0, 0)
    assert [file.path for file in part.removed_files] == ["a.parquet", "b.parquet", "c.parquet"]


def test_deleted_rows_are_not_owed(dataset: Dataset):
    dataset.push(a__parquet=rows(0, 7), b__parquet=rows(7, 9))
    dataset.promoted()
    dataset.delete("a.parquet")
    assert counts(dataset.promoted()) == (2, 0, 0)
    dataset.push(c__parquet=rows(9, 13))
    assert counts(dataset.look()) == (6, 4, 4)


def test_all_files_deleted(dataset: Dataset):
    dataset.push(a__parquet=rows(0, 7))
    dataset.promoted()
    dataset.delete("a.parquet")
    part = dataset.look()
    assert counts(part) == (0, 0, 0)
    assert any("holds rows" in note for note in part.notes)


def test_an_empty_repo_is_no_error(dataset: Dataset):
    decision, part = dataset.decide()
    assert counts(part) == (0, 0, 0)
    assert not decision.should_train
    assert "holds rows (files: **)" in part.notes[0]


def test_only_files_of_the_glob_count(api: HfApi, wire: Wire):
    dataset = Dataset(api, wire, files="data/*")
    dataset.commit(
        CommitOperationAdd("data/a.parquet", rows(0, 3)),
        CommitOperationAdd("data/old/b.parquet", rows(3, 5)),
        CommitOperationAdd("c.parquet", b"not even parquet"),
    )
    assert counts(dataset.look()) == (3, 3, 3)


# ---------------------------------------------------------------- the last attempt


def test_rows_of_a_rejected_attempt_are_unseen_but_not_new(dataset: Dataset):
    dataset.push(a__parquet=rows(0, 7))
    dataset.promoted()
    dataset.push(b__parquet=rows(7, 19))
    assert counts(dataset.attempted()) == (19, 12, 12)
    decision, part = dataset.decide()
    assert counts(part) == (19, 12, 0)
    assert not decision.should_train
    assert "0 of 10 new rows; 12 rows of an attempt" in decision.sentence
    # A forced cycle needs to know them.
    assert seen_by_path(part) == {"a.parquet": True, "b.parquet": False}

    dataset.push(c__parquet=rows(19, 22))
    part = dataset.look()
    assert counts(part) == (22, 15, 3)
    assert seen_by_path(part) == {"a.parquet": True, "b.parquet": False, "c.parquet": False}
    assert dataset.wire.asked("c.parquet") == 1 and not dataset.wire.asked("b.parquet")


def test_a_rejected_first_attempt(dataset: Dataset):
    dataset.push(a__parquet=rows(0, 7))
    dataset.attempted()
    dataset.push(b__parquet=rows(7, 9))
    assert counts(dataset.look()) == (9, 9, 2)


def test_after_a_rollback_the_rows_wait_for_newer_ones(dataset: Dataset):
    dataset.push(a__parquet=rows(0, 7))
    dataset.promoted()
    first = dataset.champion
    dataset.push(b__parquet=rows(7, 19))
    dataset.promoted()
    dataset.champion = first
    assert counts(dataset.look()) == (19, 12, 0)


def test_an_attempt_older_than_the_champion_changes_nothing(dataset: Dataset):
    dataset.push(a__parquet=rows(0, 7))
    dataset.promoted()
    old = dataset.attempt
    dataset.push(b__parquet=rows(7, 9))
    dataset.promoted()
    dataset.attempt = old
    assert counts(dataset.look()) == (9, 0, 0)
    dataset.push(c__parquet=rows(9, 14))
    assert counts(dataset.look()) == (14, 5, 5)


def test_a_champion_without_a_ledger(dataset: Dataset):
    dataset.push(a__parquet=rows(0, 7))
    dataset.promoted()
    dataset.attempt = []
    dataset.push(b__parquet=rows(7, 9))
    assert counts(dataset.look()) == (9, 2, 2)


def test_unchanged_repos_are_listed_for_replay_when_another_changed(dataset: Dataset):
    other = Dataset(dataset.api, dataset.wire)
    for each in (dataset, other):
        each.push(a__parquet=rows(0, 7))
        each.promoted()
    other.push(b__parquet=rows(7, 9))
    _, data = watch(
        WatchConfig(),
        [dataset.config, other.config],
        api=dataset.api,
        champion=lineage([*dataset.champion, *other.champion]),
        last_attempt=(),
        now=NOW,
    )
    assert [counts(part) for part in data.datasets] == [(7, 0, 0), (9, 2, 2)]
    assert seen_by_path(data.datasets[0]) == {"a.parquet": True}
    assert (data.num_unseen_rows, data.num_new_rows) == (2, 2)


# ---------------------------------------------------------------- history that is gone


def test_squashed_history_that_the_hub_still_holds(dataset: Dataset):
    dataset.push(a__parquet=rows(0, 7))
    dataset.promoted()
    dataset.api.super_squash_history(dataset.repo, repo_type="dataset")
    dataset.push(b__parquet=rows(7, 9))
    part = dataset.look()
    assert counts(part) == (9, 2, 2)
    assert part.notes == ()


def test_history_that_is_gone(dataset: Dataset):
    dataset.push(a__parquet=rows(0, 7), b__parquet=rows(7, 9))
    dataset.champion = [SeenDataset(repo=dataset.repo, revision=NOWHERE, num_rows=7)]
    dataset.attempt = dataset.champion
    part = dataset.look()
    assert counts(part) == (9, 9, 9)
    assert part.seen_revision == NOWHERE
    assert set(seen_by_path(part).values()) == {False}
    assert [note.split(", is gone ")[0] for note in part.notes] == [
        f"revision {NOWHERE[:12]}, which {who} has used"
        for who in ("the champion", "the last attempt")
    ]


def test_a_champion_of_a_lost_revision_keeps_the_attempt(dataset: Dataset):
    dataset.push(a__parquet=rows(0, 7))
    dataset.attempted()
    dataset.champion = [SeenDataset(repo=dataset.repo, revision=NOWHERE, num_rows=5)]
    dataset.push(b__parquet=rows(7, 9))
    part = dataset.look()
    assert counts(part) == (9, 9, 2)
    assert "the champion has used, is gone" in part.notes[0]


def test_a_lost_attempt_keeps_the_champion(dataset: Dataset):
    dataset.push(a__parquet=rows(0, 7))
    dataset.promoted()
    dataset.attempt = [SeenDataset(repo=dataset.repo, revision=NOWHERE, num_rows=8)]
    dataset.push(b__parquet=rows(7, 9))
    part = dataset.look()
    assert counts(part) == (9, 2, 2)
    assert "the last attempt has used, is gone" in part.notes[0]


# ---------------------------------------------------------------- damaged files


@pytest.mark.parametrize(
    ("path", "content"),
    [("bad.parquet", rows(0, 7)[:-3]), ("bad.json", b'[{"text": ')],
)
def test_a_damaged_file_is_named(dataset: Dataset, path: str, content: bytes):
    dataset.commit(CommitOperationAdd(path, content))
    with pytest.raises(DataError) as caught:
        dataset.look()
    sha = dataset.api.dataset_info(dataset.repo).sha
    assert all(part in str(caught.value) for part in (dataset.repo, path, str(sha)))


def test_a_damaged_file_that_was_repaired_does_not_stop_the_watch(dataset: Dataset):
    dataset.push(a__parquet=rows(0, 7), b__parquet=b"nothing of parquet")
    sha = dataset.api.dataset_info(dataset.repo).sha
    assert sha is not None
    dataset.champion = [SeenDataset(repo=dataset.repo, revision=sha, num_rows=7)]
    dataset.push(b__parquet=rows(7, 9))
    part = dataset.look()
    assert counts(part) == (9, 2, 2)
    assert part.notes[0].startswith("b.parquet: used before, removed since and not readable")


# ---------------------------------------------------------------- what it costs


def test_no_news_is_one_request(dataset: Dataset):
    dataset.push(a__parquet=rows(0, 7), b__jsonl=lines(7, 12))
    dataset.promoted()
    part = dataset.look()
    assert counts(part) == (12, 0, 0)
    assert len(dataset.wire.requests) == 1


def test_no_news_since_a_rejected_attempt_is_three_requests(dataset: Dataset):
    dataset.push(a__parquet=rows(0, 7))
    dataset.promoted()
    dataset.push(**{f"shard{i}__parquet": rows(10 * i, 10 * i + 9) for i in range(12)})
    dataset.attempted()
    assert dataset.look().num_unseen_rows == 12 * 9
    assert len(dataset.wire.requests) == 3


def test_one_new_shard_is_four_requests(dataset: Dataset):
    dataset.push(**{f"shard{i}__parquet": rows(10 * i, 10 * i + 9) for i in range(12)})
    dataset.promoted()
    dataset.push(new__parquet=rows(0, 5))
    assert dataset.look().num_new_rows == 5
    assert len(dataset.wire.requests) == 4


def test_a_large_shard_is_counted_from_its_last_64_kib(dataset: Dataset):
    noise = random.Random(0).randbytes(20_000_000)
    sink = io.BytesIO()
    texts = [noise[i : i + 20_000] for i in range(0, len(noise), 20_000)]
    pq.write_table(pa.table({"text": texts}), sink)
    assert len(sink.getvalue()) > 20_000_000
    dataset.push(big__parquet=sink.getvalue())
    assert dataset.look().num_rows == 1_000
    assert 65_536 <= dataset.wire.num_bytes < 70_000


def test_a_proxy_that_ignores_ranges_is_not_read_to_the_end(dataset: Dataset):
    dataset.push(big__parquet=random.Random(0).randbytes(3_000_000))
    dataset.wire.drops_range = True
    with pytest.raises(HubUnavailableError, match="the whole file was offered"):
        dataset.look()
    assert dataset.wire.num_bytes < 1_000_000


def test_a_file_counted_is_not_downloaded_again(dataset: Dataset):
    dataset.push(a__jsonl=lines(0, 7))
    part = dataset.look()
    dataset.wire.reset()
    path = open_dataset_file(dataset.api)(dataset.repo, part.revision, "a.jsonl")
    assert path.read_bytes() == lines(0, 7)
    assert dataset.wire.requests == []


def test_no_heavy_import(dataset: Dataset, hub: RunningHub):
    dataset.push(a__parquet=rows(0, 7))
    code = f"""
import sys
from ct_llm.config import DatasetConfig, HubConfig, WatchConfig
from ct_llm.hub.client import hub_api
from ct_llm.watch.watch import watch
decision, _ = watch(
    WatchConfig(threshold_samples=7), [DatasetConfig(repo={dataset.repo!r})],
    api=hub_api(HubConfig(endpoint={hub.endpoint!r})), champion=None, last_attempt=(), now="",
)
assert decision.should_train
print(*[name for name in ("torch", "datasets", "pandas", "transformers") if name in sys.modules])
"""
    environment = {**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_TOKEN": hub.token}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.strip() == ""


# ---------------------------------------------------------------- what cannot be had


def test_a_private_repo_needs_a_token(api: HfApi, wire: Wire, hub: RunningHub):
    dataset = Dataset(api, wire, private=True)
    dataset.push(a__parquet=rows(0, 7), b__jsonl=lines(0, 3))
    assert dataset.look().num_rows == 10
    dataset.api = HfApi(endpoint=hub.endpoint, token=False)
    with pytest.raises(HubNotFoundError, match="export HF_TOKEN"):
        dataset.look()
    dataset.api = HfApi(endpoint=hub.endpoint, token="hf_wrong")
    with pytest.raises(HubAccessError):
        dataset.look()


def test_a_repo_or_branch_that_does_not_exist(dataset: Dataset):
    dataset.config = DatasetConfig(repo=dataset.repo, revision="nightly")
    with pytest.raises(HubNotFoundError, match=f"nightly.*{dataset.repo}"):
        dataset.look()
    dataset.config = DatasetConfig(repo="acme/nothing-here")
    with pytest.raises(HubNotFoundError, match="acme/nothing-here"):
        dataset.look()


def test_an_unreachable_hub(dataset: Dataset):
    dataset.api = HfApi(endpoint="http://127.0.0.1:9", token=False)
    with pytest.raises(HubUnavailableError):
        dataset.look()


def test_a_file_that_is_not_cached_while_offline(dataset: Dataset, monkeypatch: pytest.MonkeyPatch):
    dataset.push(a__jsonl=lines(0, 7))
    part = dataset.promoted()
    dataset.push(b__jsonl=lines(7, 9))
    sha = dataset.api.dataset_info(dataset.repo).sha
    assert sha is not None
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert download_file(dataset.api, dataset.repo, part.revision, "a.jsonl").is_file()
    with pytest.raises(HubUnavailableError, match="not in the cache"):
        download_file(dataset.api, dataset.repo, sha, "b.jsonl")


def test_a_repo_listed_twice(dataset: Dataset):
    with pytest.raises(ConfigError, match=r"datasets\[1\].repo: .* is listed twice"):
        watch(
            WatchConfig(),
            [dataset.config, DatasetConfig(repo=dataset.repo, files="other/**")],
            api=dataset.api,
            champion=None,
            last_attempt=(),
            now=NOW,
        )
