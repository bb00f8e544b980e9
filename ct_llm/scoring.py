"""Scores for whoever looks at slices without a gate: one adapter, or two beside each other.

The same engine, the same order of items and the same store of known scores as in a cycle; nothing is
decided but when to stop.
"""

import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ct_llm.adapter_names import NamedAdapter, base_of
from ct_llm.comparison import (
    Comparison,
    Evaluation,
    adapter_mean,
    by_task,
    compared_item,
    difference,
    slice_prefix,
    write_compared,
    write_evaluated,
)
from ct_llm.config import BaseModelConfig, EvaluateConfig, HubConfig, Suite, shipped, validate
from ct_llm.config_errors import nearest
from ct_llm.cycle_dir import read_record, write_record
from ct_llm.digests import fingerprint
from ct_llm.errors import ConfigError, InputError, SecurityError, StorageError
from ct_llm.evaluate.journal import remove_journal
from ct_llm.hub.client import BaseModelFolder, fetch_base_model, hub_api
from ct_llm.records import EvalResult, ItemScore, OrderedItem, Side, SlicePrefix

if TYPE_CHECKING:
    from ct_llm.evaluate.progress import EvaluateProgress

OnProgress = Callable[["EvaluateProgress"], None]
KeepGoing = Callable[[], bool]
"""Asked after every batch; False ends the evaluation with what is scored."""

NAMED_BY = "--slice (slices= in Python)"
ALPHA = 0.05
"""Of the bounds of one adapter's means."""


@dataclass(frozen=True)
class Scoring:
    """Who is scored on what: everything is found and checked, nothing is loaded."""

    adapters: Mapping[Side, NamedAdapter]
    suites: Sequence[Suite]
    config: EvaluateConfig
    base_config: BaseModelConfig
    base: BaseModelFolder
    hub: HubConfig

    @classmethod
    def prepare(
        cls,
        adapters: Mapping[Side, NamedAdapter],
        slices: Sequence[str],
        base_model: BaseModelConfig | str | None = None,
        chat_template: Path | None = None,
        limit: int | None = None,
        config: EvaluateConfig | None = None,
        hub: HubConfig | None = None,
    ) -> "Scoring":
        """Raises ConfigError (slices, limit), InputError (different bases, one adapter twice),
        SecurityError (generated code without a sandbox), AdapterError, HubNotFoundError, ...
        """
        evaluation = evaluate_config(slices, limit, config)
        suites = load_slices(evaluation)
        _check_sandbox(suites)
        _check_different(adapters)
        base_config = base_of(list(adapters.values()), base_model, chat_template)
        hub = hub or HubConfig()
        base = fetch_base_model(hub_api(hub), base_config)
        return cls(adapters, suites, evaluation, base_config, base, hub)

    @property
    def folder_name(self) -> str:
        """What was scored, in words and as a digest: the same call finds its files again."""
        names = [_short(adapter.label) for adapter in self.adapters.values()]
        slices = "+".join(suite.slice for suite in self.suites)
        asked = fingerprint(
            [
                {side: adapter.digest for side, adapter in self.adapters.items()},
                self.base.revision,
                [suite.model_dump(mode="json", exclude={"task_dir"}) for suite in self.suites],
                self.config.limit,
            ]
        )
        return f"{'_vs_'.join(names)}_{slices}_{asked[:8]}"

    def evaluation(
        self,
        folder: Path,
        *,
        on_progress: OnProgress | None = None,
        keep_going: KeepGoing | None = None,
    ) -> Evaluation:
        """Raises what `evaluate.evaluate` raises, and InputError where the folder is not to be had."""
        rule = _Rule(keep_going)
        scored = self._score(folder, rule, on_progress)
        adapter, path = self.adapters["challenger"], folder / "evaluation.parquet"
        write_evaluated(path, [row for part in scored.slices for row in part.rows("challenger")])
        record = Evaluation(
            adapter=adapter.label,
            digest=adapter.digest,
            revision=adapter.revision,
            base_model=scored.result.base_model,
            base_revision=scored.result.base_revision,
            alpha=ALPHA,
            slices=tuple(adapter_mean(part.prefix, ALPHA) for part in scored.slices),
            tasks=tuple(
                adapter_mean(prefix, ALPHA, task)
                for part in scored.slices
                for task, prefix in part.tasks.items()
            ),
            items_path=path,
            interrupted=rule.interrupted,
            budget_spent=scored.result.stopped == "budget",
            num_from_cache=scored.result.num_from_cache,
            engine=scored.result.engine,
            seconds=scored.result.seconds,
        )
        write_record(folder / "evaluation.json", record)
        remove_journal(folder)
        return record

    def comparison(
        self,
        folder: Path,
        alpha: float,
        *,
        until_decided: bool = False,
        on_progress: OnProgress | None = None,
        keep_going: KeepGoing | None = None,
    ) -> Comparison:
        """Raises what `evaluate.evaluate` raises, and InputError where the folder is not to be had."""
        rule = _Rule(keep_going, alpha if until_decided else None)
        scored = self._score(folder, rule, on_progress)
        champion, challenger = self.adapters["champion"], self.adapters["challenger"]
        path = folder / "comparison.parquet"
        pairs = [
            compared_item(*pair)
            for part in scored.slices
            for pair in zip(part.rows("champion"), part.rows("challenger"), strict=True)
        ]
        write_compared(path, pairs)
        record = Comparison(
            champion=champion.label,
            challenger=challenger.label,
            champion_digest=champion.digest,
            challenger_digest=challenger.digest,
            champion_revision=champion.revision,
            challenger_revision=challenger.revision,
            base_model=scored.result.base_model,
            base_revision=scored.result.base_revision,
            alpha=alpha,
            slices=tuple(difference(part.prefix, alpha) for part in scored.slices),
            tasks=tuple(
                difference(prefix, alpha, task)
                for part in scored.slices
                for task, prefix in part.tasks.items()
            ),
            items_path=path,
            interrupted=rule.interrupted,
            budget_spent=scored.result.stopped == "budget",
            num_from_cache=scored.result.num_from_cache,
            engine=scored.result.engine,
            seconds=scored.result.seconds,
        )
        write_record(folder / "comparison.json", record)
        remove_journal(folder)
        return record

    def _score(self, folder: Path, rule: "_Rule", on_progress: OnProgress | None) -> "_Scored":
        from ct_llm.evaluate.evaluate import evaluate
        from ct_llm.evaluate.score_store import LocalScores
        from ct_llm.evaluate.scores import read_items, read_scores

        _make(folder)
        self._check_same(folder)
        # Not the ledger's scores: outputs may be cut short there, and here they are looked at.
        known = LocalScores(cache_folder()) if self.config.cache_scores else None
        result = evaluate(
            self.config,
            self.suites,
            base=self.base,
            base_config=self.base_config,
            adapters={side: adapter.folder for side, adapter in self.adapters.items()},
            revisions={side: adapter.revision for side, adapter in self.adapters.items()},
            holdout=None,
            folder=folder,
            stopping=rule,
            store=known,
            cached_sides=tuple(self.adapters),
            on_progress=on_progress,
        )
        items = read_items(folder / result.items_path, result.items_digest)
        scores = read_scores(folder / result.scores_path, result.scores_digest)
        return _Scored.read(result, items, scores)

    def _check_same(self, folder: Path) -> None:
        """Nobody's results are written over, but by the same call.

        Raises InputError where the folder holds those of other adapters, slices or base model.
        """
        own = (
            {side: adapter.digest for side, adapter in self.adapters.items()},
            {suite.slice for suite in self.suites},
            self.base.revision,
        )
        for path, model in _RESULTS.items():
            if not (folder / path).exists():
                continue
            try:
                there = read_record(folder / path, model)
            except InputError:
                what = f"a {path} that this version cannot read"
            else:
                if _identity(there) == own:
                    continue
                what = f"the results of {_in_words(there)}"
            raise InputError(
                f"{folder} holds {what}, which would be written over. Name another folder with --out "
                "(folder= in Python), or remove this one."
            )


