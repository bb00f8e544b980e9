import json
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi

from ct_llm.config import BaseModelConfig
from ct_llm.errors import ConfigError, InputError
from ct_llm.hub.base_text import (
    BaseText,
    read_base_text,
    renders_tools,
    special_tokens,
    token_lengths,
)

WORDS = {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": [],
    "normalizer": None,
    "pre_tokenizer": {"type": "WhitespaceSplit"},
    "post_processor": {
        "type": "TemplateProcessing",
        "single": [
            {"SpecialToken": {"id": "<s>", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
        ],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
    },
    "decoder": None,
    "model": {"type": "WordLevel", "vocab": {"<unk>": 0, "<s>": 1, "one": 2}, "unk_token": "<unk>"},
}
"""A tokenizer that takes each word for a token."""


def _tokenizer(folder: Path, **changes: Any) -> Path:
    path = folder / "tokenizer.json"
    path.write_text(json.dumps({**WORDS, **changes}))
    return path


def _read(folder: Path, chat_template: Path | None = None) -> BaseText:
    config = BaseModelConfig(repo=str(folder), chat_template=chat_template)
    return read_base_text(HfApi(), config)


# ---------------------------------------------------------------- what is found


@pytest.mark.parametrize(
    ("files", "template"),
    [
        ({}, None),
        ({"tokenizer_config.json": "{}"}, None),
        ({"tokenizer_config.json": '{"chat_template": null}'}, None),
        ({"tokenizer_config.json": '{"chat_template": "config"}'}, "config"),
        ({"chat_template.jinja": "file"}, "file"),
        (
            {"chat_template.jinja": "file", "tokenizer_config.json": '{"chat_template": "c"}'},
            "file",
        ),
        (
            {
                "tokenizer_config.json": json.dumps(
                    {
                        "chat_template": [
                            {"name": "tool_use", "template": "tools"},
                            {"name": "default", "template": "plain"},
                        ]
                    }
                )
            },
            "plain",
        ),
    ],
)
def test_the_template_that_conversations_are_rendered_with(
    tmp_path: Path, files: dict[str, str], template: str | None
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert _read(tmp_path).chat_template == template
    (tmp_path / "own.jinja").write_text("own")
    assert _read(tmp_path, tmp_path / "own.jinja").chat_template == "own"


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "[" * 100_000,
        '{"chat_template": 3}',
        '{"chat_template": [{"name": "default"}]}',
        '{"chat_template": ["default"]}',
    ],
)
def test_a_damaged_tokenizer_config_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "tokenizer_config.json").write_text(text)
    with pytest.raises(InputError, match=r"its tokenizer_config\.json cannot be read"):
        _read(tmp_path)


def test_a_template_of_the_config_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"base_model\.chat_template"):
        _read(tmp_path, tmp_path / "missing.jinja")


def test_a_folder_is_known_by_these_files_alone(tmp_path: Path) -> None:
    without = _read(tmp_path)
    assert without.tokenizer_json is None
    tokenizer = _tokenizer(tmp_path)
    found = _read(tmp_path)
    assert found.tokenizer_json == tokenizer
    assert found.revision != without.revision
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    assert _read(tmp_path).revision == found.revision


# ---------------------------------------------------------------- tool calls


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{{ m.tool_calls }}{% endfor %}",
        "{% for m in messages %}{% if 'tool_calls' in m %}{{ m['tool_calls'] }}{% endif %}{% endfor %}",
        "{% for m in messages %}{{ m.get('tool_calls', []) | tojson }}{% endfor %}",
        "{%- for m in messages %}{% generation %}{{ m.tool_calls }}{% endgeneration %}{% break %}"
        "{% endfor %}",
    ],
)
def test_templates_that_render_calls(template: str) -> None:
    assert renders_tools(template)


@pytest.mark.parametrize(
    "template",
    [
        None,
        "",
        "{% for m in messages %}{{ m.content }}{% endfor %}",
        "{# m.tool_calls #}{{ messages[0].content }}",
        "tool_calls {{ 'm.tool_calls' }}",
        "{{ tools | tojson }} and no tool_calls",
        "{{ m.tool_calls",
        "{{ " + "(" * 100_000 + "m.tool_calls",
        "{{ m.tool_calls }}{{ " + "9" * 5_000 + " }}",
        "{{ m.tool_calls }}{% nonsense %}",
        "{{ m.tool_calls }}" + " " * 1_000_000,
    ],
)
def test_templates_that_do_not_or_cannot_be_told(template: str | None) -> None:
    assert not renders_tools(template)


def test_a_hostile_template_is_never_rendered(tmp_path: Path) -> None:
    spoils = tmp_path / "spoils"
    template = (
        "{{ ''.__class__.__mro__[1].__subclasses__() }}"
        f"{{{{ cycler.__init__.__globals__.os.system('touch {spoils}') }}}}"
        "{% for i in range(10**12) %}{{ m.tool_calls }}{% endfor %}"
    )
    assert renders_tools(template)
    assert not spoils.exists()


# ---------------------------------------------------------------- tokens


def test_tokens_are_those_of_the_text_alone(tmp_path: Path) -> None:
    texts = ["one", "", "one two three", *["one one"] * 200]
    assert token_lengths(texts, _tokenizer(tmp_path)) == [1, 0, 3, *[2] * 200]
    assert token_lengths([], _tokenizer(tmp_path)) == []


def test_a_file_that_cuts_or_pads_does_not_decide_the_lengths(tmp_path: Path) -> None:
    truncation = {"max_length": 2, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    padding = {
        "strategy": {"Fixed": 50},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "<unk>",
    }
    path = _tokenizer(tmp_path, truncation=truncation, padding=padding)
    assert token_lengths(["one two three"], path) == [3]


@pytest.mark.parametrize(
    "changes",
    [
        {"model": {}},
        {"model": None},
        {"normalizer": {"type": "Replace", "pattern": {"Regex": "("}, "content": ""}},
        # Backtracks until the regex engine gives up, which the library reports as a panic.
        {"normalizer": {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": ""}},
    ],
)
def test_a_broken_or_hostile_tokenizer_is_an_error_of_ours(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    with pytest.raises(InputError, match="cannot be used as a tokenizer"):
        token_lengths(["a" * 40 + "b"], _tokenizer(tmp_path, **changes))


def test_a_missing_tokenizer_is_an_error_of_ours(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be used as a tokenizer"):
        token_lengths(["one"], tmp_path / "tokenizer.json")


def test_special_tokens_are_the_ones_that_mean_structure(tmp_path):
    added = [
        {"content": "<end_of_utterance>", "special": True},
        {"content": "‹用户>", "special": True},
        {"content": "<think>", "special": False},
        *({"content": text, "special": True} for text in ("  \n ", "the", "[]", "PAD_1")),
    ]
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps({"added_tokens": added}), encoding="utf-8")
    assert special_tokens(file) == ("<end_of_utterance>", "‹用户>")
    assert special_tokens(None) == ()


@pytest.mark.parametrize("content", ["", "[]", '{"added_tokens": [{"special": true}]}', "{"])
def test_a_damaged_tokenizer_file_is_said(tmp_path, content):
    file = tmp_path / "tokenizer.json"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=r"tokenizer\.json"):
        special_tokens(file)
