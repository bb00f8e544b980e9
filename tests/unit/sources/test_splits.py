"""Which files of a dataset hold rows to train on."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ct_llm.config import DatasetConfig
from ct_llm.errors import ConfigError
from ct_llm.sources.readme import parse_configs
from ct_llm.sources.splits import holds_rows, in_split, matches, reaches, row_paths


@pytest.mark.parametrize(
    "path",
    [
        "train.parquet",
        "data/train-00000-of-00001.parquet",
        "a/b/c.jsonl",
        "rows.ndjson",
        "rows.json",
        "ROWS.JSONL",
        "rows.csv",
        "rows.tsv",
        "rows.jsonl.gz",
        "rows.CSV.zst",
    ],
)
def test_data_anywhere_counts_by_default(path: str):
    assert holds_rows(path, "**")


@pytest.mark.parametrize(
    "path",
    [
        "README.md",
        ".gitattributes",
        "rows.xlsx",
        "rows.parquet.gz",
        "rows.zip",
        "rows.gz",
        "parquet",
        "config.json",
        "README.txt",
        "requirements.txt",
        "LICENSE.txt.gz",
        "__MACOSX/rows.jsonl",
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
        ("**/*.txt", "books/a.txt", True),
        ("books/a.txt", "books/a.txt", True),
        ("**/*.txt.gz", "books/a.txt.gz", True),
        ("books/**", "books/a.txt", False),
    ],
)
def test_the_glob_of_the_config(glob: str, path: str, matches: bool):
    assert holds_rows(path, glob) is matches


@given(
    parts=st.lists(st.sampled_from(["a", "b", "train"]), min_size=1, max_size=6),
    pattern=st.lists(st.sampled_from(["a", "*", "t*", "**"]), min_size=1, max_size=5),
)
def test_a_folder_is_reached_whenever_something_below_matches(parts: list[str], pattern: list[str]):
    path, glob = "/".join(parts), "/".join(pattern)
    if matches(path, glob):
        for depth in range(1, len(parts)):
            assert reaches("/".join(parts[:depth]), glob)


def test_no_pattern_is_slow():
    assert not matches("/".join("a" * 500), "/".join(["**", "a"] * 100 + ["b"]))


# ---------------------------------------------------------------- splits by name


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("rows.jsonl", "train"),
        ("data/part-00000-of-00002.parquet", "train"),
        ("train.csv", "train"),
        ("Training_2.csv", "train"),
        ("test.csv", "test"),
        ("data/test-00000-of-00001.parquet", "test"),
        ("my_eval2.json", "test"),
        ("evaluation/rows.json", "test"),
        ("dev.jsonl", "validation"),
        ("a/val/b.jsonl", "validation"),
        ("latest.jsonl", "train"),
        ("contest/rows.jsonl", "train"),
        ("devices.jsonl", "train"),
        ("test/train.jsonl", "train"),
        ("train/test.jsonl", "test"),
        ("test/sub/rows.jsonl", "test"),
        ("train_and_test.jsonl", "test"),
    ],
)
def test_the_split_that_a_name_says(path: str, split: str):
    assert [name for name in ("train", "validation", "test") if in_split(path, name)] == [split]
    assert in_split(path, "all")


def test_synonyms_and_splits_of_other_names():
    assert in_split("valid.jsonl", "dev") and in_split("eval/a.jsonl", "test")
    assert in_split("data/train_sft-00000-of-00002.parquet", "train_sft")
    assert not in_split("data/train_gen-00000-of-00002.parquet", "train_sft")
    assert not in_split("rows.jsonl", "train_sft")


# ---------------------------------------------------------------- splits by the README

FILES = (
    "README.md",
    "en/train.jsonl",
    "en/test.jsonl",
    "de/rows.jsonl",
    "de/held_out.jsonl",
    "notes.txt",
    "extra.csv",
)

SPLITS = """---
license: mit
configs:
- config_name: en
  data_dir: en
- config_name: de
  data_files:
  - split: train
    path: de/rows.*
  - split: validation
    path:
    - de/held_out.jsonl
