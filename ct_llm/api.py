"""The functions behind `import ct_llm`: one step or one comparison, without a command line.

Adapters are named by a local folder, or by `owner/name` or `owner/name@revision` on the Hub.
"""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ct_llm.adapter_names import NamedAdapter, base_of, find_adapter
from ct_llm.comparison import Comparison, Evaluation
from ct_llm.config import (
    BaseModelConfig,
    CTConfig,
    EvaluateConfig,
    GateConfig,
    HubConfig,
    WatchConfig,
    load_config,
    validate,
)
from ct_llm.cycle import Cycle
from ct_llm.cycle_dir import CycleDir
from ct_llm.errors import DataError, InputError
from ct_llm.hub.client import fetch_base_model, hub_api, use_endpoint
from ct_llm.pipeline import check_target, look
from ct_llm.records import CycleSummary, GateDecision, PromotionRecord, Side, TriggerDecision
from ct_llm.scoring import KeepGoing, OnProgress, Scoring


def check_for_retraining_trigger(
    threshold_samples: int = 10_000, *, config: CTConfig | Path | str = "ct.yaml"
) -> TriggerDecision:
    """Are there at least `threshold_samples` rows that neither champion nor last attempt has used?

    True in a condition when training is due; `sentence` and `reasons` say why or why not. Reads
    commits and file footers on the Hub, changes nothing. `threshold_samples` stands in for the
    config's `watch.threshold_samples`; its other rules and brakes hold as they are. Raises CtError.
    """
    from ct_llm.hub.adapter_repo import read_head

    loaded = _config(config)
    watch = validate(WatchConfig, {"threshold_samples": threshold_samples}, "threshold_samples")
    watch = loaded.watch.model_copy(update={"threshold_samples": watch.threshold_samples})
    loaded = loaded.model_copy(update={"watch": watch})
    with _no_bars(loaded.hub):
        api = hub_api(loaded.hub)
        return look(loaded, api, read_head(api, loaded.adapter_repo)).decision


def evaluate(
    adapter: Path | str | None,
    slices: Sequence[str],
    *,
    base_model: BaseModelConfig | str | None = None,
    chat_template: Path | None = None,
    limit: int | None = None,
    config: EvaluateConfig | None = None,
    folder: Path | None = None,
    hub: HubConfig | None = None,
    on_progress: OnProgress | None = None,
    keep_going: KeepGoing | None = None,
) -> Evaluation:
    """Score one adapter item by item on some slices; None: the base model itself.

    slices: names of shipped suites or paths of suite files. base_model: a Hub id (`id@revision`) or a
    folder; default: the one that the adapter names. limit: only the first items of each task. config:
    how to evaluate (engine, batches, device); its suites, `newest` and limit do not count here. folder:
    where the files go (default: below `ct_llm_eval` here); `evaluation.parquet` has a row an item.
    keep_going: asked after every batch; on False the rest is left out, and the bounds say what that
    leaves open. Raises CtError.
    """
    hub = hub or HubConfig()
    with _no_bars(hub):
        named: dict[Side, NamedAdapter] = {"challenger": find_adapter(adapter, hub)}
        run = Scoring.prepare(named, slices, base_model, chat_template, limit, config, hub)
        place = folder or Path("ct_llm_eval") / run.folder_name
        return run.evaluation(place, on_progress=on_progress, keep_going=keep_going)


def compare(
    champion: Path | str | None,
    challenger: Path | str | None,
    slices: Sequence[str],
    *,
    until_decided: bool = False,
    alpha: float = 0.05,
    base_model: BaseModelConfig | str | None = None,
    chat_template: Path | None = None,
    limit: int | None = None,
    config: EvaluateConfig | None = None,
    folder: Path | None = None,
    hub: HubConfig | None = None,
    on_progress: OnProgress | None = None,
    keep_going: KeepGoing | None = None,
) -> Comparison:
    """Two adapters of one base on the same items; None stands for the base model itself.

    Per slice and task: both means, delta (challenger minus champion) with bounds that hold at any
    time with probability 1 - alpha, wins, losses and ties. until_decided: a slice ends as soon as its
    bounds exclude zero. Files go below `ct_llm_compare`; `comparison.parquet` has a row an item. The
    other arguments are those of `evaluate`. Raises CtError.
    """
    if not 0 < alpha < 0.5:
        raise InputError(f"alpha is a risk between 0 and 0.5, such as 0.05; not {alpha}.")
    hub = hub or HubConfig()
    with _no_bars(hub):
        named: dict[Side, NamedAdapter] = {
            "champion": find_adapter(champion, hub),
            "challenger": find_adapter(challenger, hub),
        }
        run = Scoring.prepare(named, slices, base_model, chat_template, limit, config, hub)
        place = folder or Path("ct_llm_compare") / run.folder_name
        return run.comparison(
            place,
            alpha,
            until_decided=until_decided,
            on_progress=on_progress,
            keep_going=keep_going,
        )


