"""One verdict's scores in this process and over two: the same files, the same errors."""

import json
from pathlib import Path

import pytest
import torch

from ct_llm.config import BaseModelConfig, EvaluateConfig, GateConfig, NewestConfig
from ct_llm.errors import AdapterError
from ct_llm.evaluate.journal import remove_journal
from ct_llm.evaluate.progress import EvaluateProgress
from ct_llm.evaluation import ScoresAt, evaluate_until_decided, gate_cycle_files
from ct_llm.records import EvalResult, Side
from tests.e2e.toy_evaluation import BASE, NAMES, save_adapter, suite_of, write_task_dir

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> dict[Side, Path | None]:
    folder = tmp_path_factory.mktemp("adapters")
    torch.set_num_threads(1)
    return {
        "champion": save_adapter(folder / "champion", seed=1),
        "challenger": save_adapter(folder / "challenger", seed=2),
    }


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_task_dir(
        tmp_path_factory.mktemp("tasks"), [f"{name} {n}" for name in NAMES for n in range(3)]
    )


GATE = GateConfig(target="pooled")


def evaluate(
    folder: Path,
    tasks: Path,
    adapters: dict[Side, Path | None],
    num_processes: int = 1,
    seen: list[EvaluateProgress] | None = None,
) -> EvalResult:
    folder.mkdir(exist_ok=True)
    return evaluate_until_decided(
        EvaluateConfig(
            newest=NewestConfig(enabled=False),
            batch_items=16,
            num_processes=num_processes,
            device="cpu",
        ),
        GATE,
        [
            suite_of(tasks, "choosing", ["toy_choose"]),
            suite_of(tasks, "writing", ["toy_write"]),
        ],
        base=BASE,
        base_config=BaseModelConfig(repo=BASE.repo),
        adapters=adapters,
        revisions={"champion": "9" * 40},
        holdout=None,
        folder=folder,
        scores=ScoresAt(cache=folder / "known"),
        on_progress=None if seen is None else seen.append,
    )


def test_a_pooled_target_is_drawn_from_all_slices_until_it_is_decided(
    tmp_path: Path, tasks: Path, adapters: dict[Side, Path | None]
) -> None:
    seen: list[EvaluateProgress] = []
    result = evaluate(tmp_path, tasks, adapters, seen=seen)
    assert (result.schedule, result.champion_revision) == ("pooled", "9" * 40)
    scored = [part.num_scored for part in result.slices]
    assert seen[-1].prefixes and [len(p.challenger) for p in seen[-1].prefixes] == scored
    decision = gate_cycle_files(GATE, result, tmp_path)
    assert [v.slice for v in decision.slices if v.role == "target"] == ["pooled"]
    assert decision.verdict in ("promote", "reject"), "it went on until it was decided"

    again = evaluate(tmp_path, tasks, adapters)
    assert again.num_from_cache == 0, "the result was not on record yet, so it is the same one"
    remove_journal(tmp_path)
    known = evaluate(tmp_path, tasks, adapters)
    assert known.num_from_cache == sum(scored), "the champion's; the challenger is asked again"
    assert known.scores_digest == result.scores_digest


@pytest.mark.slow
def test_two_processes_give_the_scores_of_one(
    tmp_path: Path, tasks: Path, adapters: dict[Side, Path | None]
) -> None:
    one = evaluate(tmp_path / "one", tasks, adapters)
    seen: list[EvaluateProgress] = []
    two = evaluate(tmp_path / "two", tasks, adapters, num_processes=2, seen=seen)
    assert two.model_copy(update={"seconds": one.seconds}) == one
    for name in ("items.parquet", "scores.parquet"):
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
    assert [part.num_scored for part in two.slices] == [
        len(prefix.challenger) for prefix in seen[-1].prefixes
    ]
    assert sorted(p.name for p in (tmp_path / "two" / "known").rglob("*.parquet")) == sorted(
        p.name for p in (tmp_path / "one" / "known").rglob("*.parquet")
    )


@pytest.mark.slow
def test_what_is_wrong_in_a_process_is_said_here(
    tmp_path: Path, tasks: Path, adapters: dict[Side, Path | None]
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in adapters["challenger"].iterdir() if adapters["challenger"] else ():
        (broken / path.name).write_bytes(path.read_bytes())
    config = json.loads((broken / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "somebody/else"
    (broken / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(AdapterError, match="somebody/else"):
        evaluate(tmp_path / "run", tasks, {**adapters, "challenger": broken}, num_processes=2)
