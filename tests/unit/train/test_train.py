"""The step without torch: what it asks for, what it starts, and what it makes of the answers."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ct_llm.config import BaseModelConfig, LaunchConfig, LoraConfig, TrainConfig
from ct_llm.digests import adapter_digest
from ct_llm.errors import (
    AdapterError,
    ConfigError,
    DataError,
    InputError,
    SecurityError,
    StepFailedError,
    StorageError,
)
from ct_llm.hub.client import BaseModelFolder
from ct_llm.launch.local import ProcessFailure, accelerate_config
from ct_llm.records import PreparedData, TrainedAdapter
from ct_llm.train import train as step
from ct_llm.train.request import TrainFolder, TrainProgress, TrainRequest
from ct_llm.train.train import ProgressReader, build_request, launch_command

RunTrain = Callable[..., TrainedAdapter]


def stand_in(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Run `code` instead of accelerate; `request` is the path of the request, `cycle` its cycle."""
    prelude = (
        "import json, os, pathlib, shutil, signal, sys\n"
        "request = pathlib.Path(sys.argv[1]); cycle = request.parent.parent\n"
    )
    monkeypatch.setattr(
        step,
        "launch_command",
        lambda _launch, request: [sys.executable, "-c", prelude + code, str(request)],
    )


TRAINED_BY_STAND_IN = """
shutil.rmtree(cycle / "adapter", ignore_errors=True)
adapter = cycle / "adapter"; adapter.mkdir()
(adapter / "adapter_config.json").write_text("{}")
(adapter / "adapter_model.safetensors").write_bytes(b"weights")
with (cycle / "train" / "progress.jsonl").open("w") as file:
    file.write('{"step": 1, "num_steps": 2, "loss": 2.0}\\n{"step": 2, "num_steps": 2, "loss": 1.0}\\n')
print("trained")
from ct_llm.digests import adapter_digest
(cycle / "train" / "result.json").write_text(json.dumps({
    "fingerprint": json.loads(request.read_text())["fingerprint"],
    "adapter_digest": adapter_digest(adapter),
    "num_rows": 3, "num_steps": 2, "seconds": 1.5,
    "metrics": {"train_loss_first": 2.0},
    "loss_curve": [[1, 2.0], [2, 1.0]],
}))
"""


# ---------------------------------------------------------------- the request


def request_for(
    data: PreparedData,
    base: BaseModelFolder,
    cycle: Path,
    *,
    config: TrainConfig | None = None,
    base_config: BaseModelConfig | None = None,
    launch: LaunchConfig | None = None,
    champion: Path | None = None,
) -> TrainRequest:
    return build_request(
        config or TrainConfig(),
        data,
        base=base,
        base_config=base_config or BaseModelConfig(repo=base.repo),
        launch=launch or LaunchConfig(),
        cycle=cycle,
        champion_folder=champion,
    )


def test_the_request_names_everything_the_process_needs(
    data: PreparedData, base: BaseModelFolder, tmp_path: Path, champion: Path
) -> None:
    template = tmp_path / "template.jinja"
    template.write_text("{% generation %}{% endgeneration %}")
    request = request_for(
        data,
        base,
        tmp_path / "cycle",
        base_config=BaseModelConfig(repo=base.repo, chat_template=template),
        champion=champion,
    )
    assert request.train_file == str(tmp_path / "cycle" / "data" / "train.parquet")
    assert request.base_repo == "team/base"
    assert request.chat_template == template.read_text()
    assert request.champion_folder == str(champion)
    assert request.num_processes == 1
    assert request.resume_from is None


def test_the_fingerprint_follows_what_decides_the_weights(
    data: PreparedData, base: BaseModelFolder, tmp_path: Path, champion: Path
) -> None:
    template, two = tmp_path / "template.jinja", tmp_path / "two.yaml"
    template.write_text("another template")
    two.write_text("num_processes: 2\n")
    other_base = BaseModelFolder(base.folder, base.repo, "f" * 40)
    requests = [
        request_for(data, base, tmp_path),
        request_for(data, base, tmp_path, config=TrainConfig(seed=1)),
        request_for(data, base, tmp_path, config=TrainConfig(lora=LoraConfig(r=4))),
        request_for(data.model_copy(update={"digest": "e" * 64}), base, tmp_path),
        request_for(data, other_base, tmp_path),
        request_for(data, base, tmp_path, champion=champion),
        request_for(data, base, tmp_path, launch=LaunchConfig(accelerate_config=two)),
        request_for(
            data, base, tmp_path, base_config=BaseModelConfig(repo="b", chat_template=template)
        ),
        request_for(data, base, tmp_path, base_config=BaseModelConfig(repo="b", dtype="bfloat16")),
    ]
    assert len({request.fingerprint for request in requests}) == len(requests)


