"""The evaluation of two real (tiny) adapters, held against plain lm_eval runs item by item."""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from ct_llm.config import BaseModelConfig, EvaluateConfig, NewestConfig, Suite, TaskConfig
from ct_llm.digests import random_order
from ct_llm.errors import AdapterError, ConfigError, InputError, SecurityError
from ct_llm.evaluate import sandbox
from ct_llm.evaluate.evaluate import evaluate
from ct_llm.evaluate.progress import EvaluateProgress
from ct_llm.evaluate.score_store import LocalScores
from ct_llm.evaluate.scores import read_items, read_scores
from ct_llm.evaluate.tasks.tasks import load_tasks
from ct_llm.records import EvalResult, ItemScore, SlicePrefix
from tests.e2e.toy_evaluation import (
    BASE,
    METRICS,
    save_adapter,
    suite_of,
    write_items,
    write_task_dir,
)

pytestmark = pytest.mark.e2e

NO_NEWEST = EvaluateConfig(suites=[], newest=NewestConfig(enabled=False))


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads only wait for each other over matrices this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def champion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_adapter(tmp_path_factory.mktemp("champion"), seed=1)


@pytest.fixture(scope="module")
def challenger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_adapter(tmp_path_factory.mktemp("challenger"), seed=2)


@pytest.fixture(scope="module")
def task_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_task_dir(tmp_path_factory.mktemp("tasks"))


@pytest.fixture(scope="module")
def suite(task_dir: Path) -> Suite:
    return suite_of(task_dir)


def test_scores_are_those_of_plain_lm_eval(
    tmp_path: Path, suite: Suite, champion: Path, challenger: Path
) -> None:
    result = _evaluate(tmp_path, [suite], challenger, champion)
    scores = read_scores(tmp_path / result.scores_path)
    assert len(scores) == 2 * result.slices[0].num_items == 2 * 36
    for adapter, folder in (("champion", champion), ("challenger", challenger)):
        assert _by_item(scores, adapter) == _plain_lm_eval(suite, folder)
    assert len({s.score for s in scores if s.task == "toy_likely"}) == 24
    assert len({s.output for s in scores if s.task == "toy_write"}) > 2


def test_the_base_itself_as_champion(tmp_path: Path, suite: Suite, challenger: Path) -> None:
    result = _evaluate(tmp_path, [suite], challenger, None)
    scores = read_scores(tmp_path / result.scores_path)
    assert _by_item(scores, "champion") == _plain_lm_eval(suite, None)
    assert result.champion_digest is None


def test_the_same_twice_in_an_order_drawn_from_the_items_alone(
    tmp_path: Path, suite: Suite, champion: Path, challenger: Path
) -> None:
    said: list[EvaluateProgress] = []
    first = _evaluate(tmp_path / "1", [suite], challenger, champion, on_progress=said.append)
    second = _evaluate(tmp_path / "2", [suite], challenger, champion)
    assert first.scores_digest == second.scores_digest
    assert first.items_digest == second.items_digest
    items = read_items(tmp_path / "1" / first.items_path, first.items_digest)
    assert items == random_order(sorted(items), order_seed=first.order_seed)
    scores = read_scores(tmp_path / "1" / first.scores_path, first.scores_digest)
    for side in ("champion", "challenger"):
        assert [s.item_id for s in scores if s.adapter == side] == [i.item_id for i in items]
    assert first.stopped == "all"
    assert first.slices[0].num_scored == first.slices[0].num_items == 36
    assert said[-1].text.startswith("toy 36/36: challenger ")
    assert said[-1].fraction == 1.0
    assert len(said[-1].prefixes[0].champion) == 36
    assert sorted(path.name for path in (tmp_path / "1").iterdir()) == [
        "items.parquet",
        "journal",  # until the caller has the result on record
        "scores.parquet",
    ]


