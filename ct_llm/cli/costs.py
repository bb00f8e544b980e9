"""What an evaluation would cost, before it runs: items, requests, rough tokens."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table
from rich.text import Text

from ct_llm.cli import show
from ct_llm.config import EvaluateConfig, HubConfig, Suite
from ct_llm.errors import CtError
from ct_llm.hub.client import hub_api

if TYPE_CHECKING:
    from ct_llm.evaluate.tasks.cost import SuiteCost


def suite_costs(
    config: EvaluateConfig, suites: Sequence[Suite], hub: HubConfig, *, quiet: bool
) -> "list[SuiteCost]":
    """Of each suite, for one adapter. Loads the tasks, which takes seconds. Raises CtError."""
    hub_api(hub)  # the tasks' datasets come from that Hub
    from ct_llm.evaluate.tasks.cost import costs

    with show.working("counting items", quiet=quiet):
        return costs(config, suites)


def costs_or_why_not(
    config: EvaluateConfig, suites: Sequence[Suite], hub: HubConfig, *, quiet: bool
) -> tuple["list[SuiteCost]", str | None]:
    """As `suite_costs`, with the problem instead of an error."""
    try:
        return suite_costs(config, suites, hub, quiet=quiet), None
    except CtError as error:
        return [], str(error)


def as_data(costs: "Sequence[SuiteCost]") -> list[dict[str, Any]]:
    sums = ("num_items", "num_requests", "num_prompt_tokens", "max_new_tokens")
    return [{**asdict(cost), **{name: getattr(cost, name) for name in sums}} for cost in costs]


def table(costs: "Sequence[SuiteCost]", num_adapters: int) -> Table:
    """A row a task. Items are counted once, the rest for all adapters."""
    found = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    found.add_column("slice", no_wrap=True)
    found.add_column("task")
    for name in ("items", "requests", "prompt tokens", "new tokens"):
        found.add_column(name, justify="right", no_wrap=True)
    for cost in costs:
        for task in cost.tasks:
            found.add_row(
                Text(show.visible(cost.slice)),
                Text(show.visible(task.task)),
                f"{task.num_items:,}",
                f"{num_adapters * task.num_requests:,}",
                f"~{num_adapters * task.num_prompt_tokens:,}",
                f"≤ {num_adapters * task.max_new_tokens:,}" if task.max_new_tokens else "–",
            )
    return found


def footnote(costs: "Sequence[SuiteCost]", num_adapters: int) -> str:
    counted = ", ".join(sorted({cost.counted_by for cost in costs}))
    adapters = "one adapter" if num_adapters == 1 else f"{num_adapters} adapters"
    return (
        f"For {adapters}, if every item is scored and nothing is known already. Tokens: {counted}."
    )