def test_the_fingerprint_does_not_follow_paths(
    data: PreparedData, base: BaseModelFolder, tmp_path: Path
) -> None:
    elsewhere = BaseModelFolder(tmp_path / "elsewhere", base.repo, base.revision)
    here = request_for(data, base, tmp_path / "one")
    there = request_for(data, elsewhere, tmp_path / "two")
    assert here.fingerprint == there.fingerprint


@pytest.mark.parametrize("text", [None, "- a list\n", "{unclosed"])
def test_an_unreadable_accelerate_config_is_a_config_error(
    data: PreparedData, base: BaseModelFolder, tmp_path: Path, text: str | None
) -> None:
    path = tmp_path / "accelerate.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match="accelerate_config"):
        request_for(data, base, tmp_path, launch=LaunchConfig(accelerate_config=path))


def test_a_missing_template_is_a_config_error(
    data: PreparedData, base: BaseModelFolder, tmp_path: Path
) -> None:
    base_config = BaseModelConfig(repo=base.repo, chat_template=tmp_path / "none.jinja")
    with pytest.raises(ConfigError, match="chat_template"):
        request_for(data, base, tmp_path, base_config=base_config)


def test_the_command_line(tmp_path: Path) -> None:
    launch = LaunchConfig(accelerate_config=tmp_path / "mine.yaml")
    command = launch_command(launch, tmp_path / "request.json")
    assert command[:3] == [sys.executable, "-m", "accelerate.commands.launch"]
    assert command[command.index("--config_file") + 1] == str(tmp_path / "mine.yaml")
    assert command[command.index("ct_llm.train.sft") - 1] == "-m"
    assert command[command.index("--request") + 1] == str(tmp_path / "request.json")


def test_the_shipped_accelerate_config_is_there() -> None:
    assert accelerate_config(LaunchConfig()).is_file()


def test_the_step_imports_no_torch() -> None:
    code = "import sys, ct_llm.train.train; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ---------------------------------------------------------------- the process and its answers


