"""The training set as tokens: conversations rendered with their tools, the assistant's words marked.

Rendered here and not by TRL. It would take the messages as a column of structs, and Arrow gives every
struct the keys of all others: each tool call would name the arguments of every tool. Its JSON columns
round numbers. Here a row stays the text it was until the template has it.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import pyarrow.parquet as pq
from datasets import Dataset, Features, List, Value
from transformers import PreTrainedTokenizerBase

from ct_llm.errors import DataError, InputError
from ct_llm.train.chat_template import check_renders_calls

IGNORED = -100
"""The label of a token that nothing is learned from."""

_FEATURES = Features({"input_ids": List(Value("int32")), "labels": List(Value("int32"))})


class Conversation(NamedTuple):
    messages: list[dict[str, Any]]
    tools: list[Any] | None


def tokenised_conversations(path: Path, tokenizer: PreTrainedTokenizerBase) -> Dataset:
    """`input_ids` and `labels` of every row; labels are the ids inside {% generation %}, else IGNORED.

    Raises DataError for a row that is no conversation or has nothing to learn from, and when there is
    no row; InputError where the template refuses a row or leaves out its tool calls.
    """
    columns = [name for name in ("messages", "tools") if name in pq.read_schema(path).names]
    rows = Dataset(pq.read_table(path, columns=columns))
    if not len(rows):
        raise DataError(f"{path} holds no rows to train on.")
    renders_calls = False

    def tokenise(row: dict[str, Any], index: int) -> dict[str, list[int]]:
        nonlocal renders_calls
        conversation = read_conversation(row, path, index)
        if not renders_calls and any("tool_calls" in m for m in conversation.messages):
            check_renders_calls(tokenizer)
            renders_calls = True
        try:
            encoded: Any = tokenizer.apply_chat_template(
                conversation.messages,
                tools=conversation.tools,
                tokenize=True,
                return_dict=True,
                return_assistant_tokens_mask=True,
            )
        # TypeError: the template treats an object as text, or the other way round.
        except (jinja2.TemplateError, TypeError) as error:
            raise InputError(
                f"{path}: row {index}: the chat template refuses its messages: {error}. Mend "
                "base_model.chat_template, or keep such rows out."
            ) from None
        ids, mask = encoded["input_ids"], encoded["assistant_masks"]
        labels = [token if said else IGNORED for token, said in zip(ids, mask, strict=True)]
        return {"input_ids": ids, "labels": labels}

    return rows.map(
        tokenise,
        with_indices=True,
        remove_columns=columns,
        features=_FEATURES,
        desc="Tokenizing the training set",
    )


def read_conversation(row: dict[str, Any], path: Path, index: int) -> Conversation:
    """Raises DataError."""
    try:
        messages = json.loads(row["messages"])
        tools = json.loads(row.get("tools") or "null")
        roles = [message["role"] for message in messages]
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path}: row {index} is not a conversation: {error!r}") from None
    if "assistant" not in roles:
        raise DataError(f"{path}: row {index} has no message of the assistant.")
    return Conversation(messages, tools)
