"""One cycle: a method a step.

Each method hands its step what it needs and nothing more; the record in the cycle's folder makes
the same call free the next time.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ct_llm.config import CTConfig, GateConfig
from ct_llm.cycle_dir import CycleDir, now
from ct_llm.digests import fingerprint
from ct_llm.errors import AdapterError, ConfigError, DataError, InputError, SecurityError
from ct_llm.hub.client import BaseModelFolder, fetch_base_model
from ct_llm.records import (
    STEPS,
    ChampionRef,
    CycleSummary,
    EvalResult,
    GateDecision,
    PreparedData,
    PromotionRecord,
    Side,
    SlicePrefix,
    StepName,
    TrainedAdapter,
)

if TYPE_CHECKING:
    from huggingface_hub import HfApi

    from ct_llm.evaluation import ScoresAt
    from ct_llm.hub.anchor import Anchor
    from ct_llm.prepare.overlap.decontaminate import EvalItem
    from ct_llm.watch.used import Use


@dataclass(frozen=True)
class Progress:
    """What a cycle says while it runs."""

    step: StepName
    text: str
    fraction: float | None = None
    """Of the step, 0 to 1, where it is known."""
    prefixes: tuple[SlicePrefix, ...] = ()
    """Of an evaluation: what is scored so far."""


Tell = Callable[[Progress], None]


class Cycle:
    """One cycle: a method a step, each with its record."""

    def __init__(self, config: CTConfig, folder: CycleDir, api: "HfApi", tell: Tell) -> None:
        self.config = config
        self.dir = folder
        self.api = api
        self.request = folder.request()
        self._tell = tell
        self._base: BaseModelFolder | None = None

    def prepare(self) -> PreparedData:
        from ct_llm.hub.base_text import (
            read_base_text,
            renders_tools,
            special_tokens,
            token_lengths,
        )
        from ct_llm.prepare.prepare import prepare

        self._say("prepare", f"{self.request.data.num_unseen_rows:,} rows to read")
        base = read_base_text(self.api, self.config.base_model)
        tools, special = renders_tools(base.chat_template), special_tokens(base.tokenizer_json)
        items = self._eval_items()
        tokenizer = base.tokenizer_json
        data = self.dir.step(
            "prepare",
            config=self.config.prepare,
            inputs=[self.config.datasets, self.request.data, items, tools, special],
            output=PreparedData,
            run=lambda: prepare(
                self.config.prepare,
                self.request.data,
                datasets=self.config.datasets,
                eval_items=items,
                renders_tools=tools,
                special_tokens=special,
                open_file=open_files(self.config, self.api),
                cache=cache_folder(self.config),
                cycle=self.dir.path,
                count_tokens=tokenizer and partial(token_lengths, tokenizer_json=tokenizer),
                drift=self.request.decision.drift,
            ),
        )
        self._say(
            "prepare",
            f"{data.num_train:,} rows to train on ({data.num_replay:,} replayed), "
            f"{data.num_holdout:,} held out, {data.num_quarantined:,} quarantined",
            1.0,
        )
        return data

    def _eval_items(self) -> list["EvalItem"]:
        """Every item of every suite, which no training row may repeat."""
        from ct_llm.evaluate.suite import load_suites
        from ct_llm.evaluate.tasks.items import suite_items
        from ct_llm.prepare.overlap.decontaminate import EvalItem

        if not self.config.prepare.decontamination.enabled:
            return []
        found = suite_items(
            load_suites(self.config.evaluate),
            cache=cache_folder(self.config),
            api=self.api,
            dataset_revisions=self.config.evaluate.dataset_revisions,
            on_progress=lambda text: self._say("prepare", text),
        )
        return [EvalItem(*item) for item in found]

    def train(self) -> TrainedAdapter:
        from ct_llm.evaluate.evaluate import check_before_training
        from ct_llm.evaluate.suite import load_suites
        from ct_llm.train.train import train

        data, base = self.prepare_output(), self._base_model("train")
        if self.dir.record("train") is None:
            self._say("train", "checking the evaluation's tasks and adapters first", 0.0)
            self._anchor(base)
            check_before_training(
                self.config.evaluate,
                load_suites(self.config.evaluate),
                base=base,
                champion=self._champion_folder(),
            )
        continued = self.config.train.start_from == "champion" and self.request.champion is not None
        champion = self._champion_folder() if continued else None
        revision = self.request.champion.revision if continued and self.request.champion else None
        self._say("train", f"{data.num_train:,} rows, {self.config.train.epochs:g} epochs", 0.0)

        def progress(step: int, num_steps: int, loss: float) -> None:
            self._say(
                "train", f"step {step}/{num_steps}, loss {loss:.3f}", step / max(1, num_steps)
            )

        adapter = self.dir.step(
            "train",
            config=self.config.train,
            inputs=[
                data.digest,
                base.revision,
                self.config.base_model.dtype,
                _template(self.config),
                revision,
            ],
            output=TrainedAdapter,
            run=lambda: train(
                self.config.train,
                data,
                base=base,
                base_config=self.config.base_model,
                launch=self.config.launch,
                cycle=self.dir.path,
                champion_folder=champion,
                champion_revision=revision,
                on_progress=progress,
            ),
        )
        self._say("train", f"{adapter.num_steps} steps in {adapter.seconds:.0f} s", 1.0)
        return adapter

    def evaluate(self) -> EvalResult:
        from ct_llm.evaluate.journal import remove_journal
        from ct_llm.evaluate.sandbox import sandbox_problem
        from ct_llm.evaluate.suite import load_suites, suite_identity
        from ct_llm.evaluation import evaluate_until_decided, gate_digest

        data, adapter, base = (
            self.prepare_output(),
            self.train_output(),
            self._base_model("evaluate"),
        )
        if adapter.base_revision != base.revision:
            raise InputError(
                f"{self.dir.path}: the adapter was trained on {adapter.base_model} at "
                f"{adapter.base_revision}, but base_model is at {base.revision} now. Pin "
                "base_model.revision, or run the train step again."
            )
        suites = load_suites(self.config.evaluate)
        gate = self._gate_config()
        champion = self.request.champion
        anchor = self._anchor(base)
        # A new order for each cycle: nobody can have tuned a challenger on the items that come first.
        seed = fingerprint([self.config.evaluate.order_seed, self.dir.cycle_id])
        config = self.config.evaluate.model_copy(update={"order_seed": int(seed[:8], 16)})
        against = f", v{anchor.version} as anchor" if anchor else ""
        names = ", ".join(suite.slice for suite in suites) or "none"
        self._say("evaluate", f"champion and challenger on one base{against}, suites: {names}", 0.0)

        def run() -> EvalResult:
            adapters: dict[Side, Path | None] = {
                "champion": self._champion_folder(),
                "challenger": self.dir.path / adapter.path,
            }
            revisions: dict[Side, str | None] = {
                "champion": champion.revision if champion else None,
                "challenger": None,
            }
            if anchor is not None:
                adapters["anchor"], revisions["anchor"] = anchor.folder, anchor.revision
            result = evaluate_until_decided(
                config,
                gate,
                suites,
                base=base,
                base_config=self.config.base_model,
                adapters=adapters,
                revisions=revisions,
                holdout=self.dir.path / data.holdout_path,
                folder=self.dir.path,
                scores=self._scores_at(),
                on_progress=lambda now: self._tell(
                    Progress("evaluate", now.text, now.fraction, now.prefixes)
                ),
            )
            self._check_evaluated(result, adapter)
            return result

        result = self.dir.step(
            "evaluate",
            config=config,
            inputs=[
                [suite_identity(suite) for suite in suites],
                adapter.digest,
                champion.revision if champion else None,
                anchor.revision if anchor else None,
                base.revision,
                self.config.base_model.dtype,
                _template(self.config),
                data.digest,
                # When to stop. What the gate does beside it may change without a new score.
                gate_digest(gate),
                # A slice that was left out for want of a sandbox is scored once there is one.
                sandbox_problem() if any(suite.executes_code for suite in suites) else None,
            ],
            output=EvalResult,
            run=run,
        )
        remove_journal(self.dir.path)
        num_items = sum(part.num_items for part in result.slices)
        num_scored = sum(part.num_scored for part in result.slices)
        known = f", {result.num_from_cache:,} scores known before" * (result.num_from_cache > 0)
        self._say(
            "evaluate",
            f"{num_scored:,} of {num_items:,} items a side in {result.seconds:.0f} s{known}",
            1.0,
        )
        return result

    def gate(self) -> GateDecision:
        from ct_llm.evaluation import decide

        result = self.dir.output("evaluate", EvalResult)
        config = self._gate_config()
        decision = self.dir.step(
            "gate",
            config=config,
            inputs=[result],
            output=GateDecision,
            run=lambda: decide(config, result, self.dir.path),
        )
        self._say("gate", decision.sentence, 1.0)
        return decision

    def promote(self) -> PromotionRecord:
        from ct_llm.promote.promote import promote

        data, adapter = self.prepare_output(), self.train_output()
        decision = self.dir.output("gate", GateDecision)
        self._say("promote", f"to {self.request.adapter_repo}: {decision.verdict}", 0.0)
        if decision.challenger_digest != adapter.digest:
            raise SecurityError(
                f"{self.dir.path}: the gate decided on adapter {decision.challenger_digest[:12]}, "
                f"but {adapter.digest[:12]} is there now. Run `ct-llm evaluate` and `gate` again."
            )
        champion = self.request.champion
        if decision.champion_revision != (champion.revision if champion else None):
            raise SecurityError(
                f"{self.dir.path}: the gate compared with the champion at "
                f"{decision.champion_revision}, but the cycle's is at "
                f"{champion.revision if champion else None}. Run `ct-llm evaluate` and `gate` again."
            )
        record = self.dir.step(
            "promote",
            config=self.config.promote,
            inputs=[decision, adapter.digest, self.request.head_revision],
            output=PromotionRecord,
            run=lambda: promote(
                self.config.promote,
                api=self.api,
                hub=self.config.hub,
                request=self.request,
                data=data,
                snapshot=self.request.data,
                adapter=adapter,
                adapter_folder=self.dir.path / adapter.path,
                decision=decision,
            ),
        )
        done = f"{record.tag} is the champion" if record.tag else "kept for review"
        self._say("promote", f"{done}: {record.url}", 1.0)
        return record

    def finish(self) -> CycleSummary:
        """Enter the cycle in the ledger, then close its folder."""
        from ct_llm.hub.ledger import append_to_ledger
        from ct_llm.promote.champion import used_files
        from ct_llm.promote.promote import summarise_cycle
        from ct_llm.watch.state import state_after
        from ct_llm.watch.used import Use

        decision = self.dir.output("gate", GateDecision)
        promotion = self.dir.output("promote", PromotionRecord)
        done = self.dir.outcome()
        if done is not None and (done.challenger_digest, done.revision, done.review_number) == (
            decision.challenger_digest,
            promotion.revision,
            promotion.review_number,
        ):
            return done
        records = {name: self.dir.record(name) for name in STEPS}
        summary = summarise_cycle(
            self.request,
            self.request.data,
            self.prepare_output(),
            decision,
            promotion,
            {name: record.seconds for name, record in records.items() if record},
            now(),
        )
        cycle = Use(summary.cycle_id, summary.datasets)
        state = state_after(
            self.config.watch,
            self.config.datasets,
            self.request.data,
            champion=champion_use(self.request.champion),
            cycle=cycle,
            promoted=summary.outcome == "promoted",
        )
        append_to_ledger(
            self.api,
            self.config.adapter_repo,
            summary,
            used=used_files(self.request.data),
            watch=state,
            more=self._kept_with_entry(decision),
        )
        self.dir.write_outcome(summary)
        return summary

    def _kept_with_entry(self, decision: GateDecision) -> "Callable[[str], dict[str, bytes]]":
        from ct_llm.evaluation import kept_with_entry

        return kept_with_entry(
            self.dir.path,
            self.dir.output("evaluate", EvalResult),
            decision,
            self._scores_at(),
            self.api,
            texts=self.config.promote.include_samples,
        )

    # ------------------------------------------------------------ what several steps need

    def prepare_output(self) -> PreparedData:
        return self.dir.output("prepare", PreparedData)

    def train_output(self) -> TrainedAdapter:
        return self.dir.output("train", TrainedAdapter)

    @contextmanager
    def failing_for_good_is_noted(self) -> Iterator[None]:
        """Bad data stays bad: the next run looks for newer rows instead of failing here again.

        What is mended outside (a token, a name in the config) leaves the cycle to be continued.
        """
        try:
            yield
        except (DataError, AdapterError, SecurityError) as error:
            self.dir.note_failure(str(error))
            raise

    def _base_model(self, step: StepName) -> BaseModelFolder:
        if self._base is None:
            self._say(step, f"fetching base model {self.config.base_model.repo}", 0.0)
            base = fetch_base_model(self.api, self.config.base_model)
            champion = self.request.champion
            lineage = champion.lineage if champion else None
            if lineage is not None and lineage.base_revision != base.revision:
                raise InputError(
                    f"champion v{lineage.version} sits on base model {lineage.base_model} at "
                    f"{lineage.base_revision}, but base_model names {base.repo} at {base.revision}. "
                    f"Pin base_model.revision: {lineage.base_revision}, or start a new adapter_repo "
                    "for the new base."
                )
            self._base = base
        return self._base

    def _anchor(self, base: BaseModelFolder) -> "Anchor | None":
        from ct_llm.hub.anchor import find_anchor

        return find_anchor(self.api, self.config.gate.anchor, self.request.champion, base)

    def _gate_config(self) -> GateConfig:
        """With its target named. Raises ConfigError."""
        from ct_llm.evaluate.suite import load_suites
        from ct_llm.evaluation import resolved_gate

        evaluation = self.config.evaluate
        return resolved_gate(self.config.gate, evaluation, load_suites(evaluation))

    def _scores_at(self) -> "ScoresAt":
        from ct_llm.evaluation import ScoresAt

        return ScoresAt(
            cache=cache_folder(self.config) / "scores",
            repo=self.config.adapter_repo if self.config.evaluate.cache_scores else None,
            hub=self.config.hub,
        )

    def _check_evaluated(self, result: EvalResult, adapter: TrainedAdapter) -> None:
        """The adapters that were scored are those of the records. Raises SecurityError."""
        champion = self.request.champion
        lineage = champion.lineage if champion else None
        pairs = [("challenger", result.challenger_digest, adapter.digest)]
        if lineage is not None:
            pairs.append(("champion", result.champion_digest or "", lineage.adapter_digest))
        for side, evaluated, expected in pairs:
            if evaluated != expected:
                raise SecurityError(
                    f"{self.dir.path}: {side} {evaluated[:12]} was evaluated, but it should be "
                    f"{expected[:12]}. It was changed on this disk; run the steps before again."
                )

    def _champion_folder(self) -> Path | None:
        from ct_llm.hub.adapter_repo import download_adapter

        champion = self.request.champion
        if champion is None:
            return None
        return download_adapter(self.api, champion.repo, champion.revision)

    def _say(self, step: StepName, text: str, fraction: float | None = None) -> None:
        self._tell(Progress(step, text, fraction))


def champion_use(champion: ChampionRef | None) -> "Use | None":
    """Which cycle's data the champion was trained on, as far as it is known."""
    from ct_llm.watch.used import Use

    lineage = champion.lineage if champion else None
    return Use(lineage.cycle_id, lineage.datasets) if lineage else None


def cache_folder(config: CTConfig) -> Path:
    """What can be made again from elsewhere, and is only kept to save time."""
    return config.work_dir / "cache"


def open_files(config: CTConfig, api: "HfApi") -> Callable[[str, str, str], Path]:
    """(name of a dataset, revision, path) -> the file on this disk."""
    from ct_llm.sources.source import open_source

    sources = {d.key: open_source(d, api, cache_folder(config)) for d in config.datasets}
    return lambda name, revision, path: sources[name].open(path, revision)


def _template(config: CTConfig) -> str | None:
    """The chat template's identity is its text, not its path."""
    path = config.base_model.chat_template
    if path is None:
        return None
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"base_model.chat_template: {path} cannot be read: {error}") from None