_RESULTS: dict[str, type[Evaluation] | type[Comparison]] = {
    "evaluation.json": Evaluation,
    "comparison.json": Comparison,
}


def _identity(found: Evaluation | Comparison) -> tuple[dict[Side, str | None], set[str], str]:
    digests: dict[Side, str | None] = (
        {"challenger": found.digest}
        if isinstance(found, Evaluation)
        else {"champion": found.champion_digest, "challenger": found.challenger_digest}
    )
    return digests, {line.slice for line in found.slices}, found.base_revision


def _in_words(found: Evaluation | Comparison) -> str:
    who = (
        found.adapter
        if isinstance(found, Evaluation)
        else f"{found.champion} against {found.challenger}"
    )
    slices = ", ".join(line.slice for line in found.slices)
    return f"{who} on {slices} (base model {found.base_model} at {found.base_revision[:12]})"


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        place = next(path for path in (folder, *folder.parents) if path.exists())
        raise InputError(
            f"{folder} cannot be the results' folder: {place} is a file. Name another folder with "
            "--out (folder= in Python)."
        ) from None
    except OSError as error:
        raise StorageError(
            f"{folder} could not be made: {error.strerror or error}. Mend it or name another folder "
            "with --out (folder= in Python), then run the same command again."
        ) from error


def load_slices(config: EvaluateConfig) -> list[Suite]:
    """The suites of `evaluate_config`. Raises ConfigError, which speaks of the slices that were asked
    for: here is no config that could name them."""
    from ct_llm.evaluate.suite import load_suites

    for name in config.suites:
        _check_there(name)
    try:
        return load_suites(config)
    except ConfigError as error:
        place, said, problem = str(error).partition("evaluate.suites: ")
        raise ConfigError(f"{NAMED_BY}: {problem}" if said and not place else str(error)) from None


