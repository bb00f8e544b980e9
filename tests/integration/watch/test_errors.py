"""Damaged files, and what cannot be had."""

import pytest
from huggingface_hub import CommitOperationAdd, HfApi

from ct_llm.config import DatasetConfig
from ct_llm.errors import DataError, HubAccessError, HubNotFoundError, HubUnavailableError
from ct_llm.hub_server import RunningHub
from tests.integration.watch.world import Dataset, Wire, counts, lines, rows


@pytest.mark.parametrize(
    ("path", "content"),
    [("bad.parquet", rows(0, 7)[:-3]), ("bad.json", b'[{"text": ')],
)
def test_a_damaged_file_is_named(dataset: Dataset, path: str, content: bytes):
    dataset.commit(CommitOperationAdd(path, content))
    with pytest.raises(DataError) as caught:
        dataset.part()
    sha = dataset.api.dataset_info(dataset.repo).sha
    assert sha is not None
    assert all(part in str(caught.value) for part in (dataset.repo, path, sha[:12]))


def test_a_damaged_file_that_was_repaired_does_not_stop_the_watch(dataset: Dataset):
    dataset.push(a__parquet=rows(0, 7))
    dataset.promoted()
    # As where the ledger's table is lost: the file was never counted.
    dataset.push(b__parquet=b"nothing of parquet")
    sha = dataset.api.dataset_info(dataset.repo).sha
    assert dataset.champion is not None and sha is not None
    [seen] = dataset.champion.datasets
    dataset.champion = dataset.champion._replace(
        datasets=(seen.model_copy(update={"revision": sha}),)
    )
    dataset.tables.clear()
    dataset.attempt = None
    dataset.push(b__parquet=rows(7, 9))
    part = dataset.first_look()
    assert counts(part) == (9, 2, 2)
    assert part.notes[0].startswith("b.parquet: used before, removed since and not readable")


def test_a_private_repo_needs_a_token(api: HfApi, wire: Wire, hub: RunningHub, dataset: Dataset):
    private = Dataset(api, wire, dataset.cache, private=True)
    private.push(a__parquet=rows(0, 7), b__jsonl=lines(0, 3))
    assert private.part().num_rows == 10
    private.api = HfApi(endpoint=hub.endpoint, token=False)
    with pytest.raises(HubNotFoundError, match="export HF_TOKEN"):
        private.part()
    private.api = HfApi(endpoint=hub.endpoint, token="hf_wrong")
    with pytest.raises(HubAccessError):
        private.part()


def test_a_repo_or_branch_that_does_not_exist(dataset: Dataset):
    dataset.datasets = [DatasetConfig(repo=dataset.repo, revision="nightly")]
    with pytest.raises(HubNotFoundError, match=f"nightly.*{dataset.repo}"):
        dataset.part()
    dataset.datasets = [DatasetConfig(repo="acme/nothing-here")]
    with pytest.raises(HubNotFoundError, match="acme/nothing-here"):
        dataset.part()


def test_an_unreachable_hub(dataset: Dataset):
    dataset.api = HfApi(endpoint="http://127.0.0.1:9", token=False)
    with pytest.raises(HubUnavailableError):
        dataset.part()