def test_a_training_that_goes_well(
    run_train: RunTrain, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stand_in(monkeypatch, TRAINED_BY_STAND_IN)
    calls: list[tuple[int, int, float]] = []
    trained = run_train(on_progress=lambda *call: calls.append(call))
    folder = TrainFolder(tmp_path / "cycle")
    assert calls == [(1, 2, 2.0), (2, 2, 1.0)]
    assert trained.path == "adapter"
    assert trained.digest == adapter_digest(folder.adapter)
    assert (trained.base_model, trained.started_from) == ("team/base", None)
    assert trained.loss_curve == ((1, 2.0), (2, 1.0))
    assert {"torch", "trl", "peft"} <= trained.library_versions.keys()
    assert "trained" in folder.log.read_text()


def test_the_same_training_is_not_run_twice(
    run_train: RunTrain, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(monkeypatch, TRAINED_BY_STAND_IN)
    first = run_train()
    stand_in(monkeypatch, "sys.exit('not again')")
    assert run_train() == first


def test_a_finished_adapter_with_other_bytes_is_trained_anew(
    run_train: RunTrain, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stand_in(monkeypatch, TRAINED_BY_STAND_IN)
    first = run_train()
    weights = tmp_path / "cycle" / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(b"wei")
    assert run_train().digest == first.digest
    assert weights.read_bytes() == b"weights"


def test_another_configuration_is_trained_anew(
    run_train: RunTrain, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(monkeypatch, TRAINED_BY_STAND_IN)
    run_train()
    stand_in(monkeypatch, "sys.exit('again')")
    with pytest.raises(StepFailedError):
        run_train(config=TrainConfig(seed=1))


def test_the_champion_is_continued_only_when_asked_for(
    run_train: RunTrain, monkeypatch: pytest.MonkeyPatch, champion: Path, tmp_path: Path
) -> None:
    stand_in(monkeypatch, TRAINED_BY_STAND_IN)
    assert run_train(champion_folder=champion).started_from is None
    request = TrainFolder(tmp_path / "cycle").request
    assert json.loads(request.read_text())["champion_folder"] is None

    config = TrainConfig(start_from="champion")
    assert run_train(config=config, champion_folder=champion).started_from == "c" * 40
    assert json.loads(request.read_text())["champion_folder"] == str(champion)


def test_an_adapter_changed_on_disk_is_refused(
    run_train: RunTrain, monkeypatch: pytest.MonkeyPatch
) -> None:
    change = "(adapter / 'adapter_model.safetensors').write_bytes(b'others')"
    stand_in(monkeypatch, TRAINED_BY_STAND_IN + change)
    with pytest.raises(AdapterError):
        run_train()


@pytest.mark.parametrize(
    "error",
    [
        InputError,
        ConfigError,
        DataError,
        AdapterError,
        SecurityError,
        StorageError,
        StepFailedError,
    ],
)
def test_what_the_process_knows_is_raised_here(
    run_train: RunTrain, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    failure = {"error": error.__name__, "message": "what to do"}
    stand_in(
        monkeypatch,
        f"(cycle / 'train' / 'error.json').write_text({json.dumps(failure)!r}); sys.exit(30)",
    )
    with pytest.raises(error, match="what to do") as raised:
        run_train()
    assert type(raised.value) is error


def test_an_unknown_kind_of_error_is_a_failed_step() -> None:
    failure = ProcessFailure(error="KeyboardInterrupt", message="m")
    assert type(failure.as_error()) is StepFailedError


def test_a_process_that_dies_is_a_failed_step_with_the_end_of_its_log(
    run_train: RunTrain, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    code = "print('\\n'.join(f'line {n}' for n in range(99)), flush=True); os.kill(os.getpid(), 9)"
    stand_in(monkeypatch, code)
    with pytest.raises(StepFailedError) as raised:
        run_train()
    message = str(raised.value)
    assert "line 98" in message
    assert "line 50" not in message
    assert str(TrainFolder(tmp_path / "cycle").log) in message


def test_a_process_that_ends_without_a_result_is_a_failed_step(
    run_train: RunTrain, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(monkeypatch, "pass")
    with pytest.raises(StepFailedError):
        run_train()


def test_an_old_error_does_not_outlive_the_next_run(
    run_train: RunTrain, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(
        monkeypatch,
        '(cycle / \'train\' / \'error.json\').write_text(\'{"error": "DataError", "message": ""}\')',
    )
    with pytest.raises(DataError):
        run_train()
    stand_in(monkeypatch, TRAINED_BY_STAND_IN)
    assert run_train().num_steps == 2


def test_the_signal_that_stopped_the_training_takes_effect_here(
    run_train: RunTrain, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(monkeypatch, "os.kill(os.getppid(), signal.SIGINT); import time; time.sleep(60)")
    with pytest.raises(KeyboardInterrupt):
        run_train()


def test_the_process_gets_no_token_and_no_network(
    run_train: RunTrain, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    stand_in(monkeypatch, "(cycle / 'env.json').write_text(json.dumps(dict(os.environ)))")
    with pytest.raises(StepFailedError):
        run_train()
    env = json.loads((tmp_path / "cycle" / "env.json").read_text())
    assert "HF_TOKEN" not in env
    assert env["HF_HUB_OFFLINE"] == "1"
    assert env["OMP_NUM_THREADS"] == str(len(os.sched_getaffinity(0)))


def test_an_intact_checkpoint_is_handed_to_the_process(
    run_train: RunTrain, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stand_in(
        monkeypatch,
        """
from ct_llm.train.checkpoints import mark_complete
checkpoint = cycle / "checkpoints" / "checkpoint-7"; checkpoint.mkdir(parents=True)
mark_complete(checkpoint, json.loads(request.read_text())["fingerprint"])
os.kill(os.getpid(), signal.SIGKILL)
""",
    )
    with pytest.raises(StepFailedError):
        run_train()
    stand_in(monkeypatch, TRAINED_BY_STAND_IN)
    run_train()
    folder = TrainFolder(tmp_path / "cycle")
    resumed_from = json.loads(folder.request.read_text())["resume_from"]
    assert resumed_from == str(folder.checkpoints / "checkpoint-7")
    assert not folder.checkpoints.exists()


# ---------------------------------------------------------------- progress


def test_progress_is_read_once_and_line_by_line(tmp_path: Path) -> None:
    path = tmp_path / "progress.jsonl"
    calls: list[tuple[int, int, float]] = []
    reader = ProgressReader(path, lambda *call: calls.append(call))
    reader.poll()
    first = TrainProgress(step=1, num_steps=4, loss=2.5).model_dump_json()
    second = TrainProgress(step=2, num_steps=4, loss=1.5).model_dump_json()
    path.write_text(first + "\n" + second[:10])
    reader.poll()
    assert calls == [(1, 4, 2.5)]
    path.write_text(first + "\n" + second + "\n")
    reader.poll()
    reader.poll()
    assert calls == [(1, 4, 2.5), (2, 4, 1.5)]
