import os
import time

import pytest

from ct_llm.config import DatasetConfig
from ct_llm.digests import file_sha256
from ct_llm.errors import DataError
from ct_llm.prepare import row_cache
from ct_llm.prepare.clean.rows import CleaningRules
from ct_llm.prepare.columns import Rows
from ct_llm.prepare.for_watch import count_unseen_rows, sample_rows
from ct_llm.prepare.row_cache import UNUSED_SECONDS, read_file, remove_unused
from ct_llm.records import DataFile
from tests.unit.prepare.dataset_on_disk import NOW, REPO, alpaca

RULES = CleaningRules(max_chars=1_000)


def data_file(dataset, path: str) -> DataFile:
    content = file_sha256(dataset.root / "hub" / NOW / path)
    return DataFile(path=path, content_id=content, num_bytes=0, num_rows=None, seen=False)


def read(dataset, path: str, rules: CleaningRules = RULES, **config):
    return read_file(
        DatasetConfig(repo=REPO, **config),
        data_file(dataset, path),
        revision=NOW,
        rules=rules,
        format_key="format",
        open_file=dataset.open_file,
        cache=dataset.root / "cache",
    )


def prompts_of(file) -> list[str]:
    rows = Rows.of([file])
    return [prompt for prompt, _ in rows.parts(range(len(rows)))]


def test_a_file_is_read_once_and_comes_back_the_same(dataset):
    dataset.write("june.jsonl", [*(alpaca(n) for n in range(50)), {"instruction": "no answer"}])
    first, again = read(dataset, "june.jsonl"), read(dataset, "june.jsonl")
    assert len(dataset.opened) == 1
    assert prompts_of(first) == prompts_of(again) == [f"Task {n}" for n in range(50)]
    assert [row.reason for row in again.bad_rows()] == ["missing_field"]
    assert again.num_bad == 1


def test_the_same_content_under_another_name_is_not_read_again(dataset):
    dataset.write("june.jsonl", [alpaca(1)])
    dataset.write("renamed.jsonl", [alpaca(1)])
    assert read(dataset, "june.jsonl").rows_file == read(dataset, "renamed.jsonl").rows_file
    assert len(dataset.opened) == 1


@pytest.mark.parametrize(
    "other",
    [
        {"rules": RULES._replace(max_chars=5)},
        {"format": "alpaca"},
        {"columns": {"output": "answer"}},
        {"name": "other"},
    ],
)
def test_other_rules_read_the_file_anew(dataset, other):
    dataset.write("june.jsonl", [alpaca(1, answer_too="x")])
    one = read(dataset, "june.jsonl")
    dataset.write("june.jsonl", [alpaca(1, answer_too="x")])
    assert read(dataset, "june.jsonl", **other).rows_file != one.rows_file


def test_a_file_that_cannot_be_read_leaves_nothing_behind(dataset):
    dataset.write("broken.parquet", b"PAR1 not really PAR1")
    with pytest.raises(DataError, match=r"broken\.parquet"):
        read(dataset, "broken.parquet")
    assert list((dataset.root / "cache" / "rows").iterdir()) == []


def test_an_empty_file_has_no_rows(dataset):
    dataset.write("empty.jsonl", b"")
    file = read(dataset, "empty.jsonl")
    assert (len(Rows.of([file])), file.num_bad) == (0, 0)


def test_what_nobody_has_used_for_long_is_removed(dataset):
    dataset.write("old.jsonl", [alpaca(1)])
    dataset.write("young.jsonl", [alpaca(2)])
    old, young = read(dataset, "old.jsonl"), read(dataset, "young.jsonl")
    then = time.time() - UNUSED_SECONDS - 60
    os.utime(old.rows_file, (then, then))
    remove_unused(dataset.root / "cache")
    assert not old.rows_file.exists()
    assert not old.bad_file.exists()
    assert young.rows_file.exists()


def test_using_a_file_keeps_it(dataset):
    dataset.write("june.jsonl", [alpaca(1)])
    file = read(dataset, "june.jsonl")
    then = time.time() - UNUSED_SECONDS - 60
    os.utime(file.rows_file, (then, then))
    read(dataset, "june.jsonl")
    remove_unused(dataset.root / "cache")
    assert file.rows_file.exists()


