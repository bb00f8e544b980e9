"""Real training of a small real model: what is learned, what survives a kill, what is refused."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from ct_llm.config import BaseModelConfig, LaunchConfig, LoraConfig, TrainConfig
from ct_llm.cycle_dir import read_record, write_record
from ct_llm.digests import adapter_digest
from ct_llm.errors import AdapterError, ConfigError, DataError, InputError, SecurityError
from ct_llm.hub.client import BaseModelFolder
from ct_llm.launch.local import ProcessFailure
from ct_llm.records import PreparedData, TrainedAdapter
from ct_llm.train import sft
from ct_llm.train.lora import check_saved_adapter
from ct_llm.train.request import TrainFolder, TrainResult
from ct_llm.train.train import build_request, train
from ct_llm.train.trainer import split_batch

pytestmark = pytest.mark.e2e

BASE = Path(__file__).parents[2] / "scripts" / "demo_world" / "base"
CONFIG = TrainConfig(
    lora=LoraConfig(r=4, alpha=8, dropout=0.1),
    learning_rate=3e-3,
    epochs=3,
    batch_size=4,
    micro_batch_size=2,
    max_length=64,
    # On a logged step (every second one here): transformers keeps no sum of the losses in between.
    save_every_steps=4,
)
NUM_ROWS = 128
KILL_AT_STEP = 40
"""In the second of three epochs, of 32 steps each."""


def conversation(number: int) -> list[dict[str, str]]:
    return [
        {"role": "user", "content": f"count {number % 7}"},
        {"role": "assistant", "content": " ".join(["one"] * (number % 7 + 1))},
    ]


def write_cycle(cycle: Path, rows: list[Any] | None = None) -> PreparedData:
    rows = [conversation(number) for number in range(NUM_ROWS)] if rows is None else rows
    (cycle / "data").mkdir(parents=True)
    table = pa.table({"messages": [json.dumps(row) for row in rows]})
    pq.write_table(table, cycle / "data" / "train.parquet")
    return PreparedData(
        train_path="data/train.parquet",
        holdout_path="data/holdout.parquet",
        historic_holdout_path="data/holdout_historic.parquet",
        quarantine_path="data/quarantine.parquet",
        report_path="data/report.json",
        num_train=len(rows),
        num_replay=0,
        num_holdout=0,
        num_historic_holdout=0,
        num_quarantined=0,
        num_contaminated=0,
        rows_read=len(rows),
        counts={},
        counts_by_source={},
        digest=f"{len(rows):064}",
    )


def base_model() -> BaseModelFolder:
    return BaseModelFolder(BASE, "team/base", "0123456789abcdef0123456789abcdef01234567")


def run_train(cycle: Path, data: PreparedData, **changes: Any) -> TrainedAdapter:
    arguments: dict[str, Any] = {
        "base": base_model(),
        "base_config": BaseModelConfig(repo="team/base"),
        "launch": LaunchConfig(),
        "cycle": cycle,
        "champion_folder": None,
        "champion_revision": None,
    }
    return train(CONFIG, data, **(arguments | changes))


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """A model this small gains nothing from a second thread, and tests share their machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainedAdapter]:
    """A cycle trained without interruption."""
    cycle = tmp_path_factory.mktemp("cycles") / "undisturbed"
    return cycle, run_train(cycle, write_cycle(cycle))


Prepare = Callable[..., TrainFolder]


@pytest.fixture
def prepare(tmp_path: Path) -> Prepare:
    """A cycle with its request written: what the training process finds, run here in this one."""

    def write(
        *,
        config: TrainConfig = CONFIG,
        rows: list[Any] | None = None,
        base: Path = BASE,
        champion: Path | None = None,
        template: str | None = None,
        num_processes: int = 1,
    ) -> TrainFolder:
        cycle = tmp_path / "cycle"
        data = write_cycle(cycle, rows)
        base_config = BaseModelConfig(repo="team/base")
        if template is not None:
            path = tmp_path / "template.jinja"
            path.write_text(template)
            base_config = BaseModelConfig(repo="team/base", chat_template=path)
        request = build_request(
            config,
            data,
            base=BaseModelFolder(base, base_model().repo, base_model().revision),
            base_config=base_config,
            launch=LaunchConfig(),
            cycle=cycle,
            champion_folder=champion,
        )
        folder = TrainFolder(cycle)
        write_record(folder.request, request.model_copy(update={"num_processes": num_processes}))
        return folder

    return write


