"""The shapes that instruction data comes in, found by the columns; all become conversations."""

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

from ct_llm.config import RowFormat
from ct_llm.prepare.clean.conversation import BadRow, Conversation, Message
from ct_llm.prepare.clean.oasst import best_thread
from ct_llm.prepare.clean.plain_text import cut_text
from ct_llm.prepare.clean.tool_calls import number_calls, read_tools
from ct_llm.prepare.clean.turns import SPEAKERS, TurnKeys, holds_turns, read_turns, text

_CONVERSATIONS = ("conversations", "conversation")
_UTTERANCES = ("utterances", "dialogue", "dialog")
_ANSWERS = ("output", "response", "completion")
_COMPLETIONS = ("completion", "response")
_CHOSEN = ("chosen", "chosen_messages")

COLUMNS: dict[RowFormat, tuple[tuple[str, ...], ...]] = {
    "oasst": (("message_tree_id", "message_id"),),
    "preference": (_CHOSEN,),
    "messages": (("messages",),),
    "sharegpt": (_CONVERSATIONS,),
    "prompt_completion": (("prompt",), _COMPLETIONS),
    "alpaca": (("instruction",), (*_ANSWERS, "instances")),
    "dialogue": (_UTTERANCES,),
    "text": (("text",),),
}
"""The columns that a row of each format must have, one of each group; the first format that fits is
taken, so the more telling ones come first."""


def detect_format(columns: Collection[str]) -> RowFormat | None:
    """The format whose columns are all there; none when no format fits."""
    for name, groups in COLUMNS.items():
        if all(any(column in columns for column in group) for group in groups):
            return name
    return None


def describe_formats() -> str:
    return ", ".join(
        f"{name} ({' + '.join('|'.join(group) for group in groups)})"
        for name, groups in COLUMNS.items()
    )


# ---------------------------------------------------------------- a file's columns


Read = Callable[[Any], Conversation]


def reader(row_format: RowFormat, columns: Mapping[str, str] | None = None) -> Read:
    """A function from a row to its conversation, whose order and text are not yet checked.

    columns: our name -> the file's, of columns and of the keys of turns. The function raises BadRow:
    not_an_object, missing_field, not_text, unknown_role, bad_tool_call, no_answer, dispreferred,
    too_short, role_order, empty.
    """
    columns = columns or {}
    keys = _turn_keys(row_format, columns)
    convert = _CONVERTERS[row_format]

    def read(row: Any) -> Conversation:
        if not isinstance(row, dict):
            if row_format == "text" and isinstance(row, str):
                return Conversation(cut_text(row))
            raise BadRow("not_an_object")
        if columns:
            row = {
                **row,
                **{ours: row[theirs] for ours, theirs in columns.items() if theirs in row},
            }
        return convert(row, keys)

    return read


def _turn_keys(row_format: RowFormat, columns: Mapping[str, str]) -> TurnKeys:
    mapped_roles = [columns[name] for name in ("role", "from") if name in columns]
    mapped_texts = [columns[name] for name in ("content", "value") if name in columns]
    role, said, roles = TurnKeys()
    if row_format == "dialogue":
        role, said, roles = ("speaker", *role), (*said, "text", "utterance"), SPEAKERS
    return TurnKeys((*mapped_roles, *role), (*mapped_texts, *said), roles)


# ---------------------------------------------------------------- one function per format


def _messages(row: Mapping[str, Any], keys: TurnKeys) -> Conversation:
    return _conversation(row, _field(row, "messages"), keys)


def _sharegpt(row: Mapping[str, Any], keys: TurnKeys) -> Conversation:
    return _conversation(row, _field(row, *_CONVERSATIONS), keys)


def _conversation(row: Mapping[str, Any], turns: Any, keys: TurnKeys) -> Conversation:
    _refuse_dispreferred(row)
    found = read_turns(turns, keys)
    return _with_tools(row, [*_system(row), *found.messages], found.tools)


def _prompt_completion(row: Mapping[str, Any], keys: TurnKeys) -> Conversation:
    _refuse_dispreferred(row)
    prompt = _text_or_turns(_field(row, "prompt"), "user", keys)
    completion = _text_or_turns(_field(row, *_COMPLETIONS), "assistant", keys)
    return _with_tools(row, [*_system(row), *prompt, *completion])


def _alpaca(row: Mapping[str, Any], _: TurnKeys) -> Conversation:
    """`instances` (the seeds of Self-Instruct) and `history` become turns of the same conversation."""
    _refuse_dispreferred(row)
    messages = _system(row)
    if history := row.get("history"):
        for asked, answered in _pairs(history):
            messages += _turn(text(asked), text(answered))
    instances = row.get("instances") or (row,)
    if not isinstance(instances, list | tuple):
        raise BadRow("not_text")
    for instance in instances:
        if not isinstance(instance, dict):
            raise BadRow("not_text")
        messages += _turn(_instruction(row, instance), text(_field(instance, *_ANSWERS)))
    return Conversation(messages)


