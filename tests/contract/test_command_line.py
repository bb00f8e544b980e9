"""What scripts and schedulers rely on: commands, options, exit codes, and what help may import."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

import ct_llm
from ct_llm import errors
from ct_llm.cli.init import TEMPLATE
from ct_llm.config import CTConfig, load_config

COMMANDS = {
    "init": ["--force"],
    "run": ["--config", "--set", "--force", "--dry-run", "--json"],
    "watch": [
        *("--config", "--set", "--begin", "--record", "--json", "--prometheus"),
        *("--serve", "--host", "--port"),
    ],
    "prepare": ["--cycle", "--json"],
    "train": ["--cycle", "--json"],
    "evaluate": ["--cycle", "--json"],
    "gate": ["--cycle", "--dry-run", "--json"],
    "promote": ["--cycle", "--dry-run", "--json"],
    "eval": [
        *("--slice", "--adapter", "--base", "--chat-template", "--limit", "--out", "--batch-size"),
        *("--device", "--endpoint", "--set", "--cost", "--json"),
    ],
    "compare": [
        *("--slice", "--base", "--chat-template", "--limit", "--out", "--batch-size", "--device"),
        *("--endpoint", "--set", "--cost", "--json", "--samples", "--until-decided", "--alpha"),
    ],
    "rollback": ["--reason", "--dry-run", "--json"],
    "status": ["--json"],
    "history": ["--limit", "--decisions", "--json"],
    "config show": ["--json"],
    "hub serve": ["--root", "--port"],
}


def ct_llm_command(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ct_llm.cli.main", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env={**os.environ, "COLUMNS": "120"},
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_its_options(command: str) -> None:
    done = ct_llm_command(*command.split(), "--help")
    assert done.returncode == 0
    assert [option for option in COMMANDS[command] if option not in done.stdout] == []


# Typer itself loads pydantic where it has options to check.
@pytest.mark.parametrize(
    ("command", "more"), [("", ["pydantic"]), ("compare", ["ct_llm.api"]), ("eval", ["ct_llm.api"])]
)
def test_help_loads_nothing_heavy(command: str, more: list[str]) -> None:
    code = (
        "import sys\nfrom ct_llm.cli.main import main\n"
        f"try: main({[*command.split(), '--help']})\nexcept SystemExit: pass\n"
        f"heavy = {{'torch', 'huggingface_hub', 'transformers', 'numpy', 'rich', *{more}}}\n"
        'sys.exit(",".join(sorted(heavy & set(sys.modules))) or 0)\n'
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_exit_codes_are_the_documented_ones() -> None:
    codes = {name: getattr(errors, name) for name in vars(errors) if name.startswith("EXIT_")}
    assert codes == {
        "EXIT_PROMOTED": 0,
        "EXIT_NOTHING_TO_DO": 10,
        "EXIT_REJECTED": 11,
        "EXIT_INCONCLUSIVE": 12,
        "EXIT_RETRYABLE": 20,
        "EXIT_BAD_INPUT": 30,
        "EXIT_SECURITY": 40,
    }


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["run", "--config", "none.yaml"], 30, "none.yaml: no such file"),
        (["watch", "--config", "bad.yaml"], 30, "train.lora.rank: no such key"),
        (["run", "--config", "unreachable.yaml"], 20, "http://127.0.0.1:9 is not reachable"),
        (["prepare", "--cycle", "nowhere"], 30, "nowhere is not a cycle's folder"),
        (["init", "bad.yaml"], 30, "bad.yaml exists"),
        (["watch", "--config", "unreachable.yaml", "--serve"], 30, "CT_LLM_WEBHOOK_SECRET"),
        (["watch", "--serve", "--begin"], 30, "--begin and --serve do not go together"),
        (["watch", "--json", "--prometheus"], 30, "--json and --prometheus do not go together"),
        (["compare", "a", "b", "--slice", "smoke"], 30, "a: neither a folder here nor a Hub repo"),
        (["compare", "a", "b"], 2, "--slice"),
        (["eval", "--slice", "smoke"], 30, "--base"),
        (["eval", "--slice", "smoke", "--limit", "0"], 2, "--limit"),
        (
            ["eval", "--slice", "smoke", "--base", "x/y", "--endpoint", "http://127.0.0.1:9"],
            20,
            "not reac",
        ),
        (
            ["eval", "--slice", "smok", "--base", "x/y"],
            30,
            "no suite 'smok' (did you mean 'smoke'?)",
        ),
        (["eval", "--slice", "smoke", "--batch-size", "0x"], 30, "--batch-size 0x"),
        (["eval", "--slice", "smoke", "--set", "train.lora.r=1"], 30, "expected evaluate."),
        (["eval", "--slice", "smoke", "--set", "base_model.dtype=float32"], 30, "needs --base"),
        (["compare", "a", "base", "--slice", "smoke", "--alpha", "2"], 30, "alpha is a risk"),
    ],
)
def test_a_users_mistake_is_a_message_and_a_code(
    tmp_path: Path, arguments: list[str], code: int, said: str
) -> None:
    config = {
        "base_model": {"repo": "acme/base"},
        "datasets": [{"repo": "acme/rows"}],
        "adapter_repo": "acme/adapter",
        "evaluate": {"suites": []},
        "hub": {"endpoint": "http://127.0.0.1:9"},
    }
    (tmp_path / "unreachable.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump({**config, "train": {"lora": {"rank": 1}}}))
    done = ct_llm_command(*arguments, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr + done.stdout


def test_the_template_has_every_key_with_its_default(tmp_path: Path) -> None:
    config = load_config(TEMPLATE)
    written = yaml.safe_load(TEMPLATE.read_text(encoding="utf-8"))

    def compare(model: BaseModel, given: dict[str, object], place: str) -> None:
        assert list(given) == list(type(model).model_fields), f"{place}: keys or their order differ"
        for name, value in model:
            if isinstance(value, BaseModel):
                section = given[name]
                assert isinstance(section, dict)
                compare(value, section, f"{place}.{name}")

    compare(config, {**written}, "ct.yaml")
    minimal = CTConfig.model_validate(
        {key: written[key] for key in ("base_model", "datasets", "adapter_repo")}
    )
    for name in CTConfig.model_fields:
        if name != "work_dir":
            assert getattr(config, name) == getattr(minimal, name), name


def test_init_fills_in_names(tmp_path: Path) -> None:
    path = tmp_path / "ct.yaml"
    done = ct_llm_command(
        "init",
        str(path),
        "--base-model",
        "acme/base",
        "--dataset",
        "acme/rows",
        "--adapter-repo",
        "acme/a",
    )
    assert done.returncode == 0, done.stderr
    config = load_config(path)
    assert (config.base_model.repo, config.datasets[0].repo, config.adapter_repo) == (
        "acme/base",
        "acme/rows",
        "acme/a",
    )


def test_the_public_names_are_there_whatever_was_imported_before() -> None:
    code = (
        "import ct_llm.evaluate, ct_llm.promote, ct_llm\n"
        "from ct_llm import evaluate, promote\n"
        "assert callable(evaluate) and callable(promote)\n"
        "assert all(callable(getattr(ct_llm, name)) for name in ct_llm.__all__)\n"
        "import sys; assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert set(ct_llm.__all__) <= set(dir(ct_llm))