def build(folder: TrainFolder) -> sft.AssistantTrainer:
    return sft.build_trainer(read_record(folder.request, sft.TrainRequest), folder)


# ---------------------------------------------------------------- what is learned


def test_the_loss_falls_and_the_adapter_changes_the_model(
    trained: tuple[Path, TrainedAdapter],
) -> None:
    cycle, adapter = trained
    assert adapter.metrics["train_loss_last"] < adapter.metrics["train_loss_first"] / 2
    assert adapter.num_steps == NUM_ROWS / CONFIG.batch_size * CONFIG.epochs
    assert adapter.num_rows == NUM_ROWS
    assert adapter.loss_curve[-1][1] == adapter.metrics["train_loss_last"]
    assert 0 < adapter.metrics["supervised_tokens"] < adapter.metrics["tokens"]

    base = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, cycle / adapter.path)
    tokens = torch.arange(4, 12)[None]
    with torch.no_grad():
        with_adapter = model(tokens).logits
        with model.disable_adapter():
            without = model(tokens).logits
    assert (with_adapter - without).abs().max() > 0.1


def test_the_adapter_folder_holds_weights_and_names_its_base(
    trained: tuple[Path, TrainedAdapter],
) -> None:
    cycle, adapter = trained
    folder = cycle / adapter.path
    assert {path.name for path in folder.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    stored = json.loads((folder / "adapter_config.json").read_text())
    assert stored["base_model_name_or_path"] == base_model().repo
    assert stored["revision"] == base_model().revision
    assert stored["target_modules"] == sorted(stored["target_modules"])
    assert adapter.digest == adapter_digest(folder)
    assert not (cycle / "checkpoints").exists()


def test_only_the_words_of_the_assistant_and_its_end_of_turn_are_learned(prepare: Prepare) -> None:
    rows = [
        [
            {"role": "user", "content": "count 1"},
            {"role": "assistant", "content": "one"},
            {"role": "user", "content": "count 2"},
            {"role": "assistant", "content": "one one"},
        ]
    ]
    trainer = build(prepare(rows=rows))
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    batch = next(iter(trainer.get_train_dataloader()))
    learned = [token for token in batch["labels"][0].tolist() if token != -100]
    assert str(tokenizer.decode(learned)).replace(" ", "") == "one<|end|>oneone<|end|>"


def test_rows_cut_before_the_assistant_speaks_are_counted(prepare: Prepare) -> None:
    long_prompt = [{"role": "user", "content": "count " * 100}, conversation(0)[1]]
    trainer = build(prepare(rows=[conversation(1), long_prompt, conversation(2)]))
    assert (trainer.num_rows, trainer.num_rows_fully_masked) == (2, 1)


def test_no_row_with_words_of_the_assistant_is_an_input_error(prepare: Prepare) -> None:
    long_prompt = [{"role": "user", "content": "count " * 100}, conversation(0)[1]]
    with pytest.raises(DataError, match="max_length"):
        build(prepare(rows=[long_prompt] * 3))


@pytest.mark.parametrize("row", [[{"role": "user", "content": "count"}], {"text": "count"}, [1]])
def test_a_row_that_is_no_conversation_is_an_input_error(prepare: Prepare, row: object) -> None:
    with pytest.raises(DataError, match="row 1"):
        build(prepare(rows=[conversation(1), row]))


# ---------------------------------------------------------------- what survives a kill

DRIVER = """
import os, signal, sys
from pathlib import Path
from tests.e2e.test_train import KILL_AT_STEP, run_train, PreparedData
data = PreparedData.model_validate_json(sys.argv[2])
def kill_myself(step, num_steps, loss):
    if step >= KILL_AT_STEP:
        os.kill(os.getpid(), signal.SIGKILL)
run_train(Path(sys.argv[1]), data, on_progress=kill_myself)
"""


def test_killed_by_sigkill_and_resumed_the_weights_are_the_same(
    trained: tuple[Path, TrainedAdapter], tmp_path: Path
) -> None:
    cycle = tmp_path / "killed"
    data = write_cycle(cycle)
    command = [sys.executable, "-c", DRIVER, str(cycle), data.model_dump_json()]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    wait_until_nothing_trains(cycle)
    folder = TrainFolder(cycle)
    assert not folder.result.exists(), "it was not killed in the middle"
    newest = max(int(p.name.split("-")[1]) for p in folder.checkpoints.glob("checkpoint-*"))
    half_written = folder.checkpoints / f"checkpoint-{newest + CONFIG.save_every_steps}"
    half_written.mkdir()
    (half_written / "adapter_model.safetensors").write_bytes(b"\x10\x00")

    steps: list[int] = []
    resumed = run_train(cycle, data, on_progress=lambda step, *_: steps.append(step))
    undisturbed = trained[1]
    assert steps[0] > KILL_AT_STEP - CONFIG.save_every_steps
    assert resumed.digest == undisturbed.digest
    assert resumed.loss_curve == undisturbed.loss_curve


def wait_until_nothing_trains(cycle: Path) -> None:
    """All processes whose command line names this cycle are gone soon after their parent."""
    deadline = time.monotonic() + 30
    needle = os.fsencode(cycle)
    while any(needle in command_line(pid) for pid in Path("/proc").glob("[0-9]*")):
        assert time.monotonic() < deadline, "the training process outlived its parent"
        time.sleep(0.05)


def command_line(pid: Path) -> bytes:
    try:
        return (pid / "cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


# ---------------------------------------------------------------- continuing the champion


@pytest.fixture
def champion(trained: tuple[Path, TrainedAdapter], tmp_path: Path) -> Path:
    cycle, adapter = trained
    return Path(shutil.copytree(cycle / adapter.path, tmp_path / "champion"))


CONTINUE = CONFIG.model_copy(update={"start_from": "champion", "epochs": 0.25})


def test_the_champion_is_trained_further(
    trained: tuple[Path, TrainedAdapter], champion: Path, prepare: Prepare
) -> None:
    folder = prepare(config=CONTINUE, champion=champion)
    sft.run(folder)
    result = read_record(folder.result, TrainResult)
    assert result.metrics["train_loss_first"] < trained[1].metrics["train_loss_first"] / 2
    assert result.adapter_digest != trained[1].digest
    before = load_file(champion / "adapter_model.safetensors")
    after = load_file(folder.adapter / "adapter_model.safetensors")
    assert before.keys() == after.keys()
    assert max(float((before[name] - after[name]).abs().max()) for name in before) < 0.1


@pytest.mark.parametrize(
    "change", [{"base_model_name_or_path": "team/other"}, {"revision": "f" * 40}]
)
def test_an_adapter_for_another_base_is_refused(
    champion: Path, prepare: Prepare, change: dict[str, str]
) -> None:
    path = champion / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(AdapterError, match="made for base model"):
        build(prepare(config=CONTINUE, champion=champion))


def test_an_adapter_of_other_shapes_is_refused(champion: Path, prepare: Prepare) -> None:
    path = champion / "adapter_model.safetensors"
    save_file({name: tensor[:, :3].clone() for name, tensor in load_file(path).items()}, path)
    with pytest.raises(AdapterError, match="does not fit"):
        build(prepare(config=CONTINUE, champion=champion))


def test_another_rank_than_the_champions_is_a_config_error(
    champion: Path, prepare: Prepare
) -> None:
    config = CONTINUE.model_copy(update={"lora": LoraConfig(r=8)})
    with pytest.raises(ConfigError, match="r 4"):
        build(prepare(config=config, champion=champion))


def test_a_pickled_champion_is_refused(champion: Path, prepare: Prepare) -> None:
    folder = prepare(config=CONTINUE, champion=champion)
    (champion / "adapter_model.safetensors").rename(champion / "adapter_model.bin")
    with pytest.raises(SecurityError, match="pickle"):
        build(folder)


# ---------------------------------------------------------------- chat templates

NO_MARKERS = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
END_OUTSIDE = (
    "{% for m in messages %}<|{{ m.role }}|>{% if m.role == 'assistant' %}{% generation %}"
    "{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}<|end|>{% endfor %}"
)
GOOD = END_OUTSIDE.replace("{% endgeneration %}", "<|end|>{{ '\\n' }}{% endgeneration %}")


@pytest.mark.parametrize(
    ("template", "fault"),
    [(NO_MARKERS, "does not mark"), (END_OUTSIDE, "never learn to stop")],
)
def test_a_template_that_teaches_the_wrong_tokens_is_an_input_error(
    prepare: Prepare, template: str, fault: str
) -> None:
    folder = prepare(template=template)
    with pytest.raises(SystemExit) as ended:
        sft.main(["--request", str(folder.request)])
    assert ended.value.code == InputError.exit_code
    error = read_record(folder.error, ProcessFailure).as_error()
    assert type(error) is InputError
    assert fault in str(error)
    assert "base_model.chat_template" in str(error)


def test_a_base_model_without_a_template_is_an_input_error(
    prepare: Prepare, real_data: Path
) -> None:
    with pytest.raises(InputError, match="no chat template"):
        build(prepare(base=real_data / "model_stories260k"))


def test_a_template_that_replaces_the_bases_travels_with_the_adapter(prepare: Prepare) -> None:
    config = CONFIG.model_copy(update={"epochs": 0.1})
    folder = prepare(config=config, template=GOOD)
    sft.run(folder)
    assert AutoTokenizer.from_pretrained(folder.adapter).chat_template == GOOD


# ---------------------------------------------------------------- the rest of the checks


@pytest.mark.parametrize(
    ("batch_size", "micro_batch_size", "num_processes", "split"),
    [(16, 16, 1, (16, 1)), (16, 4, 2, (4, 2)), (4, 16, 1, (4, 1)), (16, 16, 2, (8, 1))],
)
def test_a_batch_is_split_over_processes_and_passes(
    batch_size: int, micro_batch_size: int, num_processes: int, split: tuple[int, int]
) -> None:
    config = TrainConfig(batch_size=batch_size, micro_batch_size=micro_batch_size)
    assert split_batch(config, num_processes) == split


@pytest.mark.parametrize(
    ("batch_size", "micro", "num_processes"), [(10, 4, 1), (9, 3, 2), (1, 1, 2)]
)
def test_a_batch_that_cannot_be_split_is_a_config_error(
    batch_size: int, micro: int, num_processes: int
) -> None:
    config = TrainConfig(batch_size=batch_size, micro_batch_size=micro)
    with pytest.raises(ConfigError, match=r"train\.batch_size"):
        split_batch(config, num_processes)


def test_another_number_of_processes_than_asked_for_is_a_config_error(prepare: Prepare) -> None:
    with pytest.raises(ConfigError, match="2 processes"):
        build(prepare(num_processes=2))


def test_modules_that_are_not_there_are_a_config_error(prepare: Prepare) -> None:
    config = CONFIG.model_copy(update={"lora": LoraConfig(target_modules=["nowhere"])})
    with pytest.raises(ConfigError, match=r"train\.lora"):
        build(prepare(config=config))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this GPU may have bfloat16")
def test_bfloat16_without_a_gpu_is_a_config_error(prepare: Prepare) -> None:
    config = CONFIG.model_copy(update={"precision": "bfloat16"})
    with pytest.raises(ConfigError, match="bfloat16"):
        build(prepare(config=config))


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (lambda name, tensor: tensor * 0 if "lora_B" in name else tensor, "empty"),
        (lambda _, tensor: tensor / 0, "NaN"),
        (lambda _, tensor: tensor[:1], "another shape"),
    ],
)
def test_a_broken_adapter_is_not_published(
    champion: Path,
    prepare: Prepare,
    damage: Callable[[str, torch.Tensor], torch.Tensor],
    fault: str,
) -> None:
    model = build(prepare(config=CONTINUE, champion=champion)).model
    assert isinstance(model, PeftModel)
    check_saved_adapter(champion, model)
    path = champion / "adapter_model.safetensors"
    save_file({name: damage(name, tensor) for name, tensor in load_file(path).items()}, path)
    with pytest.raises(AdapterError, match=fault):
        check_saved_adapter(champion, model)
