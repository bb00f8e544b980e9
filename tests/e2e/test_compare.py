"""`ct-llm eval`, `ct-llm compare` and their functions on real (tiny) adapters of a real base."""

import json
import math
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from huggingface_hub import HfApi
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

import ct_llm
from ct_llm.comparison import Comparison, Evaluation
from ct_llm.config import EvaluateConfig
from ct_llm.cycle_dir import read_record
from ct_llm.errors import ConfigError, InputError, SecurityError
from ct_llm.evaluate import sandbox
from ct_llm.evaluate.progress import EvaluateProgress
from ct_llm.gate.sequential import SequentialTest, decide
from ct_llm.hub_server.server import RunningHub

pytestmark = pytest.mark.e2e

BASE = Path(__file__).parents[2] / "scripts" / "demo_world" / "base"
HOSTILE = "\x1b[2J\x1b]0;owned\x07[red]\u202e"
NUM_ITEMS = 24
TASKS = {
    "likely": """
        output_type: loglikelihood
        doc_to_text: question
        doc_to_target: answer
        process_results: !function grading.likelihood
        metric_list: [{metric: likelihood, aggregation: mean, higher_is_better: true}]
    """,
    "write": """
        output_type: generate_until
        doc_to_text: question
        doc_to_target: answer
        generation_kwargs: {until: ["\\n"], max_gen_toks: 8, do_sample: false}
        process_results: !function grading.short
        metric_list: [{metric: short, aggregation: mean, higher_is_better: true}]
    """,
    "coding": """
        output_type: generate_until
        unsafe_code: true
        doc_to_text: question
        doc_to_target: answer
    """,
}
GRADING = """
import math


def likelihood(doc, results):
    return {"likelihood": math.exp(results[0][0] / len(doc["answer"].encode()))}


def short(doc, results):
    return {"short": float(len(results[0]) % 2)}
"""
METRICS = {"likely": "likelihood", "write": "short", "coding": "pass"}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads only wait for each other over matrices this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test profits from the scores of another, and files land in its own folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("adapters")
    return save_adapter(folder / "older", seed=1), save_adapter(folder / "newer", seed=2)


