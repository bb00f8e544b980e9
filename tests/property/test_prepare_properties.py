"""prepare over any rows: order and files do not matter, sides never change, nothing vanishes."""

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ct_llm.errors import DataError
from tests.unit.prepare.dataset_on_disk import DatasetOnDisk, alpaca, prompts

# A small world, so that duplicates and shared prompts do come up.
rows = st.lists(
    st.builds(alpaca, st.integers(0, 30), st.sampled_from(["yes", "no", " yes", "no\n"])),
    min_size=1,
    max_size=40,
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
messy_rows = st.one_of(
    st.builds(alpaca, st.integers(0, 5), st.text(max_size=5)),
    st.fixed_dictionaries({"instruction": json_values, "output": json_values}),
    json_values,
)


@pytest.fixture(scope="module")
def new_dataset(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], DatasetOnDisk]:
    """A fresh one for every example: Hypothesis runs many of them in one test."""
    return lambda: DatasetOnDisk(tmp_path_factory.mktemp("dataset"))


ANCHOR = alpaca(103)
"""On the training side at every fraction used here, so that there is something to train on."""


@given(rows, st.randoms(use_true_random=False), st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_order_and_files_do_not_matter(new_dataset, some, random, num_files):
    some = [ANCHOR, *some]
    shuffled = random.sample(some, len(some))
    dataset = new_dataset()
    dataset.write("all.jsonl", some)
    parts = [
        dataset.write(f"part-{part}.jsonl", shuffled[part::num_files]) for part in range(num_files)
    ]
    one = dataset.prepare(new=["all.jsonl"], cycle="one", holdout_fraction=0.3)
    two = dataset.prepare(new=parts, cycle="two", holdout_fraction=0.3)
    assert (one.digest, one.counts) == (two.digest, two.counts)
    for path in (one.train_path, one.holdout_path):
        assert [(r["row_id"], r["messages"]) for r in dataset.table(path, "one")] == [
            (r["row_id"], r["messages"]) for r in dataset.table(path, "two")
        ]


@given(rows, rows)
@settings(max_examples=30, deadline=None)
def test_rows_never_change_sides_when_data_is_added(new_dataset, earlier, added):
    dataset = new_dataset()
    dataset.write("may.jsonl", [ANCHOR, *earlier])
    dataset.write("june.jsonl", [alpaca(103, "new"), *added])
    config = {"holdout_fraction": 0.5, "replay": {"rows_per_new_row": "all"}}
    first = dataset.prepare(new=["may.jsonl"], cycle="first", **config)
    second = dataset.prepare(new=["june.jsonl"], seen=["may.jsonl"], cycle="second", **config)
    trained = dataset.table(first.train_path, "first") + dataset.table(second.train_path, "second")
    held_out = dataset.table(first.holdout_path, "first") + dataset.table(
        second.holdout_path, "second"
    )
    assert not prompts(trained) & prompts(held_out)
    # All that was trained on before can be replayed, and nothing is taught as new twice.
    replayed = {r["row_id"] for r in dataset.table(second.train_path, "second") if r["replay"]}
    assert replayed == {r["row_id"] for r in dataset.table(first.train_path, "first")}


@given(st.lists(messy_rows, max_size=30), st.lists(messy_rows, max_size=10))
@settings(max_examples=30, deadline=None)
def test_every_row_has_one_fate(new_dataset, new, earlier):
    dataset = new_dataset()
    dataset.write("june.jsonl", [ANCHOR, *new])
    dataset.write("may.jsonl", [alpaca(1), *earlier])
    data = dataset.prepare(
        new=["june.jsonl"], seen=["may.jsonl"], row_format="alpaca", max_quarantine_fraction=1.0
    )
    assert data.rows_read == sum(data.counts.values()) == 2 + len(new) + len(earlier)
    assert min(data.counts.values()) >= 0
    assert len(dataset.table(data.quarantine_path)) == data.num_quarantined
    assert data.num_quarantined == sum(
        n for fate, n in data.counts.items() if fate.startswith("quarantined:")
    )


@given(st.binary(max_size=200), st.sampled_from(["x.json", "x.jsonl", "x.parquet"]))
@settings(max_examples=150, deadline=None)
def test_no_bytes_crash(new_dataset, data, name):
    dataset = new_dataset()
    dataset.write(name, data)
    with pytest.raises(DataError):
        dataset.prepare(new=[name])


# Long enough, and near enough to each other, that near duplicates and near prompts do come up.
FABLE = "the quick brown fox jumps over the lazy dog while seven wise owls look on from the old oak tree"
near_rows = st.lists(
    st.builds(
        lambda changed, answer, ending: alpaca(
            0,
            f"{FABLE} and so it was told {answer}{ending}",
            instruction=" ".join(
                word if place != changed else "thing" for place, word in enumerate(FABLE.split())
            )
            + f" says {answer}",
        ),
        st.integers(0, 25),
        st.sampled_from(["once", "twice", "never", "always by everybody who lived there"]),
        st.sampled_from(["", ".", " again"]),
    ),
    min_size=1,
    max_size=25,
)


@given(near_rows, st.randoms(use_true_random=False), st.integers(1, 4))
@settings(max_examples=25, deadline=None)
def test_near_duplicates_do_not_depend_on_order_and_files_either(
    new_dataset, some, random, num_files
):
    shuffled = random.sample([ANCHOR, *some], len(some) + 1)
    dataset = new_dataset()
    dataset.write("all.jsonl", [ANCHOR, *some])
    parts = [
        dataset.write(f"part-{part}.jsonl", shuffled[part::num_files]) for part in range(num_files)
    ]
    one = dataset.prepare(new=["all.jsonl"], cycle="one", holdout_fraction=0.3)
    two = dataset.prepare(new=parts, cycle="two", holdout_fraction=0.3)
    assert (one.digest, one.counts) == (two.digest, two.counts)


@given(near_rows, near_rows)
@settings(max_examples=25, deadline=None)
def test_no_row_changes_sides_when_near_ones_come(new_dataset, some, added):
    """It may be left out for one that says the same; it is never on the other side."""
    dataset = new_dataset()
    dataset.write("some.jsonl", [ANCHOR, *some])
    dataset.write("all.jsonl", [ANCHOR, *some, *added])
    few = dataset.prepare(new=["some.jsonl"], cycle="few", holdout_fraction=0.5)
    many = dataset.prepare(new=["all.jsonl"], cycle="many", holdout_fraction=0.5)

    def prompts_of(data, cycle, path):
        return prompts(dataset.table(getattr(data, path), cycle))

    for one, other in (("train_path", "holdout_path"), ("holdout_path", "train_path")):
        assert not prompts_of(few, "few", one) & prompts_of(many, "many", other)
