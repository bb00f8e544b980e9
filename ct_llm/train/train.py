"""The train step: training set -> challenger.

Training runs in processes of its own under `accelerate launch` (see sft.py), so that this one needs
no torch, survives their death and can say why they died. They talk through files (see request.py).
"""

import shutil
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from ct_llm.config import BaseModelConfig, LaunchConfig, TrainConfig
from ct_llm.cycle_dir import read_record, write_record
from ct_llm.digests import adapter_digest, fingerprint
from ct_llm.errors import AdapterError, ConfigError
from ct_llm.hub.client import BaseModelFolder
from ct_llm.launch.local import accelerate_command, accelerate_config, environment, run_step
from ct_llm.records import PreparedData, TrainedAdapter
from ct_llm.train.checkpoints import checkpoint_to_resume
from ct_llm.train.request import TrainFolder, TrainProgress, TrainRequest, TrainResult

LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "tokenizers")

OnProgress = Callable[[int, int, float], None]


def train(
    config: TrainConfig,
    data: PreparedData,
    *,
    base: BaseModelFolder,
    base_config: BaseModelConfig,
    launch: LaunchConfig,
    cycle: Path,
    champion_folder: Path | None,
    champion_revision: str | None,
    on_progress: OnProgress | None = None,
) -> TrainedAdapter:
    """Train an adapter on the cycle's training set; it stands in `<cycle>/adapter` when whole.

    `on_progress(step, num_steps, loss)` is called as training goes on. A training that was killed
    continues from its newest intact checkpoint when it is asked for again; on a CPU the weights are
    then bit for bit those of an uninterrupted one.

    Raises ConfigError, DataError, InputError (the chat template), AdapterError (a champion for
    another base, weights that came out broken), StepFailedError (the process died) and
    SecurityError. SIGINT and SIGTERM are passed on to the process and take effect here afterwards.
    """
    folder = TrainFolder(cycle.resolve())
    continued = champion_folder if config.start_from == "champion" else None
    request = build_request(
        config,
        data,
        base=base,
        base_config=base_config,
        launch=launch,
        cycle=folder.cycle,
        champion_folder=continued,
    )
    result = _finished_before(folder, request)
    if result is None:
        _run(folder, request, launch, on_progress)
        result = read_record(folder.result, TrainResult)
        if adapter_digest(folder.adapter) != result.adapter_digest:
            raise AdapterError(
                f"{folder.adapter} is not the adapter that was trained: it changed on disk. "
                "Run the train step again."
            )
    shutil.rmtree(folder.checkpoints, ignore_errors=True)
    return TrainedAdapter(
        path=folder.adapter.name,
        digest=result.adapter_digest,
        base_model=base.repo,
        base_revision=base.revision,
        started_from=champion_revision if continued is not None else None,
        num_rows=result.num_rows,
        num_steps=result.num_steps,
        seconds=result.seconds,
        metrics=result.metrics,
        loss_curve=result.loss_curve,
        library_versions={name: version(name) for name in LIBRARIES},
    )


def build_request(
    config: TrainConfig,
    data: PreparedData,
    *,
    base: BaseModelFolder,
    base_config: BaseModelConfig,
    launch: LaunchConfig,
    cycle: Path,
    champion_folder: Path | None,
) -> TrainRequest:
    """Raises ConfigError (template or accelerate configuration) and AdapterError (no champion there)."""
    template = _chat_template(base_config)
    num_processes = _num_processes(accelerate_config(launch))
    identity = [
        config,
        data.digest,
        base.revision,
        base_config.dtype,
        template,
        adapter_digest(champion_folder) if champion_folder else None,
        # Not part of the step's identity, but checkpoints hold one random state a process.
        num_processes,
    ]
    return TrainRequest(
        fingerprint=fingerprint(identity),
        config=config,
        train_file=str(cycle / data.train_path),
        base_folder=str(base.folder.resolve()),
        base_repo=base.repo,
        base_revision=base.revision,
        dtype=base_config.dtype,
        chat_template=template,
        champion_folder=str(champion_folder.resolve()) if champion_folder else None,
        num_processes=num_processes,
    )


def launch_command(launch: LaunchConfig, request: Path) -> list[str]:
    return accelerate_command(
        accelerate_config(launch),
        "ct_llm.train.sft",
        *("--request", str(request), "--stop-with-parent"),
    )


def _chat_template(base_config: BaseModelConfig) -> str | None:
    path = base_config.chat_template
    if path is None:
        return None
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"base_model.chat_template: {path} cannot be read: {error}") from None


def _num_processes(path: Path) -> int | None:
    try:
        settings: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"launch.accelerate_config: {path} cannot be read: {error}") from None
    if not isinstance(settings, dict):
        raise ConfigError(
            f"launch.accelerate_config: {path} holds no settings. "
            f"Write one with `accelerate config --config_file {path}`."
        )
    number = settings.get("num_processes")
    return number if isinstance(number, int) else None


def _finished_before(folder: TrainFolder, request: TrainRequest) -> TrainResult | None:
    """The result of the same training, finished by a run that died before its record was written."""
    if not (folder.result.exists() and folder.adapter.exists()):
        return None
    result = read_record(folder.result, TrainResult)
    same = result.fingerprint == request.fingerprint
    return result if same and adapter_digest(folder.adapter) == result.adapter_digest else None


# ---------------------------------------------------------------- the process


def _run(
    folder: TrainFolder, request: TrainRequest, launch: LaunchConfig, on_progress: OnProgress | None
) -> None:
    folder.progress.unlink(missing_ok=True)
    checkpoint, notes = checkpoint_to_resume(folder.checkpoints, request.fingerprint)
    resume_from = str(checkpoint) if checkpoint else None
    write_record(folder.request, request.model_copy(update={"resume_from": resume_from}))
    with folder.log.open("a", encoding="utf-8") as log:
        log.writelines(f"[ct_llm] {note}\n" for note in notes)
        log.write(f"[ct_llm] training from {checkpoint.name if checkpoint else 'the start'}\n")

    progress = ProgressReader(folder.progress, on_progress)
    run_step(
        launch_command(launch, folder.request),
        what="training",
        log=folder.log,
        error=folder.error,
        result=folder.result,
        # Base model and data lie on this disk.
        env=environment(request.num_processes or 1, offline=True),
        on_poll=progress.poll,
    )


class ProgressReader:
    """Reads the progress file as it grows; a line that is only half there waits for its rest."""

    def __init__(self, path: Path, on_progress: OnProgress | None) -> None:
        self._path = path
        self._on_progress = on_progress
        self._offset = 0

    def poll(self) -> None:
        if self._on_progress is None or not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._offset += len(line)
                progress = TrainProgress.model_validate_json(line)
                self._on_progress(progress.step, progress.num_steps, progress.loss)
