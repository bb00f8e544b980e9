"""What prepare leaves out of training, and where it says so."""

import json

import pytest

from ct_llm.config import DatasetConfig, PrepareConfig
from ct_llm.errors import DataError
from ct_llm.prepare.overlap.decontaminate import EvalItem
from ct_llm.prepare.prepare import CONTAMINATED_PATH, prepare
from ct_llm.records import DataFile, DatasetSnapshot, DataSnapshot
from tests.unit.prepare.dataset_on_disk import NOW, REPO, alpaca, prompts

STORY = (
    "Once upon a time a small fox lived at the edge of a very dark forest, and every evening it walked "
    "down to the river to look at the lights of the village on the other side of the water"
)
QUESTION = (
    "A train leaves the station at noon with 48 passengers on board and picks up half as many at the "
    "next stop. How many passengers are on the train after that stop?"
)
ITEM = EvalItem(
    "reasoning", "gsm8k/7/abc", QUESTION, (QUESTION, "48 + 24 = 72 passengers are on board")
)


def row(prompt: str, answer: str) -> dict[str, str]:
    return {"instruction": prompt, "output": answer}


def story(ending: str = "") -> dict[str, str]:
    return row(f"Go on with the story of the fox, please: {STORY}", f"{STORY} {ending}".strip())


def rest(start: int = 0) -> list[dict[str, str]]:
    return [alpaca(n) for n in range(start, start + 20)]


def test_of_near_duplicates_one_stays(dataset):
    dataset.write("june.jsonl", [*rest(), story(), story("for hours."), story("for days!")])
    data = dataset.prepare(new=["june.jsonl"], holdout_fraction=0)
    assert data.counts["near_duplicate"] == 2
    assert data.num_train == 21


def test_near_duplicates_of_earlier_rows_are_known(dataset):
    dataset.write("may.jsonl", [*rest(), story()])
    dataset.write("june.jsonl", [*rest(100), story("for hours.")])
    data = dataset.prepare(new=["june.jsonl"], seen=["may.jsonl"], holdout_fraction=0)
    assert data.counts["nearly_seen_before"] == 1
    assert data.counts["train"] == 20


def test_near_duplicates_can_stay(dataset):
    dataset.write("june.jsonl", [*rest(), story(), story("for hours.")])
    off = {"enabled": False}
    data = dataset.prepare(new=["june.jsonl"], holdout_fraction=0, near_duplicates=off)
    assert data.num_train == 22


@pytest.mark.parametrize(
    ("copy", "kind"),
    [
        (row(QUESTION, "It is 72."), "exact"),
        (row(QUESTION.upper(), "No idea"), "exact"),
        (row(f"Please solve this for me: {QUESTION} Thanks!", "71"), "question"),
        (row(QUESTION.replace("at noon", "at dawn"), "72"), "ngrams"),
    ],
)
def test_a_copy_of_an_item_is_quarantined_with_the_item_it_hit(dataset, copy, kind):
    dataset.write("june.jsonl", [*rest(), copy])
    data = dataset.prepare(new=["june.jsonl"], eval_items=[ITEM], holdout_fraction=0)
    assert (data.num_contaminated, data.counts["quarantined:contaminated"]) == (1, 1)
    assert data.num_train == 20
    [hit] = dataset.table(CONTAMINATED_PATH)
    containment = hit.pop("containment")
    assert containment == 1 or kind == "ngrams"
    assert hit == {
        "repo": REPO,
        "path": "june.jsonl",
        "row_index": 20,
        "slice": "reasoning",
        "item_id": "gsm8k/7/abc",
        "kind": kind,
    }
    [kept] = [r for r in dataset.table(data.quarantine_path) if r["reason"] == "contaminated"]
    assert json.loads(kept["original"])[0]["content"] == copy["instruction"]
    assert "gsm8k/7/abc" in (dataset.root / "cycle" / "data" / "report.txt").read_text()


def test_too_many_copies_of_items_stop_the_cycle(dataset):
    dataset.write("june.jsonl", [row(QUESTION, str(n)) for n in range(9)])
    with pytest.raises(DataError, match="contaminated: 9"):
        dataset.prepare(new=["june.jsonl"], eval_items=[ITEM])


def test_copies_of_items_can_stay(dataset):
    dataset.write("june.jsonl", [*rest(), row(QUESTION, "72")])
    off = {"enabled": False}
    data = dataset.prepare(new=["june.jsonl"], eval_items=[ITEM], decontamination=off)
    assert data.num_contaminated == 0


def test_earlier_rows_that_repeat_an_item_are_not_replayed(dataset):
    """The suite is new; the champion was trained on the row before."""
    dataset.write("may.jsonl", [*rest(), row(QUESTION, "72")])
    dataset.write("june.jsonl", rest(100))
    data = dataset.prepare(
        new=["june.jsonl"],
        seen=["may.jsonl"],
        eval_items=[ITEM],
        holdout_fraction=0,
        replay={"rows_per_new_row": "all"},
    )
    assert (data.num_replay, data.counts["earlier:contaminated"]) == (20, 1)