def test_what_a_killed_process_left_is_removed(dataset):
    dataset.write("june.jsonl", [alpaca(1)])
    file = read(dataset, "june.jsonl")
    left = file.rows_file.with_name(f".{file.rows_file.name}.x1y2")
    left.write_bytes(b"half")
    os.utime(left, (0, 0))
    remove_unused(dataset.root / "cache")
    assert not left.exists()
    assert file.rows_file.exists()


@pytest.mark.parametrize("kind", ["rows_file", "bad_file"])
def test_a_damaged_file_is_made_anew(dataset, kind):
    dataset.write("june.jsonl", [alpaca(1), {"instruction": "no answer"}])
    damaged = getattr(read(dataset, "june.jsonl"), kind)
    damaged.write_bytes(damaged.read_bytes()[:40])
    again = read(dataset, "june.jsonl")
    assert (prompts_of(again), again.num_bad) == (["Task 1"], 1)


def test_a_file_that_changes_while_it_is_read_is_not_kept(dataset, monkeypatch):
    dataset.write("june.jsonl", [alpaca(1)])
    cleaned = row_cache.clean_rows

    def growing(source, rules):
        yield from cleaned(source, rules)
        with source.file.local.open("a") as file:
            file.write("{}\n")

    monkeypatch.setattr(row_cache, "clean_rows", growing)
    with pytest.raises(DataError, match="changed while it was read"):
        read(dataset, "june.jsonl")
    assert not list((dataset.root / "cache" / "rows").glob("*.arrow"))


# ---------------------------------------------------------------- what the watch step asks


def watching(dataset) -> dict:
    return {"rules": RULES, "open_file": dataset.open_file, "cache": dataset.root / "cache"}


def test_rows_are_counted_by_content(dataset):
    dataset.write("may.jsonl", [alpaca(n) for n in range(30)])
    dataset.write("compacted.jsonl", [alpaca(n % 45) for n in range(60)])
    config = DatasetConfig(repo=REPO)
    new, used = data_file(dataset, "compacted.jsonl"), data_file(dataset, "may.jsonl")
    assert count_unseen_rows(config, [new], [used], NOW, **watching(dataset)) == 15
    assert count_unseen_rows(config, [new], [], NOW, **watching(dataset)) == 45
    assert count_unseen_rows(config, [used], [new], NOW, **watching(dataset)) == 0


def test_used_files_that_are_gone_count_for_nothing(dataset):
    dataset.write("june.jsonl", [alpaca(n) for n in range(3)])
    gone = DataFile(path="gone.jsonl", content_id="x", num_bytes=0, num_rows=None, seen=True)
    found = count_unseen_rows(
        DatasetConfig(repo=REPO),
        [data_file(dataset, "june.jsonl")],
        [gone],
        NOW,
        **watching(dataset),
    )
    assert found == 3


def test_a_sample_depends_on_the_rows_alone(dataset):
    dataset.write("one.jsonl", [alpaca(n, source=f"s{n % 2}") for n in range(100)])
    dataset.write("a.jsonl", [alpaca(n, source=f"s{n % 2}") for n in reversed(range(50))])
    dataset.write("b.jsonl", [alpaca(n, source=f"s{n % 2}") for n in range(40, 100)])
    config, more = DatasetConfig(repo=REPO), watching(dataset)
    whole = [data_file(dataset, "one.jsonl")]
    parts = [data_file(dataset, path) for path in ("a.jsonl", "b.jsonl")]
    one = sample_rows(config, whole, NOW, 20, 0, **more)
    assert one == sample_rows(config, parts, NOW, 20, 0, **more)
    assert len(set(one)) == 20
    assert {row.source for row in one} == {"s0", "s1"}


def test_a_sample_opens_few_files(dataset):
    for number in range(12):
        dataset.write(f"{number}.jsonl", [alpaca(number)])
    files = [data_file(dataset, f"{number}.jsonl") for number in range(12)]
    assert len(sample_rows(DatasetConfig(repo=REPO), files, NOW, 20, 0, **watching(dataset))) == 8
    assert len(dataset.opened) == 8
