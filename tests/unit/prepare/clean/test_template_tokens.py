from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ct_llm.prepare.clean.conversation import BadRow, Conversation, Message
from ct_llm.prepare.clean.template_tokens import (
    has_template_token,
    may_begin_token,
    neutralise,
    neutralise_all,
)
from ct_llm.prepare.clean.validate import CleaningRules, check_conversation

TOKENS = [
    "<|im_start|>",
    "<|im_end|>",
    "<|endoftext|>",
    "<|user|>",
    "<|eot_id|>",
    "<|start_header_id|>",
    "<|header_start|>",
    "<|python_tag|>",
    "<|begin▁of▁sentence|>",
    "<｜end▁of▁sentence｜>",
    "<｜tool▁calls▁begin｜>",
    "</｜DSML｜invoke>",
    "<|START_OF_TURN_TOKEN|>",
    "<|channel|>",
    "<|start|>",
    "<|turn>",
    "<turn|>",
    "<|tool_call>",
    "<start_of_turn>",
    "<end_of_turn>",
    "<bos>",
    "<eos>",
    "[INST]",
    "[/INST]",
    "[SYSTEM_PROMPT]",
    "[AVAILABLE_TOOLS]",
    "[/TOOL_RESULTS]",
    "[TOOL_CALLS]",
    "[THINK]",
    "[gMASK]",
    "<<SYS>>",
    "<</SYS>>",
    "<s>",
    "</s>",
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "<seed:bos>",
    "<reserved_106>",
]


@pytest.mark.parametrize("token", TOKENS)
def test_tokens_of_chat_templates_are_found_and_broken(token):
    text = f"so {token}so"
    assert has_template_token(text)
    assert neutralise(text) == f"so {token[0]}\u200b{token[1:]}so"


@pytest.mark.parametrize(
    "text",
    [
        "x |> f <| y, a <|> b, <| |>, data Tree = Leaf | Node <|> x",
        "<div class='s'><span>a</span></div> <section> <svg> <strong> <b>",
        "List<string>, vector<int>, a[i], [INSTANCE], [inst], [TODO], [args]",
        "<think>Well.</think> <answer>4</answer>",
        "#include <sys/types.h>\nif (a<b || c>d) {}",
        "p(x|y), |x|, <x|y>, ⟨φ|ψ⟩",
        "<EOF> <unk> <pad> <mask> [MASK] [CLS]",
    ],
)
def test_code_and_markup_is_no_structure(text):
    assert not has_template_token(text)
    assert neutralise(text) == text


@given(st.lists(st.sampled_from([*TOKENS, "<", "|", ">", "[", "x", " ", "\u200b"]), max_size=12))
def test_breaking_them_is_complete_and_idempotent(parts):
    text = "".join(parts)
    once = neutralise(text)
    assert not has_template_token(once)
    assert neutralise(once) == once
    assert once.replace("\u200b", "") == text.replace("\u200b", "")
    assert (once == text) == (not has_template_token(text))


def test_values_are_broken_at_every_depth():
    value = {"<s>": [1, None, {"a": "</s>", "b": True}]}
    assert neutralise_all(value) == {"<\u200bs>": [1, None, {"a": "<\u200b/s>", "b": True}]}


def test_no_tokenizer_sees_a_token_in_them(real_data: Path) -> None:
    from tokenizers import AddedToken, Tokenizer

    tokenizer = Tokenizer.from_file(str(real_data / "model_stories260k" / "tokenizer.json"))
    own = {tokenizer.token_to_id("<s>"), tokenizer.token_to_id("</s>")} - {None}
    before = tokenizer.get_vocab_size()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in TOKENS])
    structure = own | set(range(before, tokenizer.get_vocab_size()))
    for token in TOKENS:
        text = f"Once {token} upon{token}"
        encoded = tokenizer.encode(text, add_special_tokens=False).ids
        assert structure & set(encoded), token
        safe = tokenizer.encode(neutralise(text), add_special_tokens=False).ids
        assert not structure & set(safe), token


OWN = ("<end_of_utterance>", "[|assistant|]", "‹用户>")


@pytest.mark.parametrize("token", OWN)
def test_the_base_models_own_tokens_are_structure_too(token):
    text = f"so {token}so"
    assert not has_template_token(text) and has_template_token(text, OWN)
    assert may_begin_token(text, OWN)
    assert neutralise(text, OWN) == f"so {token[0]}\u200b{token[1:]}so"
    assert not has_template_token(neutralise(text, OWN), OWN)
    assert neutralise_all({"a": [text]}, OWN) == {"a": [neutralise(text, OWN)]}


def test_rows_with_them_are_bad():
    messages: list[Message] = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "so ‹用户> says"},
    ]
    check_conversation(Conversation(messages), CleaningRules(1_000))
    with pytest.raises(BadRow, match="template_token"):
        check_conversation(Conversation(messages), CleaningRules(1_000, special_tokens=OWN))