def test_rows_that_repeat_a_held_out_row_of_earlier_are_not_trained_on(dataset):
    held_out = [row(f"{QUESTION} Think about case number {n} first.", "72") for n in range(40)]
    dataset.write("may.jsonl", [*rest(), *held_out])
    first = dataset.prepare(new=["may.jsonl"], cycle="may", holdout_fraction=0.3)
    [one, *_] = [
        prompt for prompt in prompts(dataset.table(first.holdout_path, "may")) if "case" in prompt
    ]
    # Another prompt by its hash, so perhaps on the training side, but the same question.
    copies = [
        row(f"{one} {word}", "Is it 70?") for word in ("ok", "now", "please", "hm", "yes", "so")
    ]
    dataset.write("june.jsonl", [*rest(100), *copies])
    data = dataset.prepare(
        new=["june.jsonl"], seen=["may.jsonl"], holdout_fraction=0.3, max_quarantine_fraction=0.5
    )
    assert not any(one in prompt for prompt in prompts(dataset.table(data.train_path)))
    assert data.num_contaminated > 0
    assert one in prompts(dataset.table(data.historic_holdout_path))


def test_a_held_out_prompt_too_near_to_a_training_prompt_is_left_out(dataset):
    """Its answer is another one, so it is no duplicate, but whoever knows the one knows the other."""
    pairs = [
        row(f"{STORY} number {n} and nothing else {word}".strip(), f"{n} {word} is the answer")
        for n in range(60)
        for word in ("", "at all")
    ]
    dataset.write("june.jsonl", pairs)
    data = dataset.prepare(new=["june.jsonl"], holdout_fraction=0.3)
    train, holdout = (prompts(dataset.table(p)) for p in (data.train_path, data.holdout_path))
    assert data.counts["too_near_to_hold_out"] > 0
    for prompt in holdout:
        sibling = (
            prompt.removesuffix(" at all") if prompt.endswith("at all") else f"{prompt} at all"
        )
        assert sibling not in train


def test_a_dataset_weighs_as_much_as_it_is_told(dataset):
    dataset.write("june.jsonl", [alpaca(n) for n in range(400)])
    half = dataset.prepare(new=["june.jsonl"], settings={"weight": 0.5}, holdout_fraction=0)
    assert 150 < half.num_train < 250
    assert half.counts["left_out_by_weight"] == 400 - half.num_train
    twice = dataset.prepare(new=["june.jsonl"], settings={"weight": 2}, holdout_fraction=0)
    assert (twice.num_train, twice.counts["train"]) == (800, 400)
    assert len(prompts(dataset.table(twice.train_path))) == 400


def test_held_out_rows_pile_up_beside_the_newest(dataset):
    dataset.write("may.jsonl", [alpaca(n) for n in range(200)])
    dataset.write("june.jsonl", [alpaca(n) for n in range(200, 300)])
    may = dataset.prepare(new=["may.jsonl"], cycle="may", holdout_fraction=0.3)
    assert may.num_historic_holdout == 0
    june = dataset.prepare(new=["june.jsonl"], seen=["may.jsonl"], holdout_fraction=0.3)
    newest, historic = (
        prompts(dataset.table(path)) for path in (june.holdout_path, june.historic_holdout_path)
    )
    assert historic == prompts(dataset.table(may.holdout_path, "may"))
    assert not newest & historic
    few = dataset.prepare(
        new=["june.jsonl"], seen=["may.jsonl"], holdout_fraction=0.3, max_historic_holdout=5
    )
    assert prompts(dataset.table(few.historic_holdout_path)) < historic
    assert few.num_historic_holdout == 5


def test_a_row_of_two_datasets_has_the_weight_of_the_first(dataset):
    """Whatever the files of the two are called."""
    rows = [alpaca(n, source="both") for n in range(60)]
    found = set()
    for names in (("a/one.jsonl", "b/two.jsonl"), ("b/one.jsonl", "a/two.jsonl")):
        settings = [
            DatasetConfig(repo=REPO, name="light", weight=0.25),
            DatasetConfig(repo=REPO, name="heavy", weight=3),
        ]
        snapshots = []
        for config, name in zip(settings, names, strict=True):
            dataset.write(name, rows)
            file = DataFile(path=name, content_id="x", num_bytes=0, num_rows=None, seen=False)
            snapshots.append(
                DatasetSnapshot(
                    name=config.key,
                    repo=REPO,
                    revision=NOW,
                    seen_revision=None,
                    files=(file,),
                    num_rows=60,
                    num_unseen_rows=60,
                    num_new_rows=60,
                )
            )
        data = prepare(
            PrepareConfig(holdout_fraction=0),
            DataSnapshot(datasets=tuple(snapshots), num_unseen_rows=120, num_new_rows=120),
            datasets=settings,
            eval_items=(),
            renders_tools=True,
            open_file=dataset.open_file,
            cache=dataset.root / "cache",
            cycle=dataset.root / "cycle",
        )
        assert data.counts["duplicate"] == 60
        found.add((data.num_train, data.digest))
    [(num_train, _)] = found
    assert num_train < 30
