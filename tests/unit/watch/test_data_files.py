"""Which files of a dataset repo hold rows."""

import pytest

from ct_llm.hub.dataset_repo import holds_rows


@pytest.mark.parametrize(
    "path",
    [
        "train.parquet",
        "data/train-00000-of-00001.parquet",
        "a/b/c.jsonl",
        "rows.ndjson",
        "rows.json",
        "ROWS.JSONL",
    ],
)
def test_data_anywhere_counts_by_default(path: str):
    assert holds_rows(path, "**")


@pytest.mark.parametrize(
    "path",
    [
        "README.md",
        ".gitattributes",
        "rows.csv",
        "parquet",
        "dataset_infos.json",
        "en/dataset_info.json",
        "en/Dataset_Info.json",
        "en/train/state.json",
        "dataset_dict.json",
        ".cache/rows.parquet",
        "data/.rows.jsonl",
    ],
)
def test_metadata_hidden_files_and_other_endings_do_not(path: str):
    assert not holds_rows(path, "**")


@pytest.mark.parametrize(
    ("glob", "path", "matches"),
    [
        ("data/*.parquet", "data/a.parquet", True),
        ("data/*.parquet", "data/old/a.parquet", False),
        ("data/**", "data/old/a.parquet", True),
        ("data/**", "a.parquet", False),
        ("**/*.parquet", "a.parquet", True),
        ("**/*.parquet", "x/y/a.parquet", True),
        ("**/*.parquet", "x/y/a.jsonl", False),
        ("data/**/new/**/*.jsonl", "data/a/new/b.jsonl", True),
        ("train-0000[0-4]*", "train-00003-of-00009.parquet", True),
        ("train-0000[0-4]*", "train-00007-of-00009.parquet", False),
        ("./data/a.parquet", "data/a.parquet", True),
        ("**/dataset_info.json", "dataset_info.json", False),
    ],
)
def test_the_glob_of_the_config(glob: str, path: str, matches: bool):
    assert holds_rows(path, glob) is matches
