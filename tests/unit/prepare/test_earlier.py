"""Earlier rows: what is replayed, what is held against for good, and what its owner has deleted."""

from tests.unit.prepare.dataset_on_disk import BEFORE, alpaca, prompts

FABLE = (
    "the quick brown fox jumps over the lazy dog while seven wise owls look on from the oak tree"
)


def test_deleted_rows_are_known_but_neither_replayed_nor_held_against(dataset):
    dataset.write("new.jsonl", [alpaca(n) for n in range(20)])
    dataset.write("gone.jsonl", [alpaca(n) for n in range(15, 200)], revision=BEFORE)
    data = dataset.prepare(new=["new.jsonl"], removed=["gone.jsonl"], holdout_fraction=0.3)
    assert data.counts["seen_before"] == 5
    assert data.counts["earlier:deleted"] == 180
    replayed = prompts(row for row in dataset.table(data.train_path) if row["replay"])
    historic = prompts(dataset.table(data.historic_holdout_path))
    assert replayed | historic == {f"Task {n}" for n in range(15, 20)}


def test_near_copies_do_not_come_back_by_replay(dataset):
    """The cycle that read them first kept one of each pair, and held out some."""
    pairs = [
        alpaca(0, f"{FABLE} of story {n}{end}", instruction=f"Tell story {n} {FABLE}{end}")
        for n in range(100, 160)
        for end in ("", " once more")
    ]
    dataset.write("old.jsonl", pairs)
    dataset.write("new.jsonl", [alpaca(n) for n in range(20)])
    data = dataset.prepare(
        new=["new.jsonl"],
        seen=["old.jsonl"],
        holdout_fraction=0.3,
        replay={"rows_per_new_row": "all"},
    )
    again = [p for p in prompts(dataset.table(data.train_path)) if p.startswith("Tell story")]
    historic = prompts(dataset.table(data.historic_holdout_path))
    assert data.counts["earlier:near_duplicate"] > 0
    assert len({prompt.split()[2] for prompt in again}) == len(again) > 0
    assert not {p.split()[2] for p in again} & {p.split()[2] for p in historic}


def test_of_rows_that_differ_in_blanks_it_is_the_same_whatever_the_files_are_called(dataset):
    dataset.write("new.jsonl", [alpaca(n) for n in range(5)])
    texts = ("Explain  the thing\nin words", "Explain the thing in words")
    found = set()
    for names in ("ab", "ba"):
        for name, text in zip(names, texts, strict=True):
            dataset.write(f"{name}.jsonl", [alpaca(0, instruction=text)])
        data = dataset.prepare(
            new=["new.jsonl"],
            seen=["a.jsonl", "b.jsonl"],
            holdout_fraction=0.0,
            replay={"rows_per_new_row": "all"},
        )
        found.add(data.digest)
    assert len(found) == 1


def test_sources_of_one_row_each_take_turns(dataset):
    """A column of URLs as `source`: each cycle draws others, and not by the alphabet."""
    dataset.write("old.jsonl", [alpaca(n, source=f"url-{n}") for n in range(1_000, 1_400)])
    drawn = []
    for number, cycle in enumerate(("one", "two")):
        dataset.write(f"{cycle}.jsonl", [alpaca(number * 50 + n) for n in range(40)])
        data = dataset.prepare(
            new=[f"{cycle}.jsonl"], seen=["old.jsonl"], cycle=cycle, holdout_fraction=0.0
        )
        rows = {row["source"] for row in dataset.table(data.train_path, cycle) if row["replay"]}
        assert len(rows) == 40
        assert rows != {f"url-{n}" for n in range(1_000, 1_040)}
        drawn.append(rows)
    assert drawn[0] != drawn[1]
