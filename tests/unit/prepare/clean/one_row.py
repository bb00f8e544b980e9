"""One row as a conversation, its columns under the usual names."""

from typing import Any

from ct_llm.config import RowFormat
from ct_llm.prepare.clean.conversation import Conversation
from ct_llm.prepare.clean.formats import reader


def to_conversation(row: Any, row_format: RowFormat) -> Conversation:
    return reader(row_format)(row)
