"""What a look costs: requests, bytes, imports."""

import io
import os
import random
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ct_llm.config import DatasetConfig
from ct_llm.errors import HubUnavailableError
from ct_llm.hub_server import RunningHub
from ct_llm.sources.source import open_source
from ct_llm.watch.used import Use
from tests.integration.watch.world import Dataset, counts, lines, rows


def test_no_news_since_the_promotion_is_one_request(dataset: Dataset):
    dataset.push(a__parquet=rows(0, 7), b__jsonl=lines(7, 12))
    dataset.promoted()
    watched = dataset.decide()
    assert counts(watched.state.datasets[0]) == (12, 0, 0)
    assert len(dataset.wire.requests) == 1


def test_no_news_since_a_rejected_attempt_is_one_request(dataset: Dataset):
    dataset.push(a__parquet=rows(0, 7))
    dataset.promoted()
    dataset.push(**{f"shard{i}__parquet": rows(10 * i, 10 * i + 9) for i in range(1, 13)})
    dataset.rejected()
    watched = dataset.decide()
    assert counts(watched.state.datasets[0]) == (7 + 12 * 9, 12 * 9, 0)
    assert len(dataset.wire.requests) == 1


def test_no_news_since_the_last_look_is_one_request(dataset: Dataset):
    dataset.push(a__parquet=rows(0, 7))
    dataset.promoted()
    dataset.push(**{f"shard{i}__parquet": rows(100 + i, 101 + i) for i in range(4)})
    first = dataset.decide()
    assert counts(first.state.datasets[0]) == (11, 4, 4)
    dataset.state = first.state
    again = dataset.decide()
    assert again.state == first.state and again.decision == first.decision
    assert len(dataset.wire.requests) == 1
    assert dataset.decide(threshold=4).decision.should_train
    assert len(dataset.wire.requests) == 1, "that training is due needs no list either"


def test_a_state_of_another_config_or_champion_is_not_believed(dataset: Dataset):
    dataset.push(a__parquet=rows(0, 7))
    first = dataset.decide().state
    wrong = first.datasets[0].model_copy(update={"num_new_rows": 99})
    dataset.state = first.model_copy(update={"datasets": (wrong,)})
    assert dataset.decide().state.datasets == (wrong,), "the same revision: it is believed"
    dataset.datasets = [DatasetConfig(repo=dataset.repo, files="*.parquet")]
    assert dataset.decide().state.datasets == first.datasets
    dataset.datasets = [DatasetConfig(repo=dataset.repo)]
    dataset.attempt = Use("c1", ())
    assert dataset.decide().state.datasets == first.datasets


def test_one_new_shard_is_three_requests(dataset: Dataset):
    dataset.push(**{f"shard{i}__parquet": rows(10 * i, 10 * i + 9) for i in range(12)})
    dataset.promoted()
    dataset.push(new__parquet=rows(200, 205))
    assert dataset.first_look().num_new_rows == 5
    assert len(dataset.wire.requests) == 3, "head, tree, the shard's footer"


def test_shards_that_were_counted_are_not_counted_again(dataset: Dataset):
    for number in range(5):
        dataset.push(**{f"shard{number}__parquet": rows(10 * number, 10 * number + 9)})
        assert dataset.first_look().num_new_rows == 9 * (number + 1)
        assert len(dataset.wire.requests) == 3, "head, tree, the new shard's footer"


def test_a_large_shard_is_counted_from_its_last_64_kib(dataset: Dataset):
    noise = random.Random(0).randbytes(20_000_000)
    sink = io.BytesIO()
    texts = [noise[i : i + 20_000] for i in range(0, len(noise), 20_000)]
    pq.write_table(pa.table({"text": texts}), sink)
    assert len(sink.getvalue()) > 20_000_000
    dataset.push(big__parquet=sink.getvalue())
    assert dataset.part().num_rows == 1_000
    assert 65_536 <= dataset.wire.num_bytes < 70_000


def test_a_proxy_that_ignores_ranges_is_not_read_to_the_end(dataset: Dataset):
    dataset.push(big__parquet=random.Random(0).randbytes(3_000_000))
    dataset.wire.drops_range = True
    with pytest.raises(HubUnavailableError, match="the whole file was offered"):
        dataset.part()
    assert dataset.wire.num_bytes < 1_000_000


def test_a_file_counted_is_not_downloaded_again(dataset: Dataset):
    dataset.push(a__jsonl=lines(0, 7))
    part = dataset.part()
    dataset.wire.reset()
    source = open_source(dataset.datasets[0], dataset.api, dataset.cache)
    assert source.open("a.jsonl", part.revision).read_bytes() == lines(0, 7)
    assert dataset.wire.requests == []


def test_no_heavy_import(dataset: Dataset, hub: RunningHub):
    dataset.push(a__parquet=rows(0, 7))
    code = f"""
import sys
from pathlib import Path
from ct_llm.config import DatasetConfig, HubConfig, WatchConfig
from ct_llm.hub.client import hub_api
from ct_llm.sources.source import open_source
from ct_llm.watch.watch import Past, watch
api = hub_api(HubConfig(endpoint={hub.endpoint!r}))
watched = watch(
    WatchConfig(threshold_samples=7, schedule="0 3 * * 0"),
    [open_source(DatasetConfig(repo={dataset.repo!r}), api, Path({str(dataset.cache)!r}))],
    past=Past(), states=[], read_table={{}}.get, count_unseen=None, sample=None,
    cache=Path({str(dataset.cache)!r}), now="2026-11-24",
)
assert watched.decision.should_train
heavy = ("torch", "datasets", "pandas", "transformers", "sklearn", "scipy", "fsspec", "rensa")
print(*[name for name in heavy if name in sys.modules])
"""
    environment = {**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_TOKEN": hub.token}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""
