"""Tool calls in training and evaluation, through a template of a model that has them (Qwen 2.5)."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import trl
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from ct_llm.config import BaseModelConfig, LaunchConfig, LoraConfig, TrainConfig
from ct_llm.cycle_dir import read_record, write_record
from ct_llm.errors import DataError, InputError
from ct_llm.evaluate.tasks.holdout_task import read_holdout, renderer, split_response
from ct_llm.hub.client import BaseModelFolder
from ct_llm.prepare.clean.files import SourceFile
from ct_llm.prepare.clean.rows import CleaningRules, CleanRow, DataSource, clean_rows
from ct_llm.records import PreparedData
from ct_llm.train import sft
from ct_llm.train.conversations import IGNORED, tokenised_conversations
from ct_llm.train.request import TrainFolder
from ct_llm.train.train import build_request
from scripts.demo_world.world import BASE

pytestmark = pytest.mark.e2e
TEMPLATES = Path(trl.__file__).parent / "chat_templates"
TEMPLATE = (TEMPLATES / "qwen2_5_training.jinja").read_text(encoding="utf-8")
WITHOUT_CALLS = (
    "{% for m in messages %}{{ m.role }}: {% generation %}{{ m.content }}{{ eos_token }}"
    "{% endgeneration %}{% endfor %}"
)

CALLS_UNMARKED = "{% for m in messages %}{{ m.tool_calls }}{% endfor %}" + WITHOUT_CALLS
SHORT = """{% for m in messages %}{% if m.role == "assistant" %}{% generation %}{{ m.content }}
{%- for call in m.tool_calls %}{{ call.function.name }}{{ call.function.arguments | tojson }}
{%- endfor %}{{ eos_token }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}"""
"""For a model whose context is 256 tokens."""


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    """A byte-level one, so that every text comes back as it went in."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE(vocab={c: n for n, c in enumerate(alphabet)}, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    raw.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<|im_end|>")
    tokenizer.add_tokens(["<|im_start|>"], special_tokens=True)
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def call(name: str, **arguments: Any) -> dict[str, Any]:
    return {
        "id": "call00000",
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


def tool(name: str, **properties: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


WEATHER: list[dict[str, Any]] = [
    {"role": "user", "content": "Weather in Oslo?"},
    {"role": "assistant", "content": "", "tool_calls": [call("weather", city="Oslo", exact=1e-12)]},
    {"role": "tool", "content": "Snow", "name": "weather", "tool_call_id": "call00000"},
    {"role": "assistant", "content": "It snows."},
]
SUM: list[dict[str, Any]] = [
    {"role": "user", "content": "Add them."},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [call("add", numbers=[1, 2**70], city=None)],
    },
]
PLAIN: list[dict[str, Any]] = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello"},
]
TOOLS = [tool("weather", city={"type": "string"}), tool("add", numbers={"type": "array"})]


def write(path: Path, *rows: tuple[list[dict[str, Any]], list[dict[str, Any]] | None]) -> Path:
    columns = {
        "row_id": [f"row{n}" for n in range(len(rows))],
        "messages": [json.dumps(messages) for messages, _ in rows],
        "tools": pa.array([tools and json.dumps(tools) for _, tools in rows], pa.string()),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return path


def tokenised(path: Path, tokenizer: PreTrainedTokenizerBase) -> list[Any]:
    return list(tokenised_conversations(path, tokenizer))


def learned(tokenizer: PreTrainedTokenizerBase, row: dict[str, list[int]]) -> str:
    pairs = zip(row["input_ids"], row["labels"], strict=True)
    assert all(label in (IGNORED, token) for token, label in pairs)
    return str(tokenizer.decode([label for label in row["labels"] if label != IGNORED]))


def test_calls_are_learned_and_nothing_but_the_assistants_words(tmp_path, tokenizer):
    rows = tokenised(
        write(tmp_path / "a.parquet", (WEATHER, TOOLS), (SUM, TOOLS[1:]), (PLAIN, None)), tokenizer
    )
    weather, added, plain = rows
    # Arguments of one tool do not turn up in the calls of another, and numbers keep their digits.
    assert learned(tokenizer, weather) == (
        '\n<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo", "exact": 1e-12}}\n'
        "</tool_call><|im_end|>\n\nIt snows.<|im_end|>\n"
    )
    assert learned(tokenizer, added) == (
        '\n<tool_call>\n{"name": "add", "arguments": {"numbers": [1, 1180591620717411303424], '
        '"city": null}}\n</tool_call><|im_end|>\n'
    )
    assert learned(tokenizer, plain) == "\nHello<|im_end|>\n"
    for row, tools in ((weather, TOOLS), (added, TOOLS[1:]), (plain, [])):
        text = str(tokenizer.decode(row["input_ids"]))
        assert text.count('{"type": "function"') == len(tools)
        assert all(json.dumps(tool) in text for tool in tools)
    assert "<tool_response>\nSnow\n</tool_response>" in str(tokenizer.decode(weather["input_ids"]))


def test_real_tool_calls_are_learned(tmp_path, tokenizer, real_data):
    path = real_data / "train" / "llama_factory" / "glaive_toolcall_en_demo.json"
    source = DataSource(SourceFile("real", path.name, path), "auto", "format", "real")
    found = [
        row.row
        for row in clean_rows(source, CleaningRules(200_000))
        if isinstance(row, CleanRow) and "tool_calls" in row.row.messages
    ][:20]
    rows = [(json.loads(row.messages), json.loads(row.tools or "null")) for row in found]
    for (messages, _), row in zip(
        rows, tokenised(write(tmp_path / "a.parquet", *rows), tokenizer), strict=True
    ):
        text = learned(tokenizer, row)
        for message in messages:
            for each in message.get("tool_calls", ()):
                arguments = json.dumps(each["function"]["arguments"], ensure_ascii=False)
                assert f'"arguments": {arguments}}}' in text
            if message["role"] in ("user", "tool"):
                assert f"\n{message['content']}<|im_end|>" not in text


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (WITHOUT_CALLS, "does not render tool calls"),
        (CALLS_UNMARKED, "leaves tool calls out of"),
        ("{{ raise_exception('no tools here') }}", r"refuses tool calls \(no tools here\)"),
        ("{{ messages[1].tool_calls[0].function.arguments + '' }}", "refuses tool calls"),
    ],
)
def test_a_template_that_loses_calls_is_an_input_error(tmp_path, tokenizer, template, said):
    path = write(tmp_path / "a.parquet", (WEATHER, TOOLS))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenizer, "chat_template", template)
        with pytest.raises(InputError, match=said):
            tokenised(path, tokenizer)