def test_a_limit_takes_the_first_items(
    tmp_path: Path, suite: Suite, champion: Path, challenger: Path
) -> None:
    config = NO_NEWEST.model_copy(update={"limit": 3})
    result = _evaluate(tmp_path, [suite], challenger, champion, config=config)
    scores = read_scores(tmp_path / result.scores_path)
    assert {s.item_id.split("/")[1] for s in scores} == {"0", "1", "2"}
    assert result.slices[0].num_items == 9


def test_the_newest_slice(tmp_path: Path, champion: Path, challenger: Path) -> None:
    responses = ["Hello Ada!", "Hello Ben!", "", "on and on " * 500]
    rows = [
        [{"role": "user", "content": f"Greet {n}"}, {"role": "assistant", "content": text}]
        for n, text in enumerate(responses)
    ]
    holdout = tmp_path / "holdout.parquet"
    table = {"row_id": ["a", "b", "c", "d"], "messages": [json.dumps(row) for row in rows]}
    pq.write_table(pa.table(table), holdout)
    result = _evaluate(
        tmp_path, [], challenger, champion, config=EvaluateConfig(suites=[]), holdout=holdout
    )
    scores = read_scores(tmp_path / result.scores_path)
    assert len(scores) == 2 * 4
    assert all(0.0 < s.score <= 1.0 for s in scores)
    assert len({s.score for s in scores}) == 8


def test_no_newest_rows_is_said_and_not_scored(tmp_path: Path, challenger: Path) -> None:
    result = _evaluate(tmp_path, [], challenger, None, config=EvaluateConfig(suites=[]))
    (newest,) = result.slices
    assert newest.not_evaluated is not None
    assert newest.not_evaluated.startswith("no held-out rows")
    assert read_scores(tmp_path / result.scores_path) == []


def test_without_a_sandbox_no_code_is_run(
    tmp_path: Path, suite: Suite, challenger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    coding = suite.model_copy(update={"slice": "coding", "executes_code": True})
    (tmp_path / "bin").mkdir()
    sandbox.sandbox_problem.cache_clear()
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(tmp_path / "bin"))  # a machine without bubblewrap
        result = _evaluate(tmp_path, [coding], challenger, None)
    sandbox.sandbox_problem.cache_clear()
    (part,) = result.slices
    assert part.num_items == 0
    assert part.not_evaluated is not None
    assert "bubblewrap" in part.not_evaluated


# ---------------------------------------------------------------- what is known, and who is scored


def test_known_scores_are_not_made_again(
    tmp_path: Path, suite: Suite, champion: Path, challenger: Path
) -> None:
    store = LocalScores(tmp_path / "scores")
    first = _evaluate(tmp_path / "1", [suite], challenger, champion, store=store)
    assert first.num_from_cache == 0
    everything = {"store": store, "cached_sides": ["champion", "challenger"]}
    again = _evaluate(tmp_path / "again", [suite], challenger, champion, **everything)
    assert again.num_from_cache == 72
    assert again.scores_digest == first.scores_digest

    seen: list[tuple[SlicePrefix, ...]] = []

    def rule(order: Sequence[str], prefixes: Sequence[SlicePrefix]) -> list[str]:
        seen.append(tuple(prefixes))
        return ["toy"] if prefixes[0].scores.num_scored < 10 else []

    config = NO_NEWEST.model_copy(update={"batch_items": 10})
    more = {"store": store, "cached_sides": ["champion"], "stopping": rule, "config": config}
    second = _evaluate(tmp_path / "2", [suite], challenger, champion, **more)
    assert second.stopped == "decided"
    assert second.slices[0].num_scored == 10
    assert second.num_from_cache == 10  # those of the items that were scored
    scores = read_scores(tmp_path / "2" / second.scores_path)
    before = read_scores(tmp_path / "1" / first.scores_path)
    # All of the champion's, and of the challenger those that were made.
    assert [s for s in scores if s.adapter == "champion"] == [
        s for s in before if s.adapter == "champion"
    ]
    assert [s.item_id for s in scores if s.adapter == "challenger"] == [
        s.item_id for s in before if s.adapter == "challenger"
    ][:10]
    rest = [s.score for s in before if s.adapter == "champion"]
    assert [prefixes[0].champion_rest for prefixes in seen] == [tuple(rest), tuple(rest[10:])]