def _check_there(name: str) -> None:
    if name.endswith((".yaml", ".yml")):
        if not Path(name).is_file():
            raise ConfigError(
                f"{NAMED_BY}: no such file: {name} (looked from {Path.cwd()}). Give the path of a "
                "suite file or the name of a shipped suite."
            )
        return
    names = sorted(path.stem for path in shipped("eval_suites").glob("*.yaml"))
    if name not in names:
        raise ConfigError(
            f"{NAMED_BY}: no suite {name!r}{nearest(name, names)}. Shipped: {', '.join(names)}; or "
            f"give the path of a .yaml file, relative to the current folder ({Path.cwd()})."
        )


def evaluate_config(
    slices: Sequence[str], limit: int | None, config: EvaluateConfig | None
) -> EvaluateConfig:
    """How to score these slices and nothing else. Raises ConfigError."""
    if not slices:
        raise InputError("no slice is named. Give at least one, such as `smoke`.")
    chosen = (config or EvaluateConfig()).model_dump()
    chosen["suites"] = list(slices)
    chosen["newest"]["enabled"] = False
    chosen["limit"] = limit if limit is not None else chosen["limit"]
    found = validate(EvaluateConfig, chosen, "evaluate")
    if found.num_processes > 1:
        raise InputError(
            "evaluate.num_processes: slices are looked at in one process; only cycles share them out."
        )
    return found


def cache_folder() -> Path:
    """Scores known from earlier evaluations of this user: `$XDG_CACHE_HOME/ct_llm/scores`."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "ct_llm" / "scores"


def _check_sandbox(suites: Sequence[Suite]) -> None:
    """Said at once, and not by a slice that is missing at the end."""
    from ct_llm.evaluate.sandbox import sandbox_problem

    refused = [suite.slice for suite in suites if suite.executes_code]
    problem = sandbox_problem() if refused else None
    if problem is not None:
        raise SecurityError(
            f"{', '.join(refused)}: its grader runs generated code, and {problem}. Nothing was run."
        )


def _check_different(adapters: Mapping[Side, NamedAdapter]) -> None:
    first, *others = adapters.values()
    for other in others:
        if other.digest == first.digest:
            what = f"adapter {first.digest[:12]}" if first.digest else "the base model itself"
            raise InputError(
                f"{first.label} and {other.label} are both {what}: there is nothing to compare."
            )


def _short(label: str) -> str:
    """The last part of a folder or repo name, fit for a file name."""
    last = label.rstrip("/").rsplit("/", 1)[-1] or "adapter"
    return re.sub(r"[^\w.@-]", "-", last)


# ---------------------------------------------------------------- when to stop, and what came of it


@dataclass
class _Rule:
    """Every item of every slice, but for what is decided and for who asks to stop."""

    keep_going: KeepGoing | None
    decided_at: float | None = None
    """Alpha at which a slice's bounds exclude zero; none: every item."""
    interrupted: bool = field(default=False, init=False)

    def __call__(self, slices: Sequence[str], prefixes: Sequence[SlicePrefix]) -> Collection[str]:
        wanted = [prefix.scores.slice for prefix in prefixes if self._wants_more(prefix)]
        # With nothing left to do, nobody has interrupted anything.
        if wanted and self.keep_going is not None and not self.keep_going():
            self.interrupted = True
            return ()
        return wanted

    def _wants_more(self, prefix: SlicePrefix) -> bool:
        if prefix.scores.num_scored >= prefix.scores.num_items:
            return False
        if self.decided_at is None:
            return True
        return difference(prefix, self.decided_at).state == "undecided"


@dataclass(frozen=True)
class _ScoredSlice:
    prefix: SlicePrefix
    tasks: Mapping[str, SlicePrefix]
    item_ids: Sequence[str]
    """The first n of the random order."""
    scored: Mapping[tuple[Side, str], ItemScore]

    def rows(self, side: Side) -> list[ItemScore]:
        return [self.scored[side, item] for item in self.item_ids]


@dataclass(frozen=True)
class _Scored:
    result: EvalResult
    slices: Sequence[_ScoredSlice]

    @classmethod
    def read(
        cls, result: EvalResult, items: Sequence[OrderedItem], scores: Sequence[ItemScore]
    ) -> "_Scored":
        parts = []
        for summary in result.slices:
            if summary.not_evaluated is not None:
                raise InputError(f"{summary.slice} was not scored: {summary.not_evaluated}")
            own = [item for item in items if item.slice == summary.slice]
            scored: dict[tuple[Side, str], ItemScore] = {
                (score.adapter, score.item_id): score
                for score in scores
                if score.slice == summary.slice
            }
            parts.append(
                _ScoredSlice(
                    slice_prefix(summary, own, scored),
                    by_task(summary, own, scored),
                    [item.item_id for item in own[: summary.num_scored]],
                    scored,
                )
            )
        return cls(result, parts)
