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

from ct_llm.config import CTConfig
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
    StepName,
    TrainedAdapter,
)

if TYPE_CHECKING:
    from huggingface_hub import HfApi

    from ct_llm.prepare.overlap.decontaminate import EvalItem
    from ct_llm.watch.used import Use


@dataclass(frozen=True)
class Progress:
    """What a cycle says while it runs."""

    step: StepName
    text: str
    fraction: float | None = None
    """Of the step, 0 to 1, where it is known."""


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
        from ct_llm.evaluate.items import suite_items
        from ct_llm.evaluate.suite import load_suites
        from ct_llm.prepare.overlap.decontaminate import EvalItem

        if not self.config.prepare.decontamination.enabled:
            return []
        found = suite_items(
            load_suites(self.config.evaluate),
            cache=cache_folder(self.config),
            api=self.api,
            on_progress=lambda text: self._say("prepare", text),
        )
        return [EvalItem(*item) for item in found]

    def train(self) -> TrainedAdapter:
        from ct_llm.evaluate.evaluate import check_before_training
        from ct_llm.evaluate.suite import load_suites
        from ct_llm.train.train import train

        data, base = self.prepare_output(), self._base_model("train")
        if self.dir.record("train") is None:
            self._say("train", "checking the evaluation's tasks first", 0.0)
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
        from ct_llm.evaluate.evaluate import evaluate
        from ct_llm.evaluate.suite import load_suites, suite_identity

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
        champion = self.request.champion
        # A new order for each cycle: nobody can have tuned a challenger on the items that come first.
        seed = fingerprint([self.config.evaluate.order_seed, self.dir.cycle_id])
        config = self.config.evaluate.model_copy(update={"order_seed": int(seed[:8], 16)})
        self._say("evaluate", f"{len(suites)} suites, champion and challenger on one base", 0.0)
        result = self.dir.step(
            "evaluate",
            config=config,
            inputs=[
                [suite_identity(suite) for suite in suites],
                adapter.digest,
                champion.revision if champion else None,
                base.revision,
                self.config.base_model.dtype,
                _template(self.config),
                data.digest,
            ],
            output=EvalResult,
            run=lambda: evaluate(
                config,
                suites,
                base=base,
                base_config=self.config.base_model,
                challenger=self.dir.path / adapter.path,
                champion=self._champion_folder(),
                champion_revision=champion.revision if champion else None,
                holdout=self.dir.path / data.holdout_path,
                folder=self.dir.path,
                on_progress=lambda text: self._say("evaluate", text),
            ),
        )
        num_items = sum(part.num_items for part in result.slices)
        self._say("evaluate", f"{num_items:,} items a side in {result.seconds:.0f} s", 1.0)
        return result

    def gate(self) -> GateDecision:
        from ct_llm.evaluate.scores import read_scores
        from ct_llm.gate.gate import gate

        result = self.dir.output("evaluate", EvalResult)
        decision = self.dir.step(
            "gate",
            config=self.config.gate,
            inputs=[result],
            output=GateDecision,
            run=lambda: gate(
                self.config.gate,
                result,
                read_scores(self.dir.path / result.scores_path, result.scores_digest),
            ),
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
        )
        self.dir.write_outcome(summary)
        return summary

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