def _instruction(row: Mapping[str, Any], instance: Mapping[str, Any]) -> str:
    instruction = text(_field(row, "instruction"))
    # Dolly calls it context; an answer without it would be made up.
    extra = instance.get("input") or instance.get("context")
    return f"{instruction}\n\n{extra}" if extra and text(extra).strip() else instruction


def _turn(asked: str, answered: str) -> list[Message]:
    return [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]


def _pairs(history: Any) -> list[list[Any]]:
    if not isinstance(history, list) or not all(
        isinstance(p, list) and len(p) == 2 for p in history
    ):
        raise BadRow("not_text")
    return history


def _preference(row: Mapping[str, Any], keys: TurnKeys) -> Conversation:
    """The chosen answer, after the conversation or prompt beside it where it does not hold it itself."""
    chosen = _field(row, *_CHOSEN)
    if isinstance(chosen, str) and chosen.lstrip().startswith("Human:"):
        return Conversation(_transcript(chosen))
    answer = _text_or_turns(chosen, "assistant", keys)
    if answer and answer[0]["role"] != "assistant":
        return _with_tools(row, [*_system(row), *answer])
    beside = next(
        (row[c] for c in (*_CONVERSATIONS, "messages", "prompt") if row.get(c) is not None), None
    )
    if beside is None:
        beside = _instruction(row, row)
    asked = _text_or_turns(beside, "user", keys)
    return _with_tools(row, [*_system(row), *asked, *answer])


_SPOKEN = re.compile(r"(?:\A|\n\n)\s*(Human|Assistant):")


def _transcript(told: str) -> list[Message]:
    """Anthropic's hh-rlhf: the whole conversation as one text."""
    _, *parts = _SPOKEN.split(told)
    roles = {"Human": "user", "Assistant": "assistant"}
    return [
        {"role": roles[who], "content": said.strip()}
        for who, said in zip(parts[::2], parts[1::2], strict=True)
    ]


def _oasst(row: Mapping[str, Any], _: TurnKeys) -> Conversation:
    return Conversation(best_thread(row))


def _dialogue(row: Mapping[str, Any], keys: TurnKeys) -> Conversation:
    """People say what they say in several breaths, and the customer often has the last word: turns of
    one speaker are joined by line ends, and what nobody answers is left out."""
    turns = row.get("messages") or _field(row, *_UTTERANCES)
    messages: list[Message] = []
    for message in read_turns(turns, keys).messages:
        if messages and messages[-1]["role"] == message["role"] and len(message) == 2:
            messages[-1]["content"] += f"\n{message['content']}"
        else:
            messages.append(message)
    while messages and messages[-1]["role"] == "user":
        messages.pop()
    return _with_tools(row, messages)


def _text(row: Mapping[str, Any], _: TurnKeys) -> Conversation:
    return Conversation(cut_text(text(_field(row, "text"))))


_CONVERTERS: dict[RowFormat, Callable[[Mapping[str, Any], TurnKeys], Conversation]] = {
    "messages": _messages,
    "prompt_completion": _prompt_completion,
    "alpaca": _alpaca,
    "sharegpt": _sharegpt,
    "preference": _preference,
    "oasst": _oasst,
    "dialogue": _dialogue,
    "text": _text,
}


# ---------------------------------------------------------------- what they share


def _system(row: Mapping[str, Any]) -> list[Message]:
    """A system prompt in a column of its own, often empty."""
    system = row.get("system")
    if not system:
        return []
    return [{"role": "system", "content": system}] if text(system).strip() else []


def _with_tools(
    row: Mapping[str, Any], messages: list[Message], listed: list[dict[str, Any]] | None = None
) -> Conversation:
    tools = read_tools(row.get("tools")) or listed or None
    if any(len(message) > 2 or message["role"] == "tool" for message in messages):
        number_calls(messages)
    return Conversation(messages, tools)


def _text_or_turns(value: Any, role: str, keys: TurnKeys) -> list[Message]:
    if isinstance(value, str) and not holds_turns(value, keys):
        return [{"role": role, "content": value}]
    return read_turns(value, keys).messages


def _refuse_dispreferred(row: Mapping[str, Any]) -> None:
    """KTO's form of preferences: one answer, and whether it was liked."""
    if row.get("label") is False or row.get("kto_tag") is False:
        raise BadRow("dispreferred")


def _field(row: Mapping[str, Any], *names: str) -> Any:
    for name in names:
        value = row.get(name)
        if value is not None:
            return value
    raise BadRow("missing_field")
