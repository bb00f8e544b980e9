"""Every file of instruction data that is at hand, as it is in the wild, to the last row."""

import json
from collections import Counter
from pathlib import Path

import pytest

from ct_llm.errors import DataError
from ct_llm.prepare.clean.files import SourceFile
from ct_llm.prepare.clean.rows import CleaningRules, CleanRow, DataSource, RejectedRow, clean_rows

pytestmark = pytest.mark.slow

FILES = {
    "chat_multi_turn/fastchat_dummy_conversation.json": {"clean": 500},
    "chat_multi_turn/oasst_en_100_message.jsonl": {"clean": 100},
    "chat_multi_turn/oasst_en_100_tree.jsonl": {"clean": 100},
    # Bare questions without answers: those of 200 characters and more can be cut in two like any
    # text. That most cannot stops a cycle (prepare.max_quarantine_fraction).
    "chat_multi_turn/oasst_en_100_text.jsonl": {"clean": 19, "too_short": 81},
    "chat_multi_turn/oasst_prompt_lottery_en_250_text.jsonl": {"clean": 35, "too_short": 215},
    "chat_multi_turn/taskmaster4_data_00.json": {"clean": 500},
    "gpteacher/codegen-instruct.json": {"clean": 4_535},
    "gpteacher/roleplay-instruct.json": {"clean": 1_923},
    "gpteacher/toolformer-similarity-0.6.json": {"clean": 2_396},
    "gsm8k_instruct/gsm_8k_train.json": {"clean": 7_473},
    "llama_factory/alpaca_en_demo.json": {"clean": 999},
    "llama_factory/alpaca_zh_demo.json": {"clean": 1_000},
    "llama_factory/c4_demo.jsonl": {"clean": 287, "too_short": 13},
    # A form feed, and the remains of Windows-1252 quotes.
    "llama_factory/dpo_en_demo.json": {"clean": 298, "control_character": 2},
    "llama_factory/glaive_toolcall_en_demo.json": {"clean": 300},
    "llama_factory/identity.json": {"clean": 91},
    "llama_factory/kto_en_demo.json": {"clean": 150, "dispreferred": 150},
    "llama_factory/reason_tool_use_demo_50.jsonl": {"clean": 50},
    "llama_factory/v1_dpo_demo.jsonl": {"clean": 10},
    "llama_factory/v1_sft_demo.jsonl": {"clean": 500},
    "llama_factory/wiki_demo.txt": {"clean": 30},
    "self_instruct/seed_tasks.jsonl": {"clean": 175},
}
NO_ROWS = "llama_factory/dataset_info.json"
"""A description of the files beside it."""


def read(root: Path, path: str) -> list[CleanRow | RejectedRow]:
    source = DataSource(SourceFile("real", path, root / path), "auto", "datasets[0].format", "real")
    return list(clean_rows(source, CleaningRules(max_chars=200_000)))


@pytest.mark.parametrize("path", FILES)
def test_every_row_is_clean_or_says_why(real_data, path):
    found = read(real_data / "train", path)
    assert FILES[path] == Counter(
        "clean" if isinstance(row, CleanRow) else row.reason for row in found
    )
    places = [row.row.row_index if isinstance(row, CleanRow) else row.row_index for row in found]
    assert places == sorted(set(places))


def test_no_file_was_forgotten(real_data):
    root = real_data / "train"
    files = {str(file.relative_to(root)) for file in root.rglob("*") if file.is_file()}
    assert files == {*FILES, NO_ROWS}
    with pytest.raises(DataError, match=r"dataset_info\.json: no known format"):
        read(root, NO_ROWS)


@pytest.mark.parametrize(
    ("path", "num_with_calls", "num_with_tools"),
    [
        ("llama_factory/glaive_toolcall_en_demo.json", 153, 191),
        ("llama_factory/reason_tool_use_demo_50.jsonl", 31, 48),
    ],
)
def test_calls_and_tools_are_kept(real_data, path, num_with_calls, num_with_tools):
    rows = [found.row for found in read(real_data / "train", path) if isinstance(found, CleanRow)]
    assert sum(row.tools is not None for row in rows) == num_with_tools
    assert sum('"tool_calls":' in row.messages for row in rows) == num_with_calls
    for row in rows:
        messages = json.loads(row.messages)
        calls = [call for message in messages for call in message.get("tool_calls", ())]
        named = {tool["function"]["name"] for tool in json.loads(row.tools or "[]")}
        assert {call["function"]["name"] for call in calls} <= named
        answered = [m["tool_call_id"] for m in messages if m["role"] == "tool"]
        assert len(answered) == len(set(answered))
        assert set(answered) <= {call["id"] for call in calls}


def test_the_trees_and_their_first_messages_give_the_same_conversations(real_data):
    trees, messages = (
        read(real_data / "train", f"chat_multi_turn/oasst_en_100_{kind}.jsonl")
        for kind in ("tree", "message")
    )
    assert {row.id for row in trees if isinstance(row, CleanRow)} == {
        row.id for row in messages if isinstance(row, CleanRow)
    }


def test_one_answer_of_a_pair_is_trained_on(real_data):
    path = "llama_factory/dpo_en_demo.json"
    pairs = json.loads((real_data / "train" / path).read_text(encoding="utf-8"))
    for found in read(real_data / "train", path):
        if isinstance(found, CleanRow):
            pair = pairs[found.row.row_index]
            messages = json.loads(found.row.messages)
            assert messages[-1]["content"] == pair["chosen"]["value"]
            assert [m["content"] for m in messages[:-1]] == [
                turn["value"] for turn in pair["conversations"]
            ]