def test_another_adapter_knows_nothing(
    tmp_path: Path, suite: Suite, champion: Path, challenger: Path
) -> None:
    store = LocalScores(tmp_path / "scores")
    _evaluate(tmp_path / "1", [suite], challenger, champion, store=store)
    more = {"store": store, "cached_sides": ["champion", "challenger"]}
    swapped = _evaluate(tmp_path / "2", [suite], champion, challenger, **more)
    assert swapped.num_from_cache == 72  # by digest, whatever its part was
    other = _evaluate(tmp_path / "3", [suite], challenger, None, **more)
    assert other.num_from_cache == 36
    more_tokens = [task.model_copy(update={"max_gen_toks": 3}) for task in suite.tasks[:1]]
    changed = suite.model_copy(update={"tasks": [*more_tokens, *suite.tasks[1:]]})
    asked_otherwise = _evaluate(tmp_path / "4", [changed], challenger, champion, **more)
    assert asked_otherwise.num_from_cache == 2 * 24


def test_one_adapter_alone(tmp_path: Path, suite: Suite, challenger: Path, champion: Path) -> None:
    both = _evaluate(tmp_path / "both", [suite], challenger, champion)
    alone = _evaluate(
        tmp_path / "1", [suite], challenger, None, adapters={"challenger": challenger}
    )
    scores = read_scores(tmp_path / "1" / alone.scores_path)
    assert {s.adapter for s in scores} == {"challenger"}
    assert alone.slices[0].num_scored == 36
    assert _by_item(scores, "challenger") == _by_item(
        read_scores(tmp_path / "both" / both.scores_path), "challenger"
    )
    base = _evaluate(tmp_path / "2", [suite], challenger, None, adapters={"challenger": None})
    assert base.challenger_digest == f"base:{BASE.revision}"


def test_the_anchor_is_scored_on_the_suites_unless_it_is_the_champion(
    tmp_path: Path, suite: Suite, champion: Path, challenger: Path
) -> None:
    adapters = {"challenger": challenger, "champion": None, "anchor": champion}
    result = _evaluate(tmp_path / "1", [suite], challenger, None, adapters=adapters)
    scores = read_scores(tmp_path / "1" / result.scores_path)
    assert result.slices[0].against_anchor
    assert [s.adapter for s in scores[:3]] == ["champion", "challenger", "anchor"]
    assert len(scores) == 3 * 36
    assert _by_item(scores, "anchor") == _plain_lm_eval(suite, champion)

    shutil.copytree(champion, tmp_path / "copy")
    adapters = {"challenger": challenger, "champion": champion, "anchor": tmp_path / "copy"}
    result = _evaluate(tmp_path / "2", [suite], challenger, None, adapters=adapters)
    assert not result.slices[0].against_anchor
    assert result.anchor_digest == result.champion_digest
    assert len(read_scores(tmp_path / "2" / result.scores_path)) == 2 * 36


# ---------------------------------------------------------------- what is refused


def _nan(folder: Path) -> None:
    _change_weights(folder, lambda name, tensor: tensor.fill_(float("nan")))


def _zero(folder: Path) -> None:
    _change_weights(folder, lambda name, tensor: tensor.zero_() if "lora_B" in name else tensor)


def _tiny(folder: Path) -> None:
    _change_weights(folder, lambda name, tensor: tensor.mul_(1e-30))


