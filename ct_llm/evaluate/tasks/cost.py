"""What a suite costs before it runs: items, requests and tokens, for one adapter.

Items and requests are counted, tokens are a forecast: a stopped evaluation asks less, and a model may
answer shorter than it may. A context that several requests of an item share counts once.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ct_llm.config import EvaluateConfig, Suite

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

    from ct_llm.evaluate.tasks.requests import TaskRequests

CHARS_PER_TOKEN = 4
"""Rule of thumb for English, where no tokenizer is at hand."""
NUM_RENDERED = 50
"""Items of a task, evenly spread, whose prompts are rendered and counted; the rest is like them."""
DEFAULT_MAX_GEN_TOKS = 256
"""lm-eval's, for tasks that name none."""


@dataclass(frozen=True)
class TaskCost:
    task: str
    num_items: int
    num_requests: int
    """For one adapter; rough where items differ in their number of requests."""
    num_prompt_tokens: int
    """Rough: contexts and the continuations whose likelihood is asked."""
    max_new_tokens: int
    """If every answer is as long as it may be; none for tasks that generate nothing."""


@dataclass(frozen=True)
class SuiteCost:
    slice: str
    tasks: tuple[TaskCost, ...]
    counted_by: str
    """What counted the tokens: `tokenizer`, or `characters / 4`."""

    @property
    def num_items(self) -> int:
        return sum(task.num_items for task in self.tasks)

    @property
    def num_requests(self) -> int:
        return sum(task.num_requests for task in self.tasks)

    @property
    def num_prompt_tokens(self) -> int:
        return sum(task.num_prompt_tokens for task in self.tasks)

    @property
    def max_new_tokens(self) -> int:
        return sum(task.max_new_tokens for task in self.tasks)


def costs(
    config: EvaluateConfig, suites: Sequence[Suite], tokenizer: Any = None
) -> list[SuiteCost]:
    """Of every suite, with its limits; the held-out newest rows are not among them.

    tokenizer: transformers' of the base model, with its chat template; none: chat templates are left
    out, and tokens are characters / 4. Needs no sandbox. Raises as `tasks.load_tasks`.
    """
    from ct_llm.evaluate.tasks.requests import TaskRequests
    from ct_llm.evaluate.tasks.tasks import load_tasks

    prompts = _Prompts(tokenizer)
    found: list[SuiteCost] = []
    for suite in suites:
        with tempfile.TemporaryDirectory(prefix="ct_llm_items_") as folder:
            tasks = load_tasks(suite, config.limit, Path(folder), config.dataset_revisions)
            requests = [TaskRequests(task, suite, prompts) for task in tasks]
            found.append(suite_cost(suite, requests, prompts.num_tokens))
    return found


def suite_cost(
    suite: Suite,
    tasks: Sequence["TaskRequests"],
    num_tokens: Callable[[str], int] | None = None,
    default_max_gen_toks: int = DEFAULT_MAX_GEN_TOKS,
) -> SuiteCost:
    """num_tokens: text to its number of tokens; none: characters / 4."""
    count = num_tokens or _by_characters
    return SuiteCost(
        slice=suite.slice,
        tasks=tuple(_task_cost(task, count, default_max_gen_toks) for task in tasks),
        counted_by="characters / 4" if num_tokens in (None, _by_characters) else "tokenizer",
    )


def _task_cost(
    task: "TaskRequests", num_tokens: Callable[[str], int], default_max_gen_toks: int
) -> TaskCost:
    num_items = len(task.item_ids)
    step = max(1, num_items // NUM_RENDERED)
    rendered = [task.of(item) for item in task.item_ids[::step]]
    share = num_items / len(rendered) if rendered else 0.0
    longest = task.task.max_new_tokens(default_max_gen_toks) or 0
    num_requests = round(share * sum(map(len, rendered)))
    return TaskCost(
        task=task.task.name,
        num_items=num_items,
        num_requests=num_requests,
        num_prompt_tokens=round(share * sum(_prompt_tokens(item, num_tokens) for item in rendered)),
        max_new_tokens=num_requests * longest,
    )


def _prompt_tokens(requests: Sequence["Instance"], num_tokens: Callable[[str], int]) -> int:
    contexts = {str(request.args[0]) for request in requests}
    total = sum(map(num_tokens, contexts))
    for request in requests:
        if request.request_type == "loglikelihood":
            _, continuation = tuple[Any, ...](request.args)
            total += num_tokens(continuation)
    return total


def _by_characters(text: str) -> int:
    return -(-len(text) // CHARS_PER_TOKEN)


class _Prompts:
    """What of a model is needed to render a task's prompts."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.num_tokens = _by_characters if tokenizer is None else self._by_tokenizer

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        if not getattr(self._tokenizer, "chat_template", None):
            return "\n".join(message["content"] for message in chat_history)
        return self._tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )

    def _by_tokenizer(self, text: str) -> int:
        return len(self._tokenizer(text, add_special_tokens=False)["input_ids"])
