"""The process under `accelerate launch`: TRL's SFTTrainer on a LoRA adapter.

    python -m ct_llm.train.sft --request <cycle>/train/request.json

Reads the request, writes `<cycle>/adapter` and `result.json` beside the request; `error.json` when it
knows what was wrong. See request.py.
"""

import argparse
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from peft import PeftModel
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerState,
    set_seed,
)

from ct_llm.config import TrainConfig
from ct_llm.cycle_dir import read_record, write_record
from ct_llm.digests import adapter_digest
from ct_llm.errors import AdapterError, ConfigError, CtError, StepFailedError
from ct_llm.launch.local import note_failure
from ct_llm.launch.process import stop_with_parent
from ct_llm.train.chat_template import check_chat_template, training_template
from ct_llm.train.conversations import tokenised_conversations
from ct_llm.train.lora import (
    WEIGHTS_FILE,
    attach_champion,
    attach_fresh,
    check_saved_adapter,
    write_adapter_config,
)
from ct_llm.train.request import TrainFolder, TrainRequest, TrainResult
from ct_llm.train.trainer import AssistantTrainer, WhileTraining, training_arguments


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m ct_llm.train.sft")
    parser.add_argument("--request", type=Path, required=True)
    parser.add_argument(
        "--stop-with-parent", action="store_true", help="exit when standard input ends"
    )
    options = parser.parse_args(arguments)
    if options.stop_with_parent:
        stop_with_parent()
    folder = TrainFolder(options.request.parent.parent)
    try:
        run(folder)
    except CtError as error:
        note_failure(folder.error, error)
        sys.exit(error.exit_code)
    except torch.OutOfMemoryError as error:
        explained = StepFailedError(
            f"the GPU ran out of memory: {error}. Lower train.micro_batch_size or "
            "train.max_length, or set train.gradient_checkpointing: true."
        )
        note_failure(folder.error, explained)
        sys.exit(explained.exit_code)


def run(folder: TrainFolder) -> None:
    """Train what `<cycle>/train/request.json` asks for. Raises CtError."""
    started = time.monotonic()
    request = read_record(folder.request, TrainRequest)
    trainer = build_trainer(request, folder)
    resumed_at = _step_of(request.resume_from)
    output = trainer.train(resume_from_checkpoint=request.resume_from)
    trainer.save_model(str(folder.checkpoints / "final"))
    if not trainer.is_world_process_zero():
        return
    state = trainer.state
    curve = _loss_curve(state)
    metrics = {
        "train_loss_first": curve[0][1],
        "train_loss_last": curve[-1][1],
        "grad_norm_max": _largest_grad_norm(state),
        "tokens": trainer.num_tokens * request.config.epochs,
        "supervised_tokens": trainer.num_supervised_tokens * request.config.epochs,
        "num_rows_fully_masked": trainer.num_rows_fully_masked,
        "num_trainable_parameters": trainer.get_num_trainable_parameters(),
    }
    trained_now = 1 - resumed_at / state.global_step
    metrics["tokens_per_second"] = metrics["tokens"] * trained_now / output.metrics["train_runtime"]
    model = trainer.accelerator.unwrap_model(trainer.model)
    assert isinstance(model, PeftModel)
    publish_adapter(request, folder, model)
    result = TrainResult(
        fingerprint=request.fingerprint,
        adapter_digest=adapter_digest(folder.adapter),
        num_rows=trainer.num_rows,
        num_steps=state.global_step,
        seconds=round(time.monotonic() - started, 3),
        metrics={name: float(value) for name, value in metrics.items()},
        loss_curve=curve,
    )
    write_record(folder.result, result)


def _step_of(checkpoint: str | None) -> int:
    if checkpoint is None:
        return 0
    return TrainerState.load_from_json(f"{checkpoint}/trainer_state.json").global_step


def _loss_curve(state: TrainerState) -> tuple[tuple[int, float], ...]:
    return tuple(
        (int(entry["step"]), float(entry["loss"])) for entry in state.log_history if "loss" in entry
    )


def _largest_grad_norm(state: TrainerState) -> float:
    largest = max(float(entry.get("grad_norm", 0.0)) for entry in state.log_history)
    if not largest > 0:
        raise AdapterError("nothing was learned: the gradient was zero at every logged step.")
    return largest


# ---------------------------------------------------------------- model and rows


