"""The functions behind `import ct_llm`: one step or one comparison, without a command line.

Adapters are named by a local folder, or by `owner/name` or `owner/name@revision` on the Hub.
"""

import json
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ct_llm.config import (
    BaseModelConfig,
    CTConfig,
    EvaluateConfig,
    GateConfig,
    HubConfig,
    NewestConfig,
    WatchConfig,
    load_config,
    validate,
)
from ct_llm.cycle import Cycle
from ct_llm.cycle_dir import CycleDir
from ct_llm.errors import AdapterError, DataError, InputError
from ct_llm.hub.client import fetch_base_model, hub_api
from ct_llm.pipeline import check_target, look
from ct_llm.records import (
    CycleSummary,
    EvalResult,
    GateDecision,
    PromotionRecord,
    TriggerDecision,
)


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
    api = hub_api(loaded.hub)
    return look(loaded, api, read_head(api, loaded.adapter_repo)).decision


def evaluate(
    challenger: Path | str,
    suites: Sequence[str],
    *,
    champion: Path | str | None = None,
    base_model: str | None = None,
    chat_template: Path | None = None,
    limit: int | None = None,
    folder: Path | None = None,
    hub: HubConfig | None = None,
) -> EvalResult:
    """Score two adapters of one base item by item; `champion=None` stands for the base model itself.

    suites: names of shipped suites or paths of suite files. folder: where `scores.parquet` goes
    (default: `ct_llm_scores` here); read it with `ct_llm.evaluate.scores.read_scores`. base_model:
    a Hub id or folder; default: the one that the adapter names. Raises CtError.
    """
    return _evaluate(
        challenger,
        champion,
        validate(
            EvaluateConfig,
            {"suites": list(suites), "newest": {"enabled": False}, "limit": limit},
            "evaluate",
        ),
        holdout=None,
        base_model=base_model,
        chat_template=chat_template,
        folder=folder or Path("ct_llm_scores"),
        hub=hub or HubConfig(),
    )


def compare(
    challenger: Path | str,
    champion: Path | str | None,
    suites: Sequence[str],
    *,
    target: str,
    base_model: str | None = None,
    chat_template: Path | None = None,
    limit: int | None = None,
    gate_config: GateConfig | None = None,
    folder: Path | None = None,
    hub: HubConfig | None = None,
) -> GateDecision:
    """`evaluate`, then the gate: every slice a guard but `target`, which must improve.

    Raises CtError.
    """
    config = (gate_config or GateConfig()).model_copy(update={"target": target})
    _check_target(config, EvaluateConfig(suites=list(suites), newest=NewestConfig(enabled=False)))
    with ExitStack() as stack:
        place = folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ct_llm_")))
        result = evaluate(
            challenger,
            suites,
            champion=champion,
            base_model=base_model,
            chat_template=chat_template,
            limit=limit,
            folder=place,
            hub=hub,
        )
        return _gate(config, result, place)


def validate_new_model(
    model_path: Path | str,
    champion_model_path: Path | str | None,
    test_data: Path | str | Sequence[dict[str, Any]],
    *,
    suites: Sequence[str] = (),
    base_model: str | None = None,
    chat_template: Path | None = None,
    gate_config: GateConfig | None = None,
    hub: HubConfig | None = None,
) -> GateDecision:
    """Should this adapter replace the champion? True in a condition only for "promote".

    test_data: held-out rows (a .parquet, .jsonl or .json file, or a list of rows) in any format
    that `prepare` reads. The challenger must give their responses a higher likelihood than the
    champion (slice `newest`: exp(log-likelihood / bytes), between 0 and 1), and may lose at most
    their tolerance on the `suites`. champion_model_path=None stands for the base model itself.
    Raises CtError.
    """
    from ct_llm.prepare.held_out import write_held_out

    _check_target(gate_config or GateConfig(), EvaluateConfig(suites=list(suites)))
    with tempfile.TemporaryDirectory(prefix="ct_llm_") as temporary:
        folder = Path(temporary)
        num_rows = write_held_out(_rows(test_data), folder / "holdout.parquet")
        newest = NewestConfig(max_items=max(1, num_rows))
        result = _evaluate(
            model_path,
            champion_model_path,
            EvaluateConfig(suites=list(suites), newest=newest),
            holdout=folder / "holdout.parquet",
            base_model=base_model,
            chat_template=chat_template,
            folder=folder,
            hub=hub or HubConfig(),
        )
        return _gate(gate_config or GateConfig(), result, folder)