def _renamed(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    save_file({k.replace("q_proj", "w_proj"): v for k, v in load_file(path).items()}, path)


def _narrow(folder: Path) -> None:
    _change_weights(folder, lambda name, tensor: tensor[..., :-1].contiguous())


def _smuggling(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    key = "base_model.model.model.layers.0.mlp.up_proj.weight"
    save_file({**load_file(path), key: torch.ones(320, 128)}, path)


def _truncated(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def _foreign(folder: Path) -> None:
    _change_config(folder, base_model_name_or_path="somebody/else")


def _pissa(folder: Path) -> None:
    _change_config(folder, init_lora_weights="pissa_niter_4")


def _other_vocabulary(folder: Path) -> None:
    for path in BASE.folder.glob("tokenizer*.json"):
        shutil.copy(path, folder)
    text = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(text.replace('"<|user|>"', '"<|human|>"'))


@pytest.mark.parametrize(
    ("break_it", "complaint"),
    [
        (_nan, "NaN or infinite"),
        (_zero, "every weight is zero"),
        (_tiny, "changes nothing"),
        (_renamed, "does not fit the base model"),
        (_narrow, "does not fit the base model"),
        (_smuggling, r"up_proj\.weight is a weight of the base model"),
        (_truncated, "cannot be read"),
        (_foreign, "made for base model 'somebody/else', not for 'demo/base'"),
        (_pissa, "changes the base model while loading"),
        (_other_vocabulary, "another vocabulary"),
    ],
)
def test_a_broken_challenger_is_refused(
    tmp_path: Path, challenger: Path, break_it: Callable[[Path], None], complaint: str
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(challenger, broken)
    break_it(broken)
    with pytest.raises(AdapterError, match=complaint):
        _evaluate(tmp_path, [], broken, None)


def test_an_adapter_that_changes_meanwhile_is_refused(
    tmp_path: Path, suite: Suite, challenger: Path
) -> None:
    changing = tmp_path / "changing"
    shutil.copytree(challenger, changing)

    def change(progress: EvaluateProgress) -> None:
        if progress.fraction == 1.0:
            _tiny(changing)

    with pytest.raises(SecurityError, match="was changed while it was evaluated"):
        _evaluate(tmp_path / "out", [suite], changing, None, on_progress=change)
    assert not (tmp_path / "out" / "scores.parquet").exists()


@pytest.mark.parametrize(
    ("task", "error", "complaint"),
    [
        (TaskConfig(task="toy_writ", metric="acc"), ConfigError, "Near: toy_write"),
        (TaskConfig(task="toy_write", metric="acc", filter="x"), InputError, "It has: none"),
        (TaskConfig(task="toy_code", metric="acc"), SecurityError, "unprotected"),
    ],
)
def test_tasks_that_cannot_be_gated_are_refused(
    tmp_path: Path,
    suite: Suite,
    task: TaskConfig,
    error: type[Exception],
    complaint: str,
) -> None:
    with pytest.raises(error, match=complaint):
        load_tasks(suite.model_copy(update={"tasks": [task]}), None, tmp_path)


def test_a_metric_that_does_not_exist_names_those_that_do(
    tmp_path: Path, suite: Suite, challenger: Path
) -> None:
    wrong = suite.model_copy(update={"tasks": [TaskConfig(task="toy_choose", metric="f1")]})
    with pytest.raises(InputError, match=r"toy_choose: no metric 'f1' per item\. It has: acc"):
        _evaluate(tmp_path, [wrong], challenger, None)


@pytest.mark.parametrize("device", ["cuda:99", "mps"])
def test_a_device_that_is_not_here_is_said(tmp_path: Path, challenger: Path, device: str) -> None:
    config = NO_NEWEST.model_copy(update={"device": device})
    with pytest.raises(ConfigError, match=rf"evaluate\.device: {device} is not"):
        _evaluate(tmp_path, [], challenger, None, config=config)


def test_a_task_without_documents_is_said(tmp_path: Path, task_dir: Path) -> None:
    folder = tmp_path / "tasks"
    shutil.copytree(task_dir, folder)
    (folder / "items.jsonl").write_text("")
    tasks = [TaskConfig(task="toy_write", metric="exact_match")]
    suite = Suite(slice="toy", tasks=tasks, task_dir=folder, tolerance=0.1)
    with pytest.raises(InputError, match="toy_write: its dataset has no documents"):
        load_tasks(suite, None, tmp_path / "cache")


def test_changed_items_are_read_anew(tmp_path: Path, task_dir: Path) -> None:
    """Even when size and time of the file are those of before."""
    folder = tmp_path / "tasks"
    shutil.copytree(task_dir, folder)
    tasks = [TaskConfig(task="toy_write", metric="exact_match")]
    suite = Suite(slice="toy", tasks=tasks, task_dir=folder, tolerance=0.1)
    (tmp_path / "1").mkdir()
    before = load_tasks(suite, None, tmp_path / "1")[0].item_ids()
    items = folder / "items.jsonl"
    stat = items.stat()
    write_items(items, "Say howdy to")
    os.utime(items, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    (tmp_path / "2").mkdir()
    after = load_tasks(suite, None, tmp_path / "2")[0].item_ids()
    assert len(before) == len(after) == 12
    assert not set(before) & set(after)


# ---------------------------------------------------------------- means


def _change_config(folder: Path, **changes: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _change_weights(folder: Path, change: Callable[[str, torch.Tensor], torch.Tensor]) -> None:
    path = folder / "adapter_model.safetensors"
    save_file({name: change(name, tensor) for name, tensor in load_file(path).items()}, path)


def _evaluate(
    folder: Path,
    suites: list[Suite],
    challenger: Path,
    champion: Path | None,
    *,
    config: EvaluateConfig = NO_NEWEST,
    holdout: Path | None = None,
    **more: Any,
) -> EvalResult:
    adapters = {"challenger": challenger, "champion": champion}
    return evaluate(
        config,
        suites,
        base=BASE,
        base_config=BaseModelConfig(repo=BASE.repo),
        holdout=holdout,
        folder=folder,
        **{"adapters": adapters, **more},
    )


def _by_item(scores: list[ItemScore], adapter: str) -> dict[str, tuple[Any, str, str | None]]:
    """Item id to score, prompt and, where something was generated, output.

    Likelihoods differ in their last digits with the shape of a forward pass, and lm-eval's own do so
    with its batch size; every other score is the same exactly.
    """
    return {
        s.item_id: (
            pytest.approx(s.score, rel=1e-5) if s.task == "toy_likely" else s.score,
            s.prompt,
            s.output if s.task == "toy_write" else None,
        )
        for s in scores
        if s.adapter == adapter
    }


def _plain_lm_eval(suite: Suite, adapter: Path | None) -> dict[str, tuple[float, str, str | None]]:
    """What `lm_eval --model hf --apply_chat_template` gives, in the form of `_by_item`."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    assert suite.task_dir is not None
    hflm: Any = HFLM  # decorators hide both signatures from type checkers
    simple_evaluate: Any = lm_eval.simple_evaluate
    here = Path.cwd()
    os.chdir(suite.task_dir)  # lm-eval takes data files relative to it
    try:
        results = simple_evaluate(
            model=hflm(
                pretrained=str(BASE.folder),
                peft=None if adapter is None else str(adapter),
                dtype="float32",
                device="cpu",
                batch_size=64,
            ),
            tasks=list(METRICS),
            task_manager=TaskManager(include_path=str(suite.task_dir), include_defaults=False),
            apply_chat_template=True,
            bootstrap_iters=0,
        )
    finally:
        os.chdir(here)
    return {
        f"{task}/{sample['doc_id']}/{sample['doc_hash'][:16]}": (
            float(sample[METRICS[task]]),
            sample["arguments"][0][0],
            sample["resps"][0][0] if task == "toy_write" else None,
        )
        for task, samples in results["samples"].items()
        for sample in samples
    }