def build_trainer(request: TrainRequest, folder: TrainFolder) -> AssistantTrainer:
    """Everything up to the first step. Raises CtError for whatever is known by then."""
    config = request.config
    num_processes = check_num_processes(request.num_processes)
    precision = resolve_precision(config)
    tokenizer = load_tokenizer(request)
    tokenizer.chat_template = training_template(tokenizer)
    model = load_base(request, precision)
    check_chat_template(tokenizer, stop_token_ids(tokenizer, model))
    # Before the adapter is made: its A matrices are random.
    set_seed(config.seed)
    if request.champion_folder is None:
        adapted = attach_fresh(model, config.lora)
    else:
        adapted = attach_champion(
            model,
            Path(request.champion_folder),
            config.lora,
            request.base_repo,
            request.base_revision,
        )
    # Past its context a base model computes nonsense (or fails), whatever the config allows.
    context = getattr(model.config, "max_position_embeddings", None) or config.max_length
    arguments = training_arguments(
        config,
        folder,
        precision=precision,
        max_length=min(config.max_length, context),
        num_processes=num_processes,
    )
    return AssistantTrainer(
        model=adapted,
        args=arguments,
        train_dataset=tokenised_conversations(Path(request.train_file), tokenizer),
        processing_class=tokenizer,
        callbacks=[WhileTraining(request, folder)],
    )


def check_num_processes(asked: int | None) -> int:
    """How many processes train. Raises ConfigError when accelerate silently started another number."""
    # Without cpu=True it would not join the other processes of a machine without GPUs.
    num_processes = PartialState(cpu=not torch.cuda.is_available()).num_processes
    if asked is not None and asked != num_processes:
        raise ConfigError(
            f"launch.accelerate_config asks for {asked} processes, but {num_processes} were started. "
            "On a CPU, MULTI_CPU starts one: write distributed_type: MULTI_GPU with use_cpu: true."
        )
    return num_processes


def resolve_precision(config: TrainConfig) -> torch.dtype:
    """What is computed in. Raises ConfigError when the device does not have it."""
    has_bfloat16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    if config.precision == "bfloat16" and not has_bfloat16:
        raise ConfigError(
            "train.precision: bfloat16 needs a GPU that has it (on a CPU it is many times slower "
            "than float32). Use auto."
        )
    wanted = config.precision != "float32" and has_bfloat16
    return torch.bfloat16 if wanted else torch.float32


def load_tokenizer(request: TrainRequest) -> PreTrainedTokenizerBase:
    tokenizer = AutoTokenizer.from_pretrained(request.base_folder, trust_remote_code=False)
    if request.chat_template is not None:
        tokenizer.chat_template = request.chat_template
    return tokenizer


def load_base(request: TrainRequest, precision: torch.dtype) -> PreTrainedModel:
    dtype = precision if request.dtype == "auto" else getattr(torch, request.dtype)
    return AutoModelForCausalLM.from_pretrained(
        request.base_folder, dtype=dtype, trust_remote_code=False, use_safetensors=True
    )


def stop_token_ids(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> set[int]:
    """Where generation stops: the tokenizer's end of sequence, and those of generation_config.json."""
    stops: Any = model.generation_config.eos_token_id if model.generation_config else None
    candidates = [tokenizer.eos_token_id, *(stops if isinstance(stops, list) else [stops])]
    return {token for token in candidates if isinstance(token, int)}


# ---------------------------------------------------------------- what comes out


def publish_adapter(request: TrainRequest, folder: TrainFolder, model: PeftModel) -> None:
    """Put the saved weights together with what belongs to them, check them, show them whole."""
    saved, hidden = folder.checkpoints / "final", folder.cycle / ".adapter"
    for old in (hidden, folder.adapter):
        if old.exists():
            shutil.rmtree(old)
    hidden.mkdir()
    if not (saved / WEIGHTS_FILE).is_file():
        raise AdapterError(f"PEFT wrote no {WEIGHTS_FILE} into {saved}.")
    shutil.copyfile(saved / WEIGHTS_FILE, hidden / WEIGHTS_FILE)
    write_adapter_config(saved, hidden, request.base_repo, request.base_revision)
    if request.chat_template is not None:
        load_tokenizer(request).save_pretrained(hidden)
    check_saved_adapter(hidden, model)
    hidden.rename(folder.adapter)


if __name__ == "__main__":
    main()