---
# Chats
"""


def taken(readme: str, **dataset: str) -> list[str]:
    config = DatasetConfig(repo="acme/chats", **dataset)  # type: ignore[arg-type]
    return row_paths(FILES, config, parse_configs(readme))


def configs(*entries: str) -> str:
    return "---\nconfigs:\n" + "".join(f"- {entry}\n" for entry in entries) + "---\n"


def test_without_configs_names_decide():
    expected = ["de/held_out.jsonl", "de/rows.jsonl", "en/train.jsonl", "extra.csv"]
    assert taken("# Chats") == taken("---\nlicense: mit\n---\n") == expected


def test_each_config_and_split():
    assert taken(SPLITS, config="en") == ["en/train.jsonl"]
    assert taken(SPLITS, config="en", split="test") == ["en/test.jsonl"]
    assert taken(SPLITS, config="de") == ["de/rows.jsonl"]
    assert taken(SPLITS, config="de", split="dev") == ["de/held_out.jsonl"]
    assert taken(SPLITS, config="de", split="all") == ["de/held_out.jsonl", "de/rows.jsonl"]


def test_without_a_chosen_config_all_of_them_together():
    assert taken(SPLITS) == ["de/rows.jsonl", "en/train.jsonl"]
    assert taken(SPLITS, files="de/**") == ["de/rows.jsonl"]


def test_split_all_takes_files_that_the_readme_does_not_name():
    assert taken(SPLITS, split="all") == [path for path in sorted(FILES[1:]) if "notes" not in path]


@pytest.mark.parametrize(
    "entry",
    [
        "{config_name: default, data_files: extra.csv}",
        "{config_name: x, default: true, data_files: [extra.csv]}",
    ],
)
def test_the_default_config_is_chosen(entry: str):
    assert taken(configs("{config_name: en, data_dir: en}", entry)) == ["extra.csv"]


@pytest.mark.parametrize(
    "data_files",
    [
        "'*.csv'",
        "['extra.csv']",
        "[{split: train, path: extra.csv}]",
        "[{split: train, path: [./extra.csv]}, {split: test, path: '**'}]",
    ],
)
def test_every_form_of_data_files(data_files: str):
    assert taken(configs(f"{{config_name: a, data_files: {data_files}}}")) == ["extra.csv"]


def test_a_config_of_nothing_but_a_name_leaves_it_to_the_names():
    assert taken(configs("config_name: a")) == taken("")


def test_text_counts_where_the_readme_names_it():
    assert taken(configs("{config_name: a, data_files: '*.txt'}")) == ["notes.txt"]
    assert taken(configs("{config_name: a, data_files: '*'}")) == ["extra.csv"]
    assert taken(configs("{config_name: a, data_files: '*'}"), files="**/*.txt") == ["notes.txt"]


@pytest.mark.parametrize(
    "pattern",
    ["../../etc/passwd.csv", "/extra.csv", "https://evil.example/extra.csv", "hf://x/y.csv"],
)
def test_patterns_of_a_readme_only_select_among_the_files_there(pattern: str):
    assert taken(configs(f"{{config_name: a, data_files: '{pattern}'}}")) == []


def test_a_config_or_split_that_is_not_there_names_those_that_are():
    with pytest.raises(ConfigError, match=r"no config 'fr'\. Its README has: en, de"):
        taken(SPLITS, config="fr")
    with pytest.raises(ConfigError, match="Its README has: none"):
        taken("", config="fr")
    with pytest.raises(ConfigError, match=r"no split 'test'.* one of: train, validation"):
        taken(SPLITS, config="de", split="test")


def test_below_a_folder_names_begin_there():
    config = DatasetConfig(path="hf://datasets/acme/chats/test", files="*.jsonl")
    paths = ["test/a.jsonl", "test/test.jsonl", "test/deep/b.jsonl", "a.jsonl"]
    assert row_paths(paths, config, [], folder="test") == ["test/a.jsonl"]


@pytest.mark.parametrize(
    "front",
    [
        "configs: {}",
        "configs: [x]",
        "configs: [{data_files: a.csv}]",
        "configs: [{config_name: a, data_files: [{split: train}]}]",
        "configs: [{config_name: a, data_files: {train: a.csv}}]",
        "configs: [",
        "a: &a [1]\nb: [*a, *a]",
        "[" * 100_000,
    ],
)
def test_a_damaged_readme_is_named(front: str):
    with pytest.raises(ValueError, match=r"\S"):
        parse_configs(f"---\n{front}\n---\n")


def test_numbers_and_dates_of_a_readme_are_not_computed():
    digits = "1" * 500_000
    assert parse_configs(f"---\nsize: {digits}\nwhen: 2026-13-45\nt: {'1:' * 1000}1\n---\n") == []