@pytest.fixture(scope="module")
def suites(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Name of a slice to the path of its suite file."""
    folder = tmp_path_factory.mktemp("suites")
    return write_suites(folder, NUM_ITEMS)


def save_adapter(folder: Path, seed: int, base: str | None = None) -> Path:
    """base: as adapter_config.json names it."""
    torch.manual_seed(seed)
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32),
        LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False),
    )
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if "lora_B" in name:
                weights.mul_(0.3)
    model.save_pretrained(str(folder))
    name_base(folder, base or str(BASE))
    return folder


def name_base(folder: Path, base: str, revision: str | None = None) -> None:
    path = folder / "adapter_config.json"
    config = {**json.loads(path.read_text()), "base_model_name_or_path": base}
    path.write_text(json.dumps({**config, "revision": revision}))


def write_suites(folder: Path, num_items: int) -> dict[str, str]:
    tasks = folder / "tasks"
    tasks.mkdir()
    items = [
        {
            "question": f"{HOSTILE if n == 3 else ''}Say hello to number {n}.",
            "answer": f"Hello {n}!",
        }
        for n in range(num_items)
    ]
    (tasks / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    (tasks / "grading.py").write_text(GRADING)
    for name, text in TASKS.items():
        lines = [
            f"task: {name}",
            "dataset_path: json",
            "dataset_kwargs: {data_files: {test: items.jsonl}}",
            "test_split: test",
            *(line.strip() for line in text.strip().splitlines()),
        ]
        (tasks / f"{name}.yaml").write_text("\n".join(lines) + "\n")
        suite = {
            "slice": f"{name}_slice",
            "tasks": [{"task": name, "metric": METRICS[name]}],
            "task_dir": "tasks",
            "apply_chat_template": False,
            "executes_code": name == "coding",
            "tolerance": 0.1,
        }
        (folder / f"{name}.yaml").write_text(json.dumps(suite))
    return {name: str(folder / f"{name}.yaml") for name in TASKS}


def likelihoods(adapter: Path | None) -> list[float]:
    """exp(log-likelihood / bytes) of each answer, by transformers and PEFT alone."""
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    model = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    model = (model if adapter is None else PeftModel.from_pretrained(model, adapter)).eval()
    found = []
    for n in range(NUM_ITEMS):
        question = f"{HOSTILE if n == 3 else ''}Say hello to number {n}."
        answer = f"Hello {n}!"  # lm-eval puts no blank before the target of this output type
        context = tokenizer(question, add_special_tokens=False)["input_ids"]
        tokens = tokenizer(question + answer, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            logits = model(torch.tensor([tokens])).logits[0].log_softmax(-1)
        total = sum(float(logits[i - 1, tokens[i]]) for i in range(len(context), len(tokens)))
        found.append(math.exp(total / len(answer.encode())))
    return found


# ---------------------------------------------------------------- Python


def test_a_comparison_is_what_transformers_and_arithmetic_say(
    adapters: tuple[Path, Path], suites: dict[str, str]
) -> None:
    older, newer = adapters
    seen: list[EvaluateProgress] = []
    found = ct_llm.compare(
        older,
        newer,
        [suites["likely"], suites["write"]],
        config=EvaluateConfig(batch_items=8),
        alpha=0.1,
        on_progress=seen.append,
    )
    assert [line.slice for line in found.slices] == ["likely_slice", "write_slice"]
    assert [line.task for line in found.tasks] == ["likely", "write"]

    rows = [row for row in pq.read_table(found.items_path).to_pylist() if row["task"] == "likely"]
    number = [int(row["item_id"].split("/")[1]) for row in rows]
    assert sorted(number) == list(range(NUM_ITEMS))
    assert number != sorted(number)
    by_hand = likelihoods(older), likelihoods(newer)
    for n, row in zip(number, rows, strict=True):
        assert row["champion_score"] == pytest.approx(by_hand[0][n], rel=1e-4)
        assert row["challenger_score"] == pytest.approx(by_hand[1][n], rel=1e-4)
        assert row["delta"] == row["challenger_score"] - row["champion_score"]
        assert f"Say hello to number {n}." in row["prompt"]

    line = found.slices[0]
    deltas = [row["delta"] for row in rows]
    assert line.delta == pytest.approx(sum(deltas) / NUM_ITEMS)
    assert line.champion_mean == pytest.approx(sum(r["champion_score"] for r in rows) / NUM_ITEMS)
    assert (line.wins, line.losses) == (sum(d > 0 for d in deltas), sum(d < 0 for d in deltas))
    assert line.wins + line.losses == NUM_ITEMS
    assert line.lower == line.upper == pytest.approx(line.delta)
    assert line.state == ("better" if sum(deltas) > 0 else "worse")

    # While it runs: both slices in turn, and every look a prefix of the same order.
    likely = [p for s in seen for p in s.prefixes if p.scores.slice == "likely_slice"]
    assert sorted({len(p.champion) for p in likely}) == [8, 16, 24]
    for prefix in likely:
        n = len(prefix.champion)
        assert list(prefix.champion) == [row["champion_score"] for row in rows[:n]]

    assert read_record(found.items_path.with_name("comparison.json"), Comparison) == found
    assert found.items_path.parent.parent == Path("ct_llm_compare")
    assert found.items_path.parent.name.startswith("older_vs_newer_likely_slice+write_slice_")
    most = found.most_different(5)
    assert most == sorted(most, key=lambda item: -abs(item.delta))
    assert most[0].delta in (1.0, -1.0)  # of the slice with scores of 0 and 1


def test_one_adapter_and_the_base_itself(
    adapters: tuple[Path, Path], suites: dict[str, str], tmp_path: Path
) -> None:
    for adapter in (adapters[0], None):
        found = ct_llm.evaluate(
            adapter,
            [suites["likely"]],
            base_model=str(BASE),
            folder=tmp_path / str(adapter is None),
        )
        rows = pq.read_table(found.items_path).to_pylist()
        by_hand = likelihoods(adapter)
        for row in rows:
            expected = by_hand[int(row["item_id"].split("/")[1])]
            assert row["score"] == pytest.approx(expected, rel=1e-4)
        (line,) = found.slices
        assert line.mean == pytest.approx(sum(by_hand) / NUM_ITEMS, rel=1e-4)
        assert line.lower == line.upper == line.mean
        assert (found.digest is None) == (adapter is None)
        assert read_record(found.items_path.with_name("evaluation.json"), Evaluation) == found


def test_what_is_known_is_not_scored_again(
    adapters: tuple[Path, Path], suites: dict[str, str]
) -> None:
    older, newer = adapters
    first = ct_llm.evaluate(older, [suites["write"]])
    assert first.num_from_cache == 0
    second = ct_llm.compare(older, newer, [suites["write"]])
    assert second.num_from_cache == NUM_ITEMS
    assert second.slices[0].champion_mean == first.slices[0].mean
    third = ct_llm.compare(newer, "base", [suites["write"]])
    assert third.num_from_cache == NUM_ITEMS
    assert third.slices[0].champion_mean == second.slices[0].challenger_mean


def test_a_slice_ends_once_it_is_decided(
    adapters: tuple[Path, Path], tmp_path: Path, suites: dict[str, str]
) -> None:
    """Bounds at the end are those of the gate's own test, and exclude zero only there."""
    many = write_suites(make(tmp_path / "many"), 200)
    older, newer = adapters
    found = ct_llm.compare(
        older,
        newer,
        [many["likely"], many["write"]],
        until_decided=True,
        alpha=0.2,
        config=EvaluateConfig(batch_items=10),
    )
    items = pq.read_table(found.items_path).to_pylist()
    for line in found.slices:
        rows = [row["delta"] for row in items if row["slice"] == line.slice]
        assert len(rows) == line.num_used
        test = SequentialTest(
            num_items=200, threshold=0, strict=True, alpha_pass=0.1, alpha_fail=0.1
        )
        if line.num_used < 200:
            state = decide(test, rows)
            assert (line.lower, line.upper) == (state.lower, state.upper)
            assert line.lower > 0 or line.upper < 0
            before = decide(test, rows[:-10])
            assert before.lower <= 0 <= before.upper
    assert not found.interrupted


def make(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_whoever_asks_to_stop_keeps_what_is_scored(
    adapters: tuple[Path, Path], suites: dict[str, str]
) -> None:
    looks = iter([True, True, False])
    found = ct_llm.compare(
        *adapters,
        [suites["likely"], suites["write"]],
        config=EvaluateConfig(batch_items=5),
        keep_going=lambda: next(looks),
    )
    assert found.interrupted
    assert [line.num_used for line in found.slices] == [5, 5]
    assert pq.read_table(found.items_path).num_rows == 10
    # The same call goes on, and knows what is scored.
    whole = ct_llm.compare(*adapters, [suites["likely"], suites["write"]])
    assert whole.items_path == found.items_path
    assert (whole.num_from_cache, whole.interrupted) == (20, False)


def test_a_mistake_is_said_before_anything_is_loaded(
    adapters: tuple[Path, Path],
    suites: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    older, newer = adapters
    likely = [suites["likely"]]
    with pytest.raises(InputError, match="nothing to compare"):
        ct_llm.compare(older, older, likely)
    with pytest.raises(InputError, match="both the base model itself"):
        ct_llm.compare(None, "base", likely)
    with pytest.raises(ConfigError, match=r"no suite 'smook'.*smoke"):
        ct_llm.compare(older, newer, ["smook"])
    with pytest.raises(ConfigError, match="limit: Input should be greater"):
        ct_llm.evaluate(older, likely, limit=0)
    with pytest.raises(InputError, match="no slice"):
        ct_llm.evaluate(older, [])
    with pytest.raises(InputError, match="alpha"):
        ct_llm.compare(older, newer, likely, alpha=0.5)
    with pytest.raises(InputError, match="one process"):
        ct_llm.compare(older, newer, likely, config=EvaluateConfig(num_processes=2))
    other = save_adapter(tmp_path / "other", seed=3, base="acme/other")
    with pytest.raises(InputError, match="only compared on one base"):
        ct_llm.compare(older, other, likely)

    (tmp_path / "bin").mkdir()
    sandbox.sandbox_problem.cache_clear()
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(tmp_path / "bin"))  # a machine without bubblewrap
        with pytest.raises(SecurityError, match=r"coding_slice.*bubblewrap"):
            ct_llm.compare(older, newer, [suites["coding"]])
    sandbox.sandbox_problem.cache_clear()
    assert not (tmp_path / "ct_llm_compare").exists()


def test_results_are_written_over_by_the_same_call_alone(
    adapters: tuple[Path, Path], suites: dict[str, str], tmp_path: Path
) -> None:
    older, newer = adapters
    here = tmp_path / "here"
    found = ct_llm.compare(
        older, newer, [suites["likely"]], folder=here, config=EvaluateConfig(max_items=5)
    )
    assert (found.budget_spent, found.interrupted) == (True, False)
    again = ct_llm.compare(older, newer, [suites["likely"]], folder=here)
    assert (again.num_from_cache, again.budget_spent) == (10, False)
    before = (here / "comparison.json").read_bytes()
    for champion, challenger, name in (
        (newer, older, "likely"),
        (older, None, "likely"),
        (older, newer, "write"),
    ):
        with pytest.raises(InputError, match=r"older against .*newer on likely_slice.*--out"):
            ct_llm.compare(champion, challenger, [suites[name]], base_model=str(BASE), folder=here)
    with pytest.raises(InputError, match="holds the results of"):
        ct_llm.evaluate(older, [suites["likely"]], folder=here)
    assert (here / "comparison.json").read_bytes() == before
    (here / "comparison.json").write_text("{}")
    with pytest.raises(InputError, match="cannot read"):
        ct_llm.compare(older, newer, [suites["likely"]], folder=here)
    (tmp_path / "file").write_text("text")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match=f"{tmp_path / 'file'} is a file"):
            ct_llm.evaluate(older, [suites["likely"]], folder=folder)


def test_a_slice_is_named_by_the_argument_and_the_folder_here(
    adapters: tuple[Path, Path], suites: dict[str, str], tmp_path: Path
) -> None:
    for names, said in (
        (["nope.yaml"], r"no such file: nope.yaml \(looked from " + re.escape(str(tmp_path))),
        (["smok"], r"no suite 'smok' \(did you mean 'smoke'.*current folder"),
        ([suites["likely"]] * 2, "slice likely_slice comes from more than one suite"),
    ):
        with pytest.raises(ConfigError, match=r"^--slice \(slices= in Python\): " + said):
            ct_llm.evaluate(adapters[0], names)


# ---------------------------------------------------------------- the command


def command(*arguments: str | Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "ct_llm.cli.main", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1", **environment},
    )


def run(
    *arguments: str | Path, code: int = 0, environment: dict[str, str] | None = None
) -> tuple[str, str]:
    process = command(*arguments, **(environment or {}))
    out, err = process.communicate(timeout=600)
    assert process.returncode == code, f"{process.returncode}\n{out}\n{err}"
    assert "Traceback" not in out + err
    return out, err


def test_two_folders_side_by_side(adapters: tuple[Path, Path], suites: dict[str, str]) -> None:
    """Also where the items themselves try to write to the terminal."""
    arguments = (
        "compare",
        *adapters,
        "--slice",
        suites["write"],
        "--set",
        "evaluate.batch_items=8",
    )
    out, err = run(*arguments, "--samples", "24", "--out", "here")
    assert [line.split("  ")[1] for line in err.splitlines() if "write_slice  " in line] == [
        "items 8/24",
        "items 16/24",
        "items 24",
    ]
    rows = pq.read_table("here/comparison.parquet").to_pylist()
    changed = [row for row in rows if row["champion_output"] != row["challenger_output"]]
    assert len(changed) > 5
    for row in changed:
        assert row["item_id"] in out
    # The hostile question is shown, escaped, like every other.
    assert any("\x1b[2J" in row["prompt"] for row in changed)
    assert "\\x1b[2J\\x1b]0;owned\\x07[red]\\u202eSay hello" in out
    assert [c for c in out + err if c != "\n" and not c.isprintable()] == []


def test_the_budget_is_said_to_have_ended_it(suites: dict[str, str]) -> None:
    options = ("--slice", suites["likely"], "--base", BASE, "--set", "evaluate.max_items=5")
    out, _ = run("eval", *options)
    assert "5/24" in out
    assert "The budget ended it (evaluate.max_items=5)" in out


def test_interrupted_after_the_first_batch(adapters: tuple[Path, Path], tmp_path: Path) -> None:
    many = write_suites(make(tmp_path / "many"), 1_000)
    process = command(
        "compare",
        *adapters,
        "--slice",
        many["write"],
        "--out",
        "out",
        "--set",
        "evaluate.batch_items=1",
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "items 1/1,000" in line:
            process.send_signal(signal.SIGINT)
            break
    out, err = process.communicate(timeout=600)
    assert process.returncode == 130, err
    assert "Stopped early, as asked" in out
    assert "budget" not in out
    found = read_record(Path("out/comparison.json"), Comparison)
    assert found.interrupted
    (line,) = found.slices
    assert 1 <= line.num_used < 1_000
    rows = pq.read_table(found.items_path).to_pylist()
    assert len(rows) == line.num_used
    test = SequentialTest(
        num_items=1_000, threshold=0, strict=True, alpha_pass=0.025, alpha_fail=0.025
    )
    state = decide(test, [row["delta"] for row in rows])
    assert (line.lower, line.upper) == (state.lower, state.upper)


@pytest.fixture(scope="module")
def repo(hub: RunningHub, adapters: tuple[Path, Path]) -> str:
    """An adapter repo with the tags v1 and v2, of a base model on the same Hub."""
    api = HfApi(endpoint=hub.endpoint, token=hub.token)
    api.create_repo("research/base")
    base = api.upload_folder(
        repo_id="research/base", folder_path=BASE, ignore_patterns=["SHA256SUMS"]
    ).oid
    api.create_repo("research/adapter", private=True)
    for version, folder in enumerate(adapters, start=1):
        name_base(folder, "research/base", base)
        commit = api.upload_folder(repo_id="research/adapter", folder_path=folder)
        name_base(folder, str(BASE))
        api.create_tag("research/adapter", tag=f"v{version}", revision=commit.oid)
    return "research/adapter"


@pytest.fixture
def on_hub(hub: RunningHub, tmp_path: Path) -> dict[str, str]:
    return {"HF_TOKEN": hub.token, "HF_HOME": str(tmp_path / "hf_home")}


def test_two_versions_on_the_hub(
    repo: str, hub: RunningHub, on_hub: dict[str, str], suites: dict[str, str]
) -> None:
    names = (f"{repo}@v1", f"{repo}@v2")
    options = ("--slice", suites["likely"], "--endpoint", hub.endpoint, "--json", "--samples", "2")
    out, err = run("compare", *names, *options, environment=on_hub)
    assert err == ""
    found: dict[str, Any] = json.loads(out)
    samples = found.pop("samples")
    record = Comparison.model_validate(found)
    assert (record.champion, record.challenger) == names
    assert record.base_model == "research/base"
    tags = {
        tag.name: tag.target_commit
        for tag in HfApi(endpoint=hub.endpoint, token=hub.token).list_repo_refs(repo).tags
    }
    assert (record.champion_revision, record.challenger_revision) == (tags["v1"], tags["v2"])
    assert record.slices[0].num_used == NUM_ITEMS
    assert [list(sample) for sample in samples] == [pq.read_schema(record.items_path).names] * 2
    assert abs(samples[0]["delta"]) >= abs(samples[1]["delta"]) > 0


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["compare", "{repo}@v1", "{repo}@v9", "--slice", "smoke"], 30, "no such revision"),
        (["compare", "{repo}@v1", "research/none", "--slice", "smoke"], 30, "no such repo"),
        (["compare", "{repo}@v1", "nowhere", "--slice", "smoke"], 30, "neither a folder here"),
        (["compare", "{repo}@v1", "base", "--slice", "smok"], 30, "no suite 'smok'"),
        (["eval", "--adapter", "research/base", "--slice", "smoke"], 30, "holds no PEFT adapter"),
        (["eval", "--slice", "smoke"], 30, "--base"),
        (["compare", "base", "./nofolder", "--slice", "smoke"], 30, "./nofolder: no such folder"),
        (["eval", "--slice", "nope.yaml", "--cost"], 30, "--slice (slices= in Python): no such"),
        (["eval", "--slice", "smoke", "--batch-size", "zero"], 30, "--batch-size zero: expected"),
        (
            ["eval", "--adapter", "none", "--slice", "smoke", "--base", "a/b/c"],
            30,
            "base model a/b/c",
        ),
    ],
)
def test_a_wrong_name_is_a_message_and_a_code(
    repo: str,
    hub: RunningHub,
    on_hub: dict[str, str],
    arguments: list[str],
    code: int,
    said: str,
) -> None:
    given = [argument.format(repo=repo) for argument in arguments]
    _, err = run(*given, "--endpoint", hub.endpoint, code=code, environment=on_hub)
    assert said in re.sub(r"\s+", " ", err)
