from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ct_llm.digests import file_sha256
from ct_llm.errors import InputError, StorageError
from ct_llm.evaluate.scores import read_items, read_scores, write_items, write_scores
from ct_llm.records import ItemScore, OrderedItem

IDS = [f"task/{n}/{n:016x}" for n in range(100)]


def _score(item: str, adapter: str = "champion", output: str = "yes") -> ItemScore:
    return ItemScore.model_validate(
        {
            "slice": "coding",
            "task": "task",
            "item_id": item,
            "adapter": adapter,
            "score": 0.25,
            "prompt": "Is it?",
            "output": output,
        }
    )


def test_scores_come_back_in_their_order(tmp_path: Path) -> None:
    sides = ("champion", "challenger", "anchor")
    scores = [_score(item, adapter) for item in IDS[:5] for adapter in sides]
    write_scores(tmp_path / "scores.parquet", scores)
    assert read_scores(tmp_path / "scores.parquet") == scores
    assert [path.name for path in tmp_path.iterdir()] == ["scores.parquet"]


def test_items_come_back_in_their_order(tmp_path: Path) -> None:
    items = [
        OrderedItem("coding", item, "task", "p1" if n % 2 else None) for n, item in enumerate(IDS)
    ]
    write_items(tmp_path / "items.parquet", items)
    assert read_items(tmp_path / "items.parquet") == items
    digest = file_sha256(tmp_path / "items.parquet")
    assert read_items(tmp_path / "items.parquet", digest) == items
    write_items(tmp_path / "items.parquet", items[::-1])
    with pytest.raises(InputError, match="was changed after it was evaluated"):
        read_items(tmp_path / "items.parquet", digest)


def test_no_scores_are_a_file_too(tmp_path: Path) -> None:
    write_scores(tmp_path / "scores.parquet", [])
    assert read_scores(tmp_path / "scores.parquet") == []


def test_half_a_surrogate_pair_in_an_output_is_written(tmp_path: Path) -> None:
    write_scores(tmp_path / "scores.parquet", [_score("a", output="\ud83d!")])
    assert read_scores(tmp_path / "scores.parquet")[0].output == "?!"


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"scores\.parquet"):
        write_scores(tmp_path / "file" / "scores.parquet", [])


def test_reading_says_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "scores.parquet"
    with pytest.raises(InputError, match="no such scores file"):
        read_scores(path)
    with pytest.raises(InputError, match="no such items file"):
        read_items(path)
    path.write_bytes(b"half a fi")
    with pytest.raises(InputError, match="not a readable Parquet file"):
        read_scores(path)
    pq.write_table(pa.table({"item_id": ["a"]}), path)
    with pytest.raises(InputError, match=r"expected columns slice, .* found item_id"):
        read_scores(path)
