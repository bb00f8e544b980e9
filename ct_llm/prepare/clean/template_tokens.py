"""Text that a tokenizer would read as the structure of a conversation.

Most tokenizers turn `<|im_start|>` inside a text into the token that begins a turn: a row that quotes
it could speak for the system, and training on it teaches the model to.
"""

import re
from functools import cache
from typing import Any

_BETWEEN_BARS = r"<[|｜][^\s<>|｜]{1,64}[|｜]>"
"""ChatML and Qwen, Llama 3 and 4, Phi, Command R, gpt-oss, GLM, Granite, Kimi, Zephyr; DeepSeek with
full-width bars. No blank inside, so that F#'s `f <| g |> h` stays code."""

_GEMMA_4 = r"<\|(?:turn|channel|think|tool|tool_call|tool_response)>" + (
    r"|<(?:turn|channel|tool|tool_call|tool_response)\|>"
)
_GEMMA = r"<(?:bos|eos|start_of_turn|end_of_turn|start_of_image|end_of_image)>"
_SENTENCEPIECE = r"</?s>"
"""Llama 2, Mistral and their heirs. Also HTML's strike-through, which has its like in <del>."""
_LLAMA_2 = r"<</?SYS>>"
_MISTRAL = (
    r"\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_RESULTS|THINK)\]"
    r"|\[(?:TOOL_CALLS|TOOL_CONTENT|CALL_ID)\]"
)
_TOOL_TAGS = r"</?(?:tool_call|tool_response)>"
"""Tokens of their own in Qwen 2.5, 3 and Hermes. <think> is left alone: reasoning is written so."""
_OTHERS = r"<seed:[a-z_]+>|<reserved_\d+>|\[gMASK\]|</?｜DSML｜"

_TOKEN = re.compile(
    "|".join(
        (
            _BETWEEN_BARS,
            _GEMMA_4,
            _GEMMA,
            _SENTENCEPIECE,
            _LLAMA_2,
            _MISTRAL,
            _TOOL_TAGS,
            _OTHERS,
        )
    )
)

_BREAK = "\u200b"
"""ZERO WIDTH SPACE: not seen by people, and no token of structure has it inside."""


def has_template_token(text: str, special_tokens: tuple[str, ...] = ()) -> bool:
    """special_tokens: of the base model's own tokenizer, beside the well-known ones."""
    return _pattern(special_tokens).search(text) is not None


def may_begin_token(text: str, special_tokens: tuple[str, ...] = ()) -> bool:
    """A quick look: most texts hold no character that a token begins with."""
    return "<" in text or "[" in text or any(c in text for c in _other_starts(special_tokens))


def neutralise(text: str, special_tokens: tuple[str, ...] = ()) -> str:
    """The text with a zero-width space after the first character of every such token.

    Doing it again changes nothing.
    """
    pattern = _pattern(special_tokens)
    # One token may hide inside another: <|x[INST]|>.
    while pattern.search(text):
        text = pattern.sub(lambda match: match[0][0] + _BREAK + match[0][1:], text)
    return text


def neutralise_all(value: Any, special_tokens: tuple[str, ...] = ()) -> Any:
    """The same for every text and key within a JSON value."""
    if isinstance(value, str):
        return neutralise(value, special_tokens)
    if isinstance(value, list):
        return [neutralise_all(item, special_tokens) for item in value]
    if isinstance(value, dict):
        return {
            neutralise(key, special_tokens): neutralise_all(item, special_tokens)
            for key, item in value.items()
        }
    return value


@cache
def _pattern(special_tokens: tuple[str, ...]) -> re.Pattern[str]:
    longest_first = sorted(special_tokens, key=len, reverse=True)
    return re.compile("|".join([*map(re.escape, longest_first), _TOKEN.pattern]))


@cache
def _other_starts(special_tokens: tuple[str, ...]) -> str:
    return "".join({token[0] for token in special_tokens} - {"<", "["})
