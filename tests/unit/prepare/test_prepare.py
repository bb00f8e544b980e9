import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ct_llm.config import DatasetConfig, PrepareConfig
from ct_llm.errors import CtError, DataError
from ct_llm.prepare.prepare import prepare
from ct_llm.records import DataSnapshot
from tests.unit.prepare.dataset_on_disk import BEFORE, NOW, REPO, alpaca, prompts


def test_every_row_has_one_fate(dataset):
    dataset.write("may.jsonl", [*(alpaca(n) for n in range(100)), alpaca(5), alpaca(6, answer="")])
    dataset.write(
        "june.jsonl",
        [
            *(alpaca(n) for n in range(90, 200)),  # 10 of them earlier
            *(alpaca(n) for n in range(150, 155)),  # again
            alpaca(300, answer=" "),
            {"instruction": "no answer"},
        ],
    )
    data = dataset.prepare(new=["june.jsonl"], seen=["may.jsonl"], holdout_fraction=0.2)
    counts = data.counts
    assert data.rows_read == sum(counts.values()) == 102 + 117
    assert counts["seen_before"] == 10
    assert counts["duplicate"] == 5
    assert counts["quarantined:empty"] == counts["quarantined:missing_field"] == 1
    assert counts["earlier:duplicate"] == counts["earlier:unusable"] == 1
    assert counts["train"] + counts["holdout"] == 100
    assert counts["replay"] + counts["earlier:not_replayed"] + counts["earlier:holdout"] == 100
    assert data.num_train == counts["train"] + counts["replay"]
    assert sum(data.counts_by_source.values()) == data.num_train


def test_the_tables_hold_what_the_record_says(dataset):
    dataset.write("june.jsonl", [alpaca(n) for n in range(200)])
    data = dataset.prepare(new=["june.jsonl"])
    train, holdout = dataset.table(data.train_path), dataset.table(data.holdout_path)
    assert (len(train), len(holdout)) == (data.num_train, data.num_holdout)
    assert prompts(train) | prompts(holdout) == {f"Task {n}" for n in range(200)}
    assert not prompts(train) & prompts(holdout)
    row = train[0]
    assert len(row["row_id"]) == 64
    assert json.loads(row["messages"])[1] == {"role": "assistant", "content": "done"}
    assert (row["repo"], row["path"], row["replay"]) == (REPO, "june.jsonl", False)
    assert f"Task {row['row_index']}" == json.loads(row["messages"])[0]["content"]


def test_answers_to_one_prompt_are_on_one_side(dataset):
    dataset.write("june.jsonl", [alpaca(n, answer=a) for n in range(50) for a in ("yes", "no")])
    data = dataset.prepare(new=["june.jsonl"], holdout_fraction=0.3)
    assert data.num_train % 2 == data.num_holdout % 2 == 0
    assert not prompts(dataset.table(data.train_path)) & prompts(dataset.table(data.holdout_path))


def test_the_same_inputs_give_the_same_bytes(dataset):
    dataset.write("june.jsonl", [alpaca(n) for n in range(200)])
    one = dataset.prepare(new=["june.jsonl"], cycle="one")
    two = dataset.prepare(new=["june.jsonl"], cycle="two")
    assert one == two
    for path in (one.train_path, one.holdout_path, one.quarantine_path):
        assert (dataset.root / "one" / path).read_bytes() == (
            dataset.root / "two" / path
        ).read_bytes()


def test_the_digest_follows_the_rows_and_their_order(dataset):
    dataset.write("june.jsonl", [alpaca(n) for n in range(50)])
    dataset.write("july.jsonl", [alpaca(n, answer="else") for n in range(50)])
    june = dataset.prepare(new=["june.jsonl"])
    assert dataset.prepare(new=["july.jsonl"]).digest != june.digest
    assert dataset.prepare(new=["june.jsonl"], replay={"seed": 1}).digest != june.digest
    assert dataset.prepare(new=["june.jsonl"], holdout_salt="x").digest != june.digest


def test_files_are_opened_at_the_revision_they_stand_in(dataset):
    dataset.write("june.jsonl", [alpaca(1), alpaca(2)])
    dataset.write("may.jsonl", [alpaca(3)])
    dataset.write("gone.jsonl", [alpaca(4)], revision=BEFORE)
    dataset.prepare(
        new=["june.jsonl"], seen=["may.jsonl"], removed=["gone.jsonl"], holdout_fraction=0
    )
    assert sorted(dataset.opened) == [
        (REPO, BEFORE, "gone.jsonl"),
        (REPO, NOW, "june.jsonl"),
        (REPO, NOW, "may.jsonl"),
    ]


@pytest.mark.parametrize("rows", [[], [alpaca(1)]])
def test_nothing_new_is_an_error_with_the_counts(dataset, rows):
    dataset.write("june.jsonl", rows)
    dataset.write("may.jsonl", [alpaca(1), alpaca(2)])
    with pytest.raises(DataError, match="seen_before 1" if rows else "none"):
        dataset.prepare(new=["june.jsonl"], seen=["may.jsonl"])


