"""What the rows say, for similarity and contamination: the text of messages, without their structure."""

import json
from typing import Any


def split_text(messages: str) -> tuple[str, str]:
    """Prompt and response as similarity sees them, from a row's `messages` (JSON).

    System prompts are left out: they are the same for thousands of rows, and would make rows alike
    that share nothing else.
    """
    parsed: list[dict[str, Any]] = json.loads(messages)
    prompt = "\n".join(_said(message) for message in parsed[:-1] if message["role"] != "system")
    return prompt, _said(parsed[-1])


def message_texts(messages: str) -> list[str]:
    """What every message says, system prompts included."""
    return [_said(message) for message in json.loads(messages)]


def num_turns(messages: str) -> int:
    """How often the user speaks."""
    return sum(message["role"] == "user" for message in json.loads(messages))


def _said(message: dict[str, Any]) -> str:
    """Reasoning, words and calls; not the ids of calls, which are made up."""
    calls = [call["function"] for call in message.get("tool_calls", ())]
    said = [message.get("reasoning_content", ""), message["content"]]
    if calls:
        said.append(json.dumps(calls))
    return "\n".join(part for part in said if part)