def validate_new_model(
    model_path: Path | str,
    champion_model_path: Path | str | None,
    test_data: Path | str | Sequence[dict[str, Any]],
    *,
    suites: Sequence[str] = (),
    base_model: BaseModelConfig | str | None = None,
    chat_template: Path | None = None,
    gate_config: GateConfig | None = None,
    config: EvaluateConfig | None = None,
    hub: HubConfig | None = None,
    on_progress: OnProgress | None = None,
) -> GateDecision:
    """Should this adapter replace the champion? True in a condition only for "promote".

    test_data: held-out rows (a .parquet, .jsonl or .json file, or a list of rows) in any format
    that `prepare` reads. The challenger must give their responses a higher likelihood than the
    champion (slice `newest`: exp(log-likelihood / bytes), between 0 and 1), and may lose at most
    their tolerance on the `suites`. champion_model_path=None stands for the base model itself.
    Items are scored only until the full evaluation's verdict is certain up to `gate_config.alpha`.
    Raises CtError.
    """
    from ct_llm.evaluate.suite import load_suites
    from ct_llm.evaluation import evaluate_until_decided, gate_cycle_files
    from ct_llm.prepare.held_out import write_held_out

    gate, hub = gate_config or GateConfig(), hub or HubConfig()
    with _no_bars(hub), tempfile.TemporaryDirectory(prefix="ct_llm_") as temporary:
        folder = Path(temporary)
        num_rows = write_held_out(_rows(test_data), folder / "holdout.parquet")
        chosen = (config or EvaluateConfig()).model_dump()
        chosen["suites"] = list(suites)
        chosen["newest"] |= {"enabled": True, "max_items": max(1, num_rows)}
        evaluation = validate(EvaluateConfig, chosen, "evaluate")
        loaded = load_suites(evaluation)
        gate = check_target(gate, evaluation, loaded)
        challenger = find_adapter(model_path, hub)
        champion = find_adapter(champion_model_path, hub)
        base_config = base_of([champion, challenger], base_model, chat_template)
        result = evaluate_until_decided(
            evaluation,
            gate,
            loaded,
            base=fetch_base_model(hub_api(hub), base_config),
            base_config=base_config,
            adapters={"champion": champion.folder, "challenger": challenger.folder},
            revisions={"champion": champion.revision, "challenger": challenger.revision},
            holdout=folder / "holdout.parquet",
            folder=folder,
            on_progress=on_progress,
        )
        return gate_cycle_files(gate, result, folder)


def promote(cycle: Path | str, *, config: CTConfig | Path | str | None = None) -> PromotionRecord:
    """Carry out the gate's decision on a cycle: one commit on the Hub, or a review for a human.

    cycle: the cycle's folder. Raises CtError.
    """
    folder = CycleDir(Path(cycle))
    folder.request()  # raises where there is no cycle, before anything is written there
    loaded = folder.config() if config is None else _config(config)
    with _no_bars(loaded.hub), folder.locked():
        step = Cycle(loaded, folder, hub_api(loaded.hub), lambda _: None)
        record = step.promote()
        step.finish()
    return record


def rollback(
    config: CTConfig | Path | str = "ct.yaml", *, to: str | None = None, reason: str
) -> CycleSummary:
    """Make an earlier champion (`to="v3"`; default: the one before) the head again, in one commit.

    Raises CtError.
    """
    from ct_llm.promote.rollback import rollback as roll_back

    loaded = _config(config)
    with _no_bars(loaded.hub):
        return roll_back(hub_api(loaded.hub), loaded.adapter_repo, to=to, reason=reason)


# ---------------------------------------------------------------- what they share


@contextmanager
def _no_bars(hub: HubConfig) -> Iterator[None]:
    """No bars of the Hub's client on the caller's stderr; afterwards they are as they were.

    Whoever asks for them with HF_HUB_DISABLE_PROGRESS_BARS=0 gets them.
    """
    use_endpoint(hub.endpoint)  # before the client is imported, which fixes it
    from huggingface_hub import constants
    from huggingface_hub.utils import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    if constants.HF_HUB_DISABLE_PROGRESS_BARS is False or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


def _config(config: CTConfig | Path | str) -> CTConfig:
    return config if isinstance(config, CTConfig) else load_config(config)


def _rows(test_data: Path | str | Sequence[dict[str, Any]]) -> Path | Sequence[dict[str, Any]]:
    if not isinstance(test_data, (str, Path)):
        return test_data
    path = Path(test_data)
    if not path.is_file():
        raise DataError(f"test_data: {path} is not a file. Give a .parquet, .jsonl or .json file.")
    return path


__all__ = [
    "check_for_retraining_trigger",
    "compare",
    "evaluate",
    "promote",
    "rollback",
    "validate_new_model",
]
