"""What a step learns of its processes: results, errors that they noted, deaths without a word."""

import json
import os
import sys
from pathlib import Path

import pytest

from ct_llm import errors
from ct_llm.config import shipped
from ct_llm.errors import CtError, HubAccessError, StepFailedError
from ct_llm.launch.local import (
    ProcessFailure,
    accelerate_command,
    environment,
    note_failure,
    run_step,
)


def run(folder: Path, code: str) -> None:
    run_step(
        [sys.executable, "-c", code, str(folder)],
        what="evaluation",
        log=folder / "log.txt",
        error=folder / "error.json",
        result=folder / "result.json",
        env=os.environ,
        on_poll=lambda: None,
    )


WRITE_RESULT = "import pathlib, sys; pathlib.Path(sys.argv[1], 'result.json').write_text('{}')"


def test_the_result_of_an_earlier_run_does_not_count(tmp_path: Path) -> None:
    run(tmp_path, WRITE_RESULT)
    with pytest.raises(StepFailedError, match=r"evaluation process died \(exit status 0\)"):
        run(tmp_path, "pass")


def test_the_error_of_an_earlier_run_does_not_count(tmp_path: Path) -> None:
    note_failure(tmp_path / "error.json", HubAccessError("no token"))
    run(tmp_path, WRITE_RESULT)
    assert (tmp_path / "result.json").exists()


def test_a_death_without_a_word_quotes_the_log(tmp_path: Path) -> None:
    with pytest.raises(StepFailedError, match="the last words"):
        run(tmp_path, "import os; print('the last words', flush=True); os.kill(os.getpid(), 9)")


def test_what_the_process_noted_is_raised(tmp_path: Path) -> None:
    content = json.dumps({"error": "HubAccessError", "message": "export HF_TOKEN"})
    code = (
        "import pathlib, sys; "
        f"pathlib.Path(sys.argv[1], 'error.json').write_text({content!r}); sys.exit(30)"
    )
    with pytest.raises(HubAccessError, match="export HF_TOKEN"):
        run(tmp_path, code)


def our_errors(kind: type[CtError] = CtError) -> list[type[CtError]]:
    return [found for sub in kind.__subclasses__() for found in (sub, *our_errors(sub))]


@pytest.mark.parametrize("kind", [kind for kind in our_errors() if hasattr(errors, kind.__name__)])
def test_every_error_of_ours_crosses(tmp_path: Path, kind: type[CtError]) -> None:
    note_failure(tmp_path / "error.json", kind("what to do"))
    content = (tmp_path / "error.json").read_text()
    found = ProcessFailure.model_validate_json(content).as_error()
    assert type(found) is kind and str(found) == "what to do"


@pytest.mark.parametrize("name", ["KeyboardInterrupt", "CtError", "EXIT_SECURITY", "__name__"])
def test_anything_else_is_a_failed_step(name: str) -> None:
    assert type(ProcessFailure(error=name, message="m").as_error()) is StepFailedError


def test_the_command_line() -> None:
    config = shipped("accelerate_config.yaml")
    command = accelerate_command(config, "ct_llm.evaluation", "r.json", options=("--multi_gpu",))
    assert command[:3] == [sys.executable, "-m", "accelerate.commands.launch"]
    assert command[3:] == [
        *("--config_file", str(config), "--multi_gpu"),
        *("-m", "ct_llm.evaluation", "r.json"),
    ]


def test_offline_processes_get_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("HUGGING_FACE_HUB_TOKEN", "secret")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    offline, online = environment(2, offline=True), environment(2, offline=False)
    assert "secret" not in offline.values() and offline["HF_HUB_OFFLINE"] == "1"
    assert online["HF_TOKEN"] == "secret" and "HF_HUB_OFFLINE" not in online


def test_processes_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert environment(2, offline=True)["OMP_NUM_THREADS"] == "4"
    assert environment(99, offline=True)["OMP_NUM_THREADS"] == "1"
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert environment(2, offline=True)["OMP_NUM_THREADS"] == "3"
