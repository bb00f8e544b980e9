import itertools
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ct_llm.errors import InputError, StorageError
from ct_llm.evaluate.scores import random_order, read_scores, write_scores
from ct_llm.records import ItemScore

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


def test_order_is_a_permutation_of_the_items() -> None:
    order = random_order(IDS, order_seed=0, slice_name="coding")
    assert sorted(order) == sorted(IDS)
    assert order != IDS


def test_order_depends_on_seed_slice_and_set_but_not_on_arrival() -> None:
    order = random_order(IDS, order_seed=0, slice_name="coding")
    assert random_order(IDS[::-1], order_seed=0, slice_name="coding") == order
    assert random_order(IDS, order_seed=1, slice_name="coding") != order
    assert random_order(IDS, order_seed=0, slice_name="chat") != order
    fewer = random_order(IDS[:-1], order_seed=0, slice_name="coding")
    assert fewer != [item for item in order if item != IDS[-1]]


def test_every_order_of_three_items_comes_up() -> None:
    seen = {
        tuple(random_order(IDS[:3], order_seed=seed, slice_name="coding")) for seed in range(100)
    }
    assert seen == set(itertools.permutations(IDS[:3]))


def test_scores_come_back_in_their_order(tmp_path: Path) -> None:
    scores = [_score(item, adapter) for item in IDS[:5] for adapter in ("champion", "challenger")]
    write_scores(tmp_path / "scores.parquet", scores)
    assert read_scores(tmp_path / "scores.parquet") == scores
    assert [path.name for path in tmp_path.iterdir()] == ["scores.parquet"]


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
    path.write_bytes(b"half a fi")
    with pytest.raises(InputError, match="not a readable Parquet file"):
        read_scores(path)
    pq.write_table(pa.table({"item_id": ["a"]}), path)
    with pytest.raises(InputError, match=r"expected columns slice, .* found item_id"):
        read_scores(path)
