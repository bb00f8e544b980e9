"""The slice of held-out newest rows: how likely are their responses?

The score of a row is exp(log-likelihood / bytes) of its last assistant message, end-of-turn marker
included, after the rest of the conversation as the chat template renders it: the geometric mean of
the probability that the model gives each byte. It does not depend on how the tokenizer cuts the text.

The bound: a log-likelihood is at most 0, so the score lies in [0, 1], and the difference of two
adapters on one row in [-1, 1], which is the range that the gate's test is valid for.

No row is dropped. A prompt longer than the model's context loses its beginning, as lm-eval does it;
a response longer than the context is scored up to where the context is full. Both adapters get the
same tokens.
"""

import json
import math
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from ct_llm.config import NewestConfig, Suite, TaskConfig
from ct_llm.errors import DataError, InputError
from ct_llm.evaluate.suite import NEWEST

if TYPE_CHECKING:
    from ct_llm.evaluate.engine.engine import Engine
    from ct_llm.evaluate.tasks.tasks import EvalTask

METRIC = "byte_probability"
Messages = list[dict[str, Any]]


class HeldOutRow(NamedTuple):
    row_id: str
    messages: Messages
    tools: list[Any] | None
    """What the assistant may call; rendered with the messages."""


Render = Callable[[Messages, bool], str]
"""Messages and whether to add the generation prompt, to text."""


def newest_suite(config: NewestConfig) -> Suite:
    return Suite(
        slice=NEWEST,
        tasks=[TaskConfig(task=NEWEST, metric=METRIC)],
        tolerance=config.tolerance,
        weight=config.weight,
        apply_chat_template=False,  # the documents are rendered already
        score_low=0.0,
        score_high=1.0,
    )


def read_holdout(path: Path, max_items: int) -> list[HeldOutRow]:
    """At most `max_items` rows: those whose id hashes lowest.

    So the choice depends on the rows alone, and adding rows changes it little. Raises DataError.
    """
    try:
        # Adapters that were made before there were tools have holdouts without that column.
        columns = [name for name in _COLUMNS if name in pq.read_schema(path).names]
        rows = pq.read_table(path, columns=columns).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: held-out rows cannot be read: {error}") from None
    rows.sort(key=lambda row: sha256(row["row_id"].encode()).digest())
    return [_parse(path, row) for row in rows[:max_items]]


_COLUMNS = ("row_id", "messages", "tools")


def split_response(messages: Messages, render: Render, row_id: str) -> tuple[str, str]:
    """Prompt and response as the template renders them. Raises InputError.

    White space after the end-of-turn marker belongs to what comes next, and is not scored.
    """
    if len(messages) < 2 or messages[-1].get("role") != "assistant":
        raise InputError(f"held-out row {row_id}: its last message is not the assistant's.")
    prompt, whole = render(messages[:-1], True), render(messages, False)
    if not whole.startswith(prompt):
        raise InputError(
            f"held-out row {row_id}: the chat template renders the prompt differently once the "
            "response is there, so the response cannot be told apart. Mend base_model.chat_template: "
            "prompt with add_generation_prompt must be the beginning of the whole conversation."
        )
    response = whole[len(prompt) :]
    response = response.rstrip() or response
    if not response:
        raise InputError(f"held-out row {row_id}: the chat template renders no response.")
    return prompt, response


def cut_to_context(response: str, num_tokens: Callable[[str], int], room: int) -> str:
    """The longest beginning of about `room` tokens; never more."""
    while (count := num_tokens(response)) > room:
        response = response[: min(len(response) - 1, len(response) * room // count)]
    return response


def newest_task(rows: Sequence[HeldOutRow], engine: "Engine") -> "EvalTask":
    """An lm-eval log-likelihood task of these rows for this model. Raises InputError."""
    from datasets import Dataset, DatasetDict
    from lm_eval.api.task import ConfigurableTask

    from ct_llm.evaluate.quiet import quiet
    from ct_llm.evaluate.tasks.tasks import EvalTask

    def num_tokens(prompt: str) -> Callable[[str], int]:
        return lambda response: len(lm._encode_pair(prompt, response)[1])

    lm: Any = engine.lm  # the method is of all models that have a tokenizer, not of the base class
    with quiet():
        documents = []
        for row in rows:
            prompt, response = split_response(
                row.messages, renderer(engine.tokenizer, row), row.row_id
            )
            response = cut_to_context(response, num_tokens(prompt), engine.max_length - 1)
            documents.append({"row_id": row.row_id, "prompt": prompt, "response": response})
        task = ConfigurableTask(
            config={
                "task": NEWEST,
                "custom_dataset": lambda **_: DatasetDict({"test": Dataset.from_list(documents)}),
                "test_split": "test",
                "output_type": "loglikelihood",
                "doc_to_text": "prompt",
                "doc_to_target": "response",
                "process_results": _byte_probability,
                "metric_list": [
                    {"metric": METRIC, "aggregation": "mean", "higher_is_better": True}
                ],
                "num_fewshot": 0,
            }
        )
    return EvalTask(NEWEST, task, TaskConfig(task=NEWEST, metric=METRIC), False, None)


def _byte_probability(doc: dict[str, Any], results: Sequence[tuple[float, bool]]) -> dict[str, Any]:
    log_likelihood, _ = results[0]
    # Rounding may leave a certain response a hair above probability one.
    return {METRIC: min(1.0, math.exp(log_likelihood / len(doc["response"].encode())))}


def _parse(path: Path, row: dict[str, Any]) -> HeldOutRow:
    row_id = row["row_id"]
    lists = []
    for name, text in (("messages", row["messages"]), ("tools", row.get("tools") or "[]")):
        try:
            value = json.loads(text)
        except ValueError as error:
            raise DataError(f"{path}: row {row_id}: {name} is not JSON: {error}") from None
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise DataError(f"{path}: row {row_id}: {name} is not a list of {name}.")
        lists.append(value)
    return HeldOutRow(row_id, lists[0], lists[1] or None)


def renderer(tokenizer: Any, row: HeldOutRow) -> Render:
    """The model's chat template for this row's messages. Raises InputError, then and when called."""
    import jinja2

    if not getattr(tokenizer, "chat_template", None):
        raise InputError(
            f"slice {NEWEST}: the base model's tokenizer has no chat template. Set "
            "base_model.chat_template."
        )

    def render(messages: Messages, add_generation_prompt: bool) -> str:
        try:
            text = tokenizer.apply_chat_template(
                messages,
                tools=row.tools,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
            )
        # TypeError: the template treats an object as text, or the other way round.
        except (jinja2.TemplateError, TypeError) as error:
            raise InputError(
                f"held-out row {row.row_id}: the chat template refuses its messages: {error}"
            ) from None
        return str(text)

    return render
