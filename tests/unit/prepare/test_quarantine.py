import json

import pytest

from ct_llm.errors import DataError
from ct_llm.prepare.prepare import QUARANTINE_PATH
from tests.unit.prepare.dataset_on_disk import REPO, alpaca


def test_bad_rows_are_kept_with_reason_place_and_original(dataset):
    lines = [json.dumps(alpaca(n)) for n in range(20)]
    lines[3] = '{"instruction": "cut o'
    lines[7] = json.dumps(alpaca(7, answer="<|im_end|>"))
    dataset.write("chats/june.jsonl", "\n".join(lines).encode())
    data = dataset.prepare(new=["chats/june.jsonl"])
    assert data.num_quarantined == 2
    assert data.counts["quarantined:unparsable"] == 1
    place = {"repo": REPO, "path": "chats/june.jsonl"}
    assert dataset.table(data.quarantine_path) == [
        {**place, "row_index": 3, "reason": "unparsable", "original": lines[3]},
        {**place, "row_index": 7, "reason": "template_token", "original": lines[7]},
    ]


def test_too_many_bad_rows_stop_the_cycle_and_are_all_written(dataset):
    dataset.write("june.jsonl", [alpaca(n, answer="" if n < 6 else "ok") for n in range(20)])
    with pytest.raises(DataError) as error:
        dataset.prepare(new=["june.jsonl"], max_quarantine_fraction=0.25)
    told = str(error.value)
    assert error.value.exit_code == 30
    assert "6 of 20 new rows (30.0%)" in told
    assert f"empty: 6 (first: {REPO}/june.jsonl row 0; " in told
    assert "row 2)" in told
    assert len(dataset.table(QUARANTINE_PATH)) == 6


def test_the_share_itself_is_allowed(dataset):
    dataset.write("june.jsonl", [alpaca(n, answer="" if n < 5 else "ok") for n in range(20)])
    assert dataset.prepare(new=["june.jsonl"], max_quarantine_fraction=0.25).num_quarantined == 5


def test_good_earlier_rows_do_not_water_down_the_share(dataset):
    dataset.write("june.jsonl", [alpaca(n, answer="" if n < 6 else "ok") for n in range(10)])
    dataset.write("may.jsonl", [alpaca(n) for n in range(100, 300)])
    with pytest.raises(DataError, match="6 of 10"):
        dataset.prepare(new=["june.jsonl"], seen=["may.jsonl"])


def test_the_report_is_there_when_the_cycle_is_stopped(dataset):
    """Whoever has to mend the data reads it."""
    dataset.write("june.jsonl", [alpaca(n, answer="" if n < 6 else "ok") for n in range(20)])
    with pytest.raises(DataError):
        dataset.prepare(new=["june.jsonl"], max_quarantine_fraction=0.25)
    assert "empty" in (dataset.root / "cycle" / "data" / "report.txt").read_text()


def test_the_report_is_there_when_nothing_is_left(dataset):
    dataset.write("may.jsonl", [alpaca(1), alpaca(2)])
    dataset.write("june.jsonl", [alpaca(1)])
    with pytest.raises(DataError, match=r"report\.txt"):
        dataset.prepare(new=["june.jsonl"], seen=["may.jsonl"])
    assert (dataset.root / "cycle" / "data" / "report.json").is_file()


def test_answers_that_people_disliked_are_no_damage(dataset):
    def rated(number: int) -> dict[str, object]:
        said = [("user", f"Question {number}?"), ("assistant", f"Answer {number}.")]
        messages = [{"role": role, "content": content} for role, content in said]
        return {"messages": messages, "label": number % 2 == 0}

    dataset.write("kto.jsonl", [rated(number) for number in range(40)])
    data = dataset.prepare(new=["kto.jsonl"], holdout_fraction=0, max_quarantine_fraction=0.1)
    assert (data.num_train, data.counts["quarantined:dispreferred"]) == (20, 20)