def test_rows_without_calls_need_no_template_for_them(tmp_path, tokenizer):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenizer, "chat_template", WITHOUT_CALLS)
        assert len(tokenised(write(tmp_path / "a.parquet", (PLAIN, TOOLS)), tokenizer))


def test_a_row_that_the_template_refuses_is_named(tmp_path, tokenizer):
    path = write(tmp_path / "a.parquet", (PLAIN, None), ([*PLAIN, *PLAIN], None))
    refusing = "{% if messages|length > 2 %}{{ raise_exception('too many') }}{% endif %}" + TEMPLATE
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenizer, "chat_template", refusing)
        with pytest.raises(InputError, match=r"row 1: the chat template refuses .* too many"):
            tokenised(path, tokenizer)


def test_tools_that_are_no_json_name_their_row(tmp_path, tokenizer):
    table = pa.table({"messages": [json.dumps(PLAIN)], "tools": ["[{"]})
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(DataError, match="row 0 is not a conversation"):
        tokenised(tmp_path / "a.parquet", tokenizer)


def test_the_trainer_learns_the_same_tokens(tmp_path):
    """From the table through the request to a batch, with a model and a tokenizer of its own."""
    cycle = tmp_path / "cycle"
    write(cycle / "data" / "train.parquet", (WEATHER, TOOLS), (SUM, TOOLS[1:]))
    template = tmp_path / "template.jinja"
    template.write_text(SHORT)
    numbers = dict.fromkeys((name for name in PreparedData.model_fields if "num_" in name), 0)
    paths = {name: "data/train.parquet" for name in PreparedData.model_fields if "_path" in name}
    others: dict[str, Any] = {
        "rows_read": 2,
        "counts": {},
        "counts_by_source": {},
        "digest": "d" * 64,
    }
    request = build_request(
        TrainConfig(lora=LoraConfig(r=2), batch_size=2, micro_batch_size=2, max_length=4_096),
        PreparedData.model_validate({**numbers, **paths, **others, "num_train": 2}),
        base=BaseModelFolder(BASE, "team/base", "0" * 40),
        base_config=BaseModelConfig(repo="team/base", chat_template=template),
        launch=LaunchConfig(),
        cycle=cycle,
        champion_folder=None,
    )
    folder = TrainFolder(cycle)
    write_record(folder.request, request.model_copy(update={"num_processes": 1}))
    trainer = sft.build_trainer(read_record(folder.request, sft.TrainRequest), folder)
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    tokenizer.chat_template = template.read_text()
    direct = tokenised(cycle / "data" / "train.parquet", tokenizer)
    rows: Any = trainer.train_dataset
    assert [row["labels"] for row in rows] == [row["labels"] for row in direct]
    assert "weather" in learned(tokenizer, rows[0])
    assert "Snow" not in learned(tokenizer, rows[0])


# ---------------------------------------------------------------- evaluation


def test_held_out_calls_are_scored_as_rendered_with_their_tools(tmp_path, tokenizer):
    path = write(tmp_path / "a.parquet", (WEATHER, TOOLS), (SUM, TOOLS[1:]), (PLAIN, None))
    rows = {row.row_id: row for row in read_holdout(path, 10)}
    scored = {
        name: split_response(row.messages, renderer(tokenizer, row), name)
        for name, row in rows.items()
    }
    assert scored["row0"][1] == "It snows.<|im_end|>"
    assert '"name": "weather", "arguments": {"city": "Oslo"' in scored["row0"][0]
    assert '"name": "add"' in scored["row0"][0], "the tools are part of the prompt"
    assert scored["row1"][1] == (
        '<tool_call>\n{"name": "add", "arguments": {"numbers": [1, 1180591620717411303424], '
        '"city": null}}\n</tool_call><|im_end|>'
    )
    assert scored["row2"][1] == "Hello<|im_end|>"
    assert "# Tools" not in scored["row2"][0]
