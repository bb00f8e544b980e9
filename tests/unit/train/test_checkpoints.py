"""Which checkpoint is resumed from, after every way of dying in the middle of a save."""

from pathlib import Path

import pytest

from ct_llm.train.checkpoints import MARKER, checkpoint_to_resume, mark_complete


def write_checkpoint(folder: Path, step: int, fingerprint: str | None = "mine") -> Path:
    checkpoint = folder / f"checkpoint-{step}"
    checkpoint.mkdir(parents=True)
    (checkpoint / "adapter_model.safetensors").write_bytes(b"weights of step %d" % step)
    (checkpoint / "trainer_state.json").write_text(f'{{"global_step": {step}}}')
    if fingerprint is not None:
        mark_complete(checkpoint, fingerprint)
    return checkpoint


def test_nothing_to_resume_from_where_there_is_no_folder(tmp_path: Path) -> None:
    assert checkpoint_to_resume(tmp_path / "checkpoints", "mine") == (None, [])


def test_the_newest_by_number_not_by_name(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, 90)
    newest = write_checkpoint(tmp_path, 100)
    assert checkpoint_to_resume(tmp_path, "mine") == (newest, [])
    assert (tmp_path / "checkpoint-90").is_dir()


def test_one_without_a_marker_is_removed_and_the_one_before_taken(tmp_path: Path) -> None:
    older = write_checkpoint(tmp_path, 10)
    half = write_checkpoint(tmp_path, 20, fingerprint=None)
    found, notes = checkpoint_to_resume(tmp_path, "mine")
    assert found == older
    assert not half.exists()
    assert len(notes) == 1


@pytest.mark.parametrize("damage", ["truncated", "missing", "added", "same_size", "marker"])
def test_a_damaged_one_is_removed(tmp_path: Path, damage: str) -> None:
    older = write_checkpoint(tmp_path, 10)
    broken = write_checkpoint(tmp_path, 20)
    weights = broken / "adapter_model.safetensors"
    match damage:
        case "truncated":
            weights.write_bytes(weights.read_bytes()[:-1])
        case "missing":
            weights.unlink()
        case "added":
            (broken / "optimizer.pt").write_bytes(b"from elsewhere")
        case "same_size":
            weights.write_bytes(bytes(len(weights.read_bytes())))
        case "marker":
            (broken / MARKER).write_text('{"fingerprint": "mi')
    found, notes = checkpoint_to_resume(tmp_path, "mine")
    assert found == older
    assert not broken.exists()
    assert len(notes) == 1


def test_those_of_another_request_are_removed(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, 10, "other")
    write_checkpoint(tmp_path, 20, "other")
    found, notes = checkpoint_to_resume(tmp_path, "mine")
    assert found is None
    assert list(tmp_path.iterdir()) == []
    assert len(notes) == 2


def test_other_folders_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "final").mkdir()
    (tmp_path / "checkpoint-best").mkdir()
    assert checkpoint_to_resume(tmp_path, "mine") == (None, [])
    assert len(list(tmp_path.iterdir())) == 2