def test_an_empty_holdout_is_counted_and_no_error(dataset):
    dataset.write("june.jsonl", [alpaca(1)])
    data = dataset.prepare(new=["june.jsonl"], holdout_fraction=1e-9)
    assert data.counts["holdout"] == data.num_holdout == 0
    assert dataset.table(data.holdout_path) == []


def test_parquet_and_json_files_mix(dataset):
    dataset.write("a.jsonl", [alpaca(n) for n in range(10)])
    dataset.write("b.json", json.dumps([alpaca(n) for n in range(10, 20)]).encode())
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    made = dataset.root / "made.parquet"
    pq.write_table(pa.Table.from_pylist([{"messages": messages, "source": "chat"}]), made)
    dataset.write("c.parquet", made.read_bytes())
    data = dataset.prepare(new=["a.jsonl", "b.json", "c.parquet"], holdout_fraction=0)
    assert data.num_train == 21
    assert data.counts_by_source == {"chat": 1, REPO: 20}


def test_nothing_but_tables_and_report_is_left(dataset):
    dataset.write("june.jsonl", [alpaca(n) for n in range(20)])
    dataset.prepare(new=["june.jsonl"])
    assert sorted(p.name for p in (dataset.root / "cycle" / "data").iterdir()) == [
        "contaminated.parquet",
        "holdout.parquet",
        "holdout_historic.parquet",
        "quarantine.parquet",
        "report.json",
        "report.txt",
        "train.parquet",
    ]


def test_a_config_of_other_datasets_is_refused(dataset):
    with pytest.raises(DataError, match="Start a new cycle"):
        prepare(
            PrepareConfig(),
            DataSnapshot(datasets=(), num_unseen_rows=0, num_new_rows=0),
            datasets=[DatasetConfig(repo=REPO)],
            eval_items=(),
            renders_tools=True,
            open_file=dataset.open_file,
            cache=dataset.root / "cache",
            cycle=dataset.root,
        )


# ---------------------------------------------------------------- real data, with its natural defects


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "num_rows", "fates"),
    [
        ("llama_factory/alpaca_en_demo.json", 999, {"duplicate": 14}),
        ("llama_factory/alpaca_zh_demo.json", 1_000, {"duplicate": 8}),
        ("llama_factory/identity.json", 91, {}),
        ("llama_factory/kto_en_demo.json", 300, {"quarantined:dispreferred": 150}),
        # Looked at one by one: the same request and answer, a word or two apart.
        (
            "llama_factory/glaive_toolcall_en_demo.json",
            300,
            {"duplicate": 35, "near_duplicate": 6, "too_near_to_hold_out": 2},
        ),
        # "I am" and "I'm a language model" in one dialogue about who the model is.
        ("chat_multi_turn/fastchat_dummy_conversation.json", 500, {"near_duplicate": 163}),
        ("gsm8k_instruct/gsm_8k_train.json", 7_473, {}),
        ("gpteacher/codegen-instruct.json", 4_535, {"near_duplicate": 16}),
    ],
)
def test_real_data(dataset, real_data, path, num_rows, fates):
    dataset.write(path, (real_data / "train" / path).read_bytes())
    data = dataset.prepare(new=[path], max_quarantine_fraction=0.6)
    assert data.rows_read == num_rows
    others = {fate: n for fate, n in data.counts.items() if n and fate not in ("train", "holdout")}
    assert others == fates


@pytest.mark.parametrize(
    "path",
    [
        "llama_factory/dataset_info.json",  # no rows at all
        "chat_multi_turn/oasst_en_100_text.jsonl",  # questions without answers
    ],
)
def test_real_data_without_rows_is_refused_by_name(dataset, real_data, path):
    dataset.write(path, (real_data / "train" / path).read_bytes())
    with pytest.raises(DataError) as error:
        dataset.prepare(new=[path])
    assert path in str(error.value)


def test_no_json_of_the_test_suite_crashes(dataset, real_data):
    for file in sorted((real_data / "messy" / "json").iterdir()):
        for name in (file.name, f"{file.stem}.jsonl"):
            dataset.write(name, file.read_bytes())
            with pytest.raises(CtError) as error:
                dataset.prepare(new=[name])
            assert isinstance(error.value, DataError), name


def test_naughty_strings_are_train_holdout_or_quarantine(dataset, real_data):
    strings = json.loads((real_data / "messy" / "blns" / "blns.json").read_text())
    dataset.write("blns.jsonl", [alpaca(n, answer=text) for n, text in enumerate(strings)])
    data = dataset.prepare(new=["blns.jsonl"])
    assert data.rows_read == len(strings)
    kept = dataset.table(data.train_path) + dataset.table(data.holdout_path)
    answers = {json.loads(row["messages"])[1]["content"] for row in kept}
    bad = {json.loads(row["original"])["output"] for row in dataset.table(data.quarantine_path)}
    assert answers | bad == set(strings)
    assert "" in bad
