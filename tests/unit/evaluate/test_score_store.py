"""Known scores on this disk: kept, merged, and missing rather than wrong."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ct_llm.evaluate.score_store import KnownScore, LocalScores, adapter_key, item_key
from ct_llm.hub.score_files import keys_of_score_file, parse_score_file, score_file

ADAPTER, CONTEXT = "a" * 64, "c" * 64
SCORES = {
    item_key("sums/0/0123", "f" * 64): KnownScore(1.0, "4"),
    item_key("sums/1/4567", "e" * 64): KnownScore(0.1 + 0.2, "line one\nline two \N{SNOWMAN}"),
}


@pytest.fixture
def store(tmp_path: Path) -> LocalScores:
    return LocalScores(tmp_path / "scores")


def test_what_is_written_is_read_bit_for_bit(store: LocalScores) -> None:
    assert store.read(ADAPTER, CONTEXT) == {}
    store.write(ADAPTER, CONTEXT, SCORES)
    assert store.read(ADAPTER, CONTEXT) == SCORES
    assert store.path(ADAPTER, CONTEXT) == store.folder / ADAPTER / f"{CONTEXT}.parquet"


def test_other_adapters_and_contexts_know_nothing(store: LocalScores) -> None:
    store.write(ADAPTER, CONTEXT, SCORES)
    assert store.read("b" * 64, CONTEXT) == {}
    assert store.read(ADAPTER, "d" * 64) == {}


def test_a_batch_is_added_to_what_is_there(store: LocalScores) -> None:
    (first, one), (second, two) = SCORES.items()
    store.write(ADAPTER, CONTEXT, {first: one})
    store.write(ADAPTER, CONTEXT, {second: two})
    assert store.read(ADAPTER, CONTEXT) == SCORES
    again = KnownScore(0.0, "5")
    store.write(ADAPTER, CONTEXT, {first: again})
    assert store.read(ADAPTER, CONTEXT) == {first: again, second: two}


def test_nothing_new_writes_nothing(store: LocalScores) -> None:
    store.write(ADAPTER, CONTEXT, {})
    assert not store.folder.exists()
    store.write(ADAPTER, CONTEXT, SCORES)
    before = store.path(ADAPTER, CONTEXT).stat().st_ino
    store.write(ADAPTER, CONTEXT, SCORES)
    assert store.path(ADAPTER, CONTEXT).stat().st_ino == before


def test_the_base_model_has_a_key_of_its_own(store: LocalScores) -> None:
    base = adapter_key(None, "r" * 40)
    assert base == "base:" + "r" * 40 and adapter_key(ADAPTER, "r" * 40) == ADAPTER
    store.write(base, CONTEXT, SCORES)
    assert store.read_all(base) == {CONTEXT: SCORES}
    assert ":" not in store.path(base, CONTEXT).as_posix()


def test_all_of_an_adapter_by_context(store: LocalScores) -> None:
    store.write(ADAPTER, CONTEXT, SCORES)
    store.write(ADAPTER, "d" * 64, dict([*SCORES.items()][:1]))
    store.write("b" * 64, CONTEXT, SCORES)
    (store.folder / ADAPTER / "notes.parquet").write_bytes(b"PAR1 it is not")
    assert store.read_all(ADAPTER) == {CONTEXT: SCORES, "d" * 64: dict([*SCORES.items()][:1])}
    assert store.read_all("0" * 64) == {}


def test_half_a_character_does_not_stop_a_write(store: LocalScores) -> None:
    store.write(ADAPTER, CONTEXT, {"k": KnownScore(1.0, "half \ud83d")})
    assert store.read(ADAPTER, CONTEXT) == {"k": KnownScore(1.0, "half ?")}


def test_half_a_character_in_a_name_is_found_again(store: LocalScores) -> None:
    half, whole = item_key("half \ud83d/0/1", "f" * 64), item_key("\N{SNOWMAN}/0/1", "f" * 64)
    scores = {half: KnownScore(1.0, "a"), whole: KnownScore(0.0, "b")}
    store.write(ADAPTER, CONTEXT, scores)
    assert store.read(ADAPTER, CONTEXT) == scores
    # Whoever made the key without item_key: no key is better than no file.
    raw = score_file(ADAPTER, CONTEXT, {"half \ud83d": KnownScore(1.0, ""), **SCORES})
    found = parse_score_file(raw, ADAPTER, CONTEXT)
    assert found is not None and found == {"half ?": KnownScore(1.0, ""), **SCORES}
    assert score_file(ADAPTER, CONTEXT, found) == raw


def test_the_same_scores_are_the_same_bytes() -> None:
    shuffled = dict(reversed(SCORES.items()))
    assert score_file(ADAPTER, CONTEXT, SCORES) == score_file(ADAPTER, CONTEXT, shuffled)


def test_a_file_cut_anywhere_is_a_missing_one() -> None:
    whole = score_file(ADAPTER, CONTEXT, SCORES)
    assert all(parse_score_file(whole[:end], ADAPTER, CONTEXT) is None for end in range(len(whole)))


def test_a_byte_that_changed_is_seen() -> None:
    whole = score_file(ADAPTER, CONTEXT, SCORES)
    for position in range(len(whole)):
        changed = bytearray(whole)
        changed[position] ^= 0x10
        found = parse_score_file(bytes(changed), ADAPTER, CONTEXT)
        assert found is None or found == SCORES, f"byte {position} gave other scores"


def test_a_moved_file_says_whose_it_is(store: LocalScores) -> None:
    store.write(ADAPTER, CONTEXT, SCORES)
    moved = store.path("b" * 64, CONTEXT)
    moved.parent.mkdir(parents=True)
    store.path(ADAPTER, CONTEXT).rename(moved)
    assert store.read("b" * 64, CONTEXT) == {}
    assert keys_of_score_file(moved) == (ADAPTER, CONTEXT)
    store.write("b" * 64, CONTEXT, SCORES)
    assert store.read("b" * 64, CONTEXT) == SCORES, "written anew"


@pytest.mark.parametrize(
    "columns",
    [
        {"key": ["k"], "score": [1.0]},
        {"key": ["k"], "score": [None], "output": ["x"]},
        {"key": ["k"], "score": ["1"], "output": ["x"]},
        {"key": [None], "score": [1.0], "output": ["x"]},
        {"key": [["k"]], "score": [1.0], "output": ["x"]},
        {"key": [{"k": 1}], "score": [1.0], "output": ["x"]},
        {"key": [b"k"], "score": [1.0], "output": ["x"]},
        {"key": ["k"], "score": [[1.0]], "output": ["x"]},
        {"key": ["k"], "score": [1], "output": ["x"]},
        {"key": ["k"], "score": [1.0], "output": [{"x": "y"}]},
        {"key": ["k"], "score": [1.0], "output": ["x"], "more": ["y"]},
    ],
)
def test_other_columns_are_no_scores(tmp_path: Path, columns: dict[str, list[object]]) -> None:
    table = pa.table(columns).replace_schema_metadata(
        {"ct_llm.adapter": ADAPTER, "ct_llm.context": CONTEXT}
    )
    pq.write_table(table, tmp_path / "odd.parquet")
    assert parse_score_file((tmp_path / "odd.parquet").read_bytes(), ADAPTER, CONTEXT) is None


@pytest.mark.parametrize("score", [float("nan"), float("inf"), float("-inf")])
def test_a_score_that_is_no_number_is_damage(store: LocalScores, score: float) -> None:
    content = score_file(ADAPTER, CONTEXT, {**SCORES, "k": KnownScore(score, "x")})
    assert parse_score_file(content, ADAPTER, CONTEXT) is None
    store.path(ADAPTER, CONTEXT).parent.mkdir(parents=True)
    store.path(ADAPTER, CONTEXT).write_bytes(content)
    store.write(ADAPTER, CONTEXT, SCORES)
    assert store.read(ADAPTER, CONTEXT) == SCORES, "written anew"
