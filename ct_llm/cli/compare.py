"""`ct-llm eval` and `ct-llm compare`: one adapter, or two beside each other, on some slices."""

import os
import signal
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from pydantic import BaseModel, ConfigDict
from rich.console import Console
from rich.text import Text

from ct_llm import api
from ct_llm.adapter_names import BASE, NamedAdapter
from ct_llm.cli import costs, show
from ct_llm.cli.live import Line, LiveSlices, left_out, percent, table
from ct_llm.cli.side_by_side import print_items
from ct_llm.comparison import Comparison, Difference, Evaluation
from ct_llm.config import BaseModelConfig, EvaluateConfig, HubConfig, apply_override, validate
from ct_llm.errors import ConfigError
from ct_llm.gate.sequential import SLACK
from ct_llm.scoring import ALPHA, evaluate_config, load_slices

INTERRUPTED = 130
PIPE_WIDTH = 120
"""Columns of a table that nobody's terminal bounds."""


class Options(BaseModel):
    """What both commands take; `--set` overrides keys of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    slices: list[str]
    base: str | None = None
    base_model: dict[str, Any] = {}
    """Keys of BaseModelConfig, given by `--set`; they go with --base."""
    chat_template: Path | None = None
    evaluate: EvaluateConfig = EvaluateConfig()
    hub: HubConfig = HubConfig()
    out: Path | None = None
    cost: bool = False
    as_json: bool = False

    @classmethod
    def read(
        cls,
        sets: list[str],
        *,
        batch_size: str | None = None,
        device: str | None = None,
        limit: int | None = None,
        endpoint: str | None = None,
        **given: Any,
    ) -> "Options":
        """The command line, with its overrides on top. Raises ConfigError."""
        # Said here: pydantic has a message for each kind of value that it would have taken.
        if batch_size not in (None, "auto") and not _is_count(batch_size):
            raise ConfigError(
                f"--batch-size {batch_size}: expected auto or a whole number from 1 on."
            )
        evaluate: dict[str, Any] = {"batch_size": batch_size, "device": device, "limit": limit}
        data: dict[str, Any] = {
            **given,
            "evaluate": {key: value for key, value in evaluate.items() if value is not None},
            "hub": {"endpoint": endpoint} if endpoint else {},
        }
        for override in sets:
            section = override.partition("=")[0].split(".")[0].strip()
            if section not in ("evaluate", "hub", "base_model"):
                raise ConfigError(
                    f"--set {override}: expected evaluate.…, base_model.… or hub.…, for instance "
                    "evaluate.batch_items=16."
                )
            apply_override(data, override)
        found = validate(cls, data, "the command line")
        if found.base_model and found.base is None:
            raise ConfigError("--set base_model.… needs --base: the adapters' own is fixed.")
        return found

    def arguments(self) -> dict[str, Any]:
        """For `api.evaluate` and `api.compare`."""
        return {
            "base_model": self._base_model(),
            "chat_template": self.chat_template,
            "config": self.evaluate,
            "folder": self.out,
            "hub": self.hub,
        }

    def _base_model(self) -> BaseModelConfig | str | None:
        if self.base is None or not self.base_model:
            return self.base
        from ct_llm.adapter_names import base_of

        named = base_of([NamedAdapter(BASE)], self.base).model_dump()
        return validate(BaseModelConfig, {**named, **self.base_model}, "--base")


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdecimal() and int(text) >= 1


def evaluate(adapter: str | None, options: Options) -> int:
    if options.cost:
        return print_costs(options)
    name = None if adapter in (None, "none") else adapter
    live = LiveSlices(ALPHA, one_adapter=True, quiet=options.as_json)
    with live, FinishBatch(live) as finish:
        found = api.evaluate(
            name,
            options.slices,
            on_progress=live,
            keep_going=finish.keep_going,
            **options.arguments(),
        )
    if options.as_json:
        show.as_json(found)
    else:
        out = _out()
        what = "base model" if found.digest is None else f"{found.adapter} on"
        _print(out, f"{what} {found.base_model}")
        _print_lines(out, found.slices, found.tasks, found.alpha)
        _print_end(out, found, options.evaluate)
    return INTERRUPTED if found.interrupted else 0


def compare(
    champion: str,
    challenger: str,
    options: Options,
    *,
    samples: int,
    until_decided: bool,
    alpha: float,
) -> int:
    if options.cost:
        return print_costs(options, num_adapters=2)
    live = LiveSlices(alpha, one_adapter=False, quiet=options.as_json)
    with live, FinishBatch(live) as finish:
        found = api.compare(
            champion,
            challenger,
            options.slices,
            until_decided=until_decided,
            alpha=alpha,
            on_progress=live,
            keep_going=finish.keep_going,
            **options.arguments(),
        )
    items = found.most_different(samples)
    if options.as_json:
        samples_too = {"samples": [item._asdict() for item in items]} if samples else {}
        show.as_json({**found.model_dump(mode="json"), **samples_too})
    else:
        out = _out()
        _print(
            out,
            f"champion {found.champion}, challenger {found.challenger}, on {found.base_model}; "
            "delta is challenger minus champion",
        )
        _print_lines(out, found.slices, found.tasks, found.alpha)
        print_items(items, out)
        if samples and not items:
            _print(out, "Both gave the same output and score on every item.")
        _print_end(out, found, options.evaluate)
    return INTERRUPTED if found.interrupted else 0


def _out() -> Console:
    out = show.console()
    return out if out.is_terminal else Console(highlight=False, width=PIPE_WIDTH)


def _print(out: Console, text: str) -> None:
    out.print(Text(show.visible(text, 2_000)), soft_wrap=True)


def _print_lines(
    out: Console, slices: tuple[Line, ...], tasks: tuple[Line, ...], alpha: float
) -> None:
    out.print(table(slices, alpha, out.width))
    # A slice of one task has said it all.
    if len(tasks) > len(slices):
        out.print(table(tasks, alpha, out.width, of="task"))


def _print_end(out: Console, found: Evaluation | Comparison, config: EvaluateConfig) -> None:
    if found.interrupted:
        _print(out, "Stopped early, as asked. What is scored is kept, and the bounds hold.")
    if found.budget_spent:
        budget = {"max_items": config.max_items, "max_seconds": config.max_seconds}
        given = " and ".join(f"evaluate.{k}={v}" for k, v in budget.items() if v is not None)
        _print(
            out,
            f"The budget ended it ({given}). What is scored is kept, and the bounds hold; raise it to "
            "go on.",
        )
    _print(out, _explained(found, out.width))
    if found.num_from_cache:
        _print(out, f"{found.num_from_cache:,} scores were known from earlier evaluations.")
    _print(out, f"Items: {found.items_path}")


def _explained(found: Evaluation | Comparison, width: int) -> str:
    """What the columns mean: those that are shown, and no others."""
    hidden = left_out(found.slices, width)
    said = [
        f"Bounds: where the mean over all these items lies, with {percent(1 - found.alpha)}, whenever "
        "one stops."
    ]
    if any(is_outside(line) for line in found.slices):
        said.append(
            "A delta outside its bounds is of the items scored so far: the champion's scores of the "
            "others are known, and rule it out for all items."
        )
    if "std. error" not in hidden:
        said.append("Standard error: how far other items of the same kind would move it.")
    if hidden:
        said.append(f"A wider terminal or --json shows more ({', '.join(hidden)}).")
    return " ".join(said)


def is_outside(line: Line) -> bool:
    """Delta of the items so far is none that all items could have."""
    if not isinstance(line, Difference) or not line.champion_rest_known or line.delta is None:
        return False
    return not line.lower - SLACK <= line.delta <= line.upper + SLACK


# ---------------------------------------------------------------- Ctrl-C


class FinishBatch:
    """The first Ctrl-C lets the batch under way finish and keeps what is scored; the second stops.

    Before the first score there is nothing to keep, and the first one stops at once.
    """

    def __init__(self, live: LiveSlices) -> None:
        self._live = live
        self._asked = False

    def keep_going(self) -> bool:
        return not self._asked

    def __enter__(self) -> "FinishBatch":
        self._before = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._asked or not self._live.has_scores:
            raise KeyboardInterrupt
        self._asked = True
        note = "finishing this batch, then the files are written; Ctrl-C again stops at once"
        if self._live.is_live:
            self._live.note = note
        else:
            # A handler may have interrupted a print, which is not to be entered twice.
            os.write(2, f"ct-llm: {note}\n".encode())


# ---------------------------------------------------------------- cost


def print_costs(options: Options, *, num_adapters: int = 1) -> int:
    """What the slices would cost; nothing is run."""
    config = evaluate_config(options.slices, None, options.evaluate)
    found = costs.suite_costs(config, load_slices(config), options.hub, quiet=options.as_json)
    if options.as_json:
        show.as_json({"num_adapters": num_adapters, "suites": costs.as_data(found)})
    else:
        out = _out()
        out.print(costs.table(found, num_adapters))
        _print(out, costs.footnote(found, num_adapters))
    return 0