def promote(cycle: Path | str, *, config: CTConfig | Path | str | None = None) -> PromotionRecord:
    """Carry out the gate's decision on a cycle: one commit on the Hub, or a review for a human.

    cycle: the cycle's folder. Raises CtError.
    """
    folder = CycleDir(Path(cycle))
    folder.request()  # raises where there is no cycle, before anything is written there
    loaded = folder.config() if config is None else _config(config)
    with folder.locked():
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
    return roll_back(hub_api(loaded.hub), loaded.adapter_repo, to=to, reason=reason)


# ---------------------------------------------------------------- what they share


def _config(config: CTConfig | Path | str) -> CTConfig:
    return config if isinstance(config, CTConfig) else load_config(config)


def _check_target(config: GateConfig, evaluation: EvaluateConfig) -> None:
    """A slice that is not there is said before the evaluation, not after it."""
    from ct_llm.evaluate.suite import load_suites

    check_target(config.target, evaluation, load_suites(evaluation))


def _evaluate(
    challenger: Path | str,
    champion: Path | str | None,
    config: EvaluateConfig,
    *,
    holdout: Path | None,
    base_model: str | None,
    chat_template: Path | None,
    folder: Path,
    hub: HubConfig,
) -> EvalResult:
    from ct_llm.evaluate.evaluate import evaluate as evaluate_adapters
    from ct_llm.evaluate.suite import load_suites

    api = hub_api(hub)
    challenger_folder, _ = _adapter(challenger, hub)
    champion_folder, champion_revision = (
        (None, None) if champion is None else _adapter(champion, hub)
    )
    base_config = _base_of(challenger_folder, base_model, chat_template)
    folder.mkdir(parents=True, exist_ok=True)
    return evaluate_adapters(
        config,
        load_suites(config),
        base=fetch_base_model(api, base_config),
        base_config=base_config,
        challenger=challenger_folder,
        champion=champion_folder,
        champion_revision=champion_revision,
        holdout=holdout,
        folder=folder,
    )


def _gate(config: GateConfig, result: EvalResult, folder: Path) -> GateDecision:
    from ct_llm.evaluate.scores import read_scores
    from ct_llm.gate.gate import gate

    return gate(config, result, read_scores(folder / result.scores_path, result.scores_digest))


def _adapter(name: Path | str, hub: HubConfig) -> tuple[Path, str | None]:
    """Folder and revision (none for a local one) of an adapter."""
    from ct_llm.hub.adapter_repo import download_adapter
    from ct_llm.hub.client import resolve_revision

    if Path(name).is_dir():
        return Path(name), None
    repo, _, revision = str(name).partition("@")
    if repo.count("/") != 1 or not all(repo.split("/")):
        raise InputError(
            f"{name}: neither a folder here nor a Hub repo. Give a folder, owner/name or "
            "owner/name@revision."
        )
    api = hub_api(hub)
    sha = resolve_revision(api, repo, revision or "main", "model")
    return download_adapter(api, repo, sha), sha


def _base_of(adapter: Path, base_model: str | None, chat_template: Path | None) -> BaseModelConfig:
    # An adapter whose training replaced the template brings it along.
    own = adapter / "chat_template.jinja"
    chat_template = chat_template or (own if own.is_file() else None)
    if base_model is not None:
        repo, _, revision = base_model.partition("@")
        return BaseModelConfig(repo=repo, revision=revision or "main", chat_template=chat_template)
    try:
        named = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
        repo, revision = named["base_model_name_or_path"], named.get("revision") or "main"
        if not isinstance(repo, str) or not isinstance(revision, str):
            raise TypeError(f"base_model_name_or_path is {repo!r}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AdapterError(
            f"{adapter}/adapter_config.json does not name the base model ({error}). Give base_model."
        ) from None
    return BaseModelConfig(repo=repo, revision=revision, chat_template=chat_template)


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
