"""TRL's SFTTrainer as the pipeline needs it: arguments, order of rows, checkpoints, progress."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from accelerate import PartialState
from datasets import Dataset
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_pt_utils import LengthGroupedSampler
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from ct_llm.config import TrainConfig
from ct_llm.errors import AdapterError, ConfigError, DataError
from ct_llm.train.checkpoints import mark_complete
from ct_llm.train.request import TrainFolder, TrainProgress, TrainRequest

LOGS_PER_TRAINING = 50
"""Each costs a synchronisation; every step would cost a fifth of the speed on a CPU."""
NUM_CHECKPOINTS = 2
"""The newest may be half-written; the one before it is then whole."""


def training_arguments(
    config: TrainConfig,
    folder: TrainFolder,
    *,
    precision: torch.dtype,
    max_length: int,
    num_processes: int,
) -> SFTConfig:
    """Raises ConfigError when batch_size cannot be divided as asked."""
    on_cpu = not torch.cuda.is_available()
    micro_batch, accumulation = split_batch(config, num_processes)
    return SFTConfig(
        output_dir=str(folder.checkpoints),
        max_length=max_length,
        packing=False,
        num_train_epochs=config.epochs,
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=accumulation,
        learning_rate=config.learning_rate,
        lr_scheduler_type=config.lr_scheduler,
        warmup_steps=config.warmup_fraction,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        seed=config.seed,
        data_seed=config.seed,
        # Deterministic GPU kernels are slow, and not all operations have one.
        full_determinism=on_cpu,
        use_cpu=on_cpu,
        bf16=precision == torch.bfloat16,
        gradient_checkpointing=config.gradient_checkpointing,
        train_sampling_strategy="group_by_length",
        logging_strategy="steps",
        logging_steps=1 / LOGS_PER_TRAINING,
        logging_first_step=True,
        # The default replaces a loss of NaN by the mean of the others and goes on.
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=config.save_every_steps,
        save_total_limit=NUM_CHECKPOINTS,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=not on_cpu,
        ddp_find_unused_parameters=False,
    )


def split_batch(config: TrainConfig, num_processes: int) -> tuple[int, int]:
    """batch_size as rows per forward pass and passes per optimizer step. Raises ConfigError."""
    share = config.batch_size // num_processes
    micro_batch = min(config.micro_batch_size, share)
    if share * num_processes != config.batch_size or share % micro_batch:
        raise ConfigError(
            f"train.batch_size: {config.batch_size} rows do not divide into {num_processes} "
            f"process(es) with passes of {micro_batch or config.micro_batch_size} rows "
            "(train.micro_batch_size). Make it a multiple of their product."
        )
    return micro_batch, share // micro_batch


class AssistantTrainer(SFTTrainer):
    """SFTTrainer that counts its tokens and whose order of rows depends on seed and epoch alone.

    Raises DataError when truncation left nothing of the assistant's words in any row.
    """

    def __init__(self, *, args: SFTConfig, train_dataset: Dataset, **kwargs: Any) -> None:
        super().__init__(args=args, train_dataset=train_dataset, **kwargs)
        rows = self.train_dataset
        assert isinstance(rows, Dataset)
        if len(rows) == 0:
            raise DataError(
                f"no training row has words of the assistant in its first {args.max_length} tokens: "
                "all prompts are longer. Raise train.max_length (the base model's context is its "
                "limit), or take such rows out."
            )
        self._lengths = [len(ids) for ids in rows["input_ids"]]
        self.num_rows = len(rows)
        self.num_rows_fully_masked = len(train_dataset) - len(rows)
        self.num_tokens = sum(self._lengths)
        self.num_supervised_tokens = sum(
            label != -100 for labels in rows["labels"] for label in labels
        )

    def _get_train_sampler(
        self, train_dataset: torch.utils.data.Dataset[Any] | None = None
    ) -> torch.utils.data.Sampler[int]:
        args = self.args
        per_step = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        return LengthGroupedByEpoch(
            per_step, self._lengths, args.seed, lambda: int(self.state.epoch or 0)
        )


class LengthGroupedByEpoch(LengthGroupedSampler):
    """Rows of similar length together, in an order drawn from seed and epoch.

    transformers' own draws from the global generator, which a resumed process and each process of
    several have in other states: other rows after a resume, and rows seen twice.
    """

    def __init__(
        self, batch_size: int, lengths: list[int], seed: int, epoch: Callable[[], int]
    ) -> None:
        super().__init__(batch_size, lengths=lengths)
        self._seed = seed
        # Asked for, not told: `set_epoch` does not reach a sampler below all of accelerate's wrappers.
        self._epoch = epoch

    def __iter__(self) -> Iterator[int]:
        self.generator = torch.Generator().manual_seed(self._seed * 1_000_003 + self._epoch())
        return super().__iter__()


class WhileTraining(TrainerCallback):
    """Tells the step how far it is, marks checkpoints, stops when the loss is no number."""

    def __init__(self, request: TrainRequest, folder: TrainFolder) -> None:
        self._request = request
        self._folder = folder

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        if not logs or "loss" not in logs:
            return
        if not math.isfinite(logs["loss"]):
            raise AdapterError(
                f"the loss became {logs['loss']} at step {state.global_step}. Lower "
                "train.learning_rate, or look for damaged rows."
            )
        if state.is_world_process_zero:
            progress = TrainProgress(
                step=state.global_step, num_steps=state.max_steps, loss=logs["loss"]
            )
            with self._folder.progress.open("a", encoding="utf-8") as file:
                file.write(progress.model_dump_json() + "\n")

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        # Each process writes its own random state.
        PartialState().wait_for_everyone()
        if state.is_world_process_zero:
            checkpoint = self._folder.checkpoints / f"checkpoint-{state.global_step}"
            mark_complete(checkpoint, self._request.fingerprint)
