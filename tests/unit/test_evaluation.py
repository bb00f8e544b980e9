"""The glue between rule, scores and processes, without a model."""

from pathlib import Path

import pytest

from ct_llm.config import (
    BaseModelConfig,
    EvaluateConfig,
    GateConfig,
    NewestConfig,
    NewestGeneratedConfig,
    Suite,
    TaskConfig,
)
from ct_llm.errors import ConfigError
from ct_llm.evaluate.progress import EvaluateProgress
from ct_llm.evaluation import (
    PROGRESS,
    EvaluationRequest,
    ProgressReader,
    ScoresAt,
    resolved_gate,
)
from ct_llm.records import SlicePrefix, SliceScores


def suite(name: str, *, target: bool = False) -> Suite:
    return Suite(
        slice=name,
        tasks=[TaskConfig(task="t", metric="acc")],
        tolerance=0.1,
        target=target,
        task_dir=Path("/somewhere/tasks"),
    )


SCORES = SliceScores(slice="coding", tasks=("t",), num_items=4, num_scored=2, tolerance=0.1)
PROGRESS_NOW = EvaluateProgress(
    "coding 2/4",
    0.5,
    (SlicePrefix(SCORES, (0.0, 1.0), (1.0, 1.0), champion_rest=(1.0, 0.0)),),
)


# ---------------------------------------------------------------- the target


@pytest.mark.parametrize(
    ("named", "flagged", "newest", "expected"),
    [
        (None, (), True, "newest"),
        (None, ("chat",), True, "chat"),
        ("coding", ("chat",), True, "coding"),
        ("coding", ("chat", "coding"), True, "coding"),
        ("newest_generated", (), True, "newest_generated"),
        ("pooled", (), False, "pooled"),
        ("weighted", ("chat",), False, "weighted"),
        (None, ("chat",), False, "chat"),
    ],
)
def test_the_target(
    named: str | None, flagged: tuple[str, ...], newest: bool, expected: str
) -> None:
    suites = [suite(name, target=name in flagged) for name in ("coding", "chat")]
    evaluation = EvaluateConfig(newest=NewestConfig(enabled=newest))
    assert resolved_gate(GateConfig(target=named), evaluation, suites).target == expected


@pytest.mark.parametrize(
    ("gate", "newest", "flagged", "said"),
    [
        (GateConfig(), NewestConfig(), ("coding", "chat"), "coding and chat all say target"),
        (GateConfig(target="codng"), NewestConfig(), (), "did you mean"),
        (GateConfig(), NewestConfig(enabled=False), (), "no slice 'newest'"),
        (
            GateConfig(target="newest_generated"),
            NewestConfig(generated=NewestGeneratedConfig(enabled=False)),
            (),
            "no slice 'newest_generated'",
        ),
    ],
)
def test_a_target_that_is_none_is_said_beforehand(
    gate: GateConfig, newest: NewestConfig, flagged: tuple[str, ...], said: str
) -> None:
    suites = [suite(name, target=name in flagged) for name in ("coding", "chat")]
    with pytest.raises(ConfigError, match=said):
        resolved_gate(gate, EvaluateConfig(newest=newest), suites)


# ---------------------------------------------------------------- what processes tell each other


def test_a_request_comes_through_as_it_is() -> None:
    request = EvaluationRequest(
        config=EvaluateConfig(num_processes=2, batch_size=8, dataset_revisions={"a/b": "c"}),
        gate=GateConfig(target="pooled"),
        suites=(suite("coding"),),
        base_folder=Path("/models/base"),
        base_repo="acme/base",
        base_revision="b" * 40,
        base_config=BaseModelConfig(repo="acme/base", chat_template=Path("/x.jinja")),
        adapters={"champion": None, "challenger": Path("/cycle/adapter")},
        revisions={"champion": None, "challenger": None},
        holdout=None,
        folder=Path("/cycle"),
        scores=ScoresAt(cache=Path("/cache"), repo="acme/adapter"),
        cached_sides=("champion",),
    )
    assert EvaluationRequest.model_validate_json(request.model_dump_json()) == request


def test_progress_comes_through_once_a_change(tmp_path: Path) -> None:
    path, seen = tmp_path / "progress.json", []
    reader = ProgressReader(path, seen.append)
    reader.poll()
    path.write_bytes(PROGRESS.dump_json(PROGRESS_NOW))
    reader.poll()
    reader.poll()
    assert seen == [PROGRESS_NOW]
    assert isinstance(seen[0].prefixes[0], SlicePrefix)
    later = EvaluateProgress("coding 4/4", 1.0)
    path.write_bytes(PROGRESS.dump_json(later))
    reader.poll()
    assert seen == [PROGRESS_NOW, later]


def test_nobody_who_listens_needs_no_file(tmp_path: Path) -> None:
    path = tmp_path / "progress.json"
    path.write_bytes(b"not read")
    ProgressReader(path, None).poll()
