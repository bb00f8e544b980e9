from pathlib import Path

import pytest

from ct_llm.config import CTConfig, load_config, load_suite
from ct_llm.errors import ConfigError

MINIMAL = """
base_model: {repo: acme/base}
datasets: [{repo: acme/rows}]
adapter_repo: acme/adapter
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "ct.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_three_keys_are_enough_and_the_rest_has_defaults(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, MINIMAL))
    assert config.watch.threshold_samples == 10_000
    assert config.gate.target is None
    assert config.gate.without_champion == "base_model"


def test_overrides_reach_nested_keys_and_list_entries(tmp_path: Path) -> None:
    config = load_config(
        write(tmp_path, MINIMAL),
        ["train.lora.r=32", "datasets.0.format=alpaca", "prepare.replay.rows_per_new_row=all"],
    )
    assert config.train.lora.r == 32
    assert config.datasets[0].format == "alpaca"
    assert config.prepare.replay.rows_per_new_row == "all"


@pytest.mark.parametrize(
    ("text", "overrides", "said"),
    [
        ("train: {learning_rat: 1}", [], ["train.learning_rat", "did you mean 'learning_rate'"]),
        ("train: {lora: {r: many}}", [], ["train.lora.r", "integer", "'many'"]),
        ("train: {batch_size: 0}", [], ["train.batch_size", "greater than or equal to 1", "0"]),
        ("datasets: []", [], ["datasets", "at least 1"]),
        ("adapter_repo: nameless", [], ["adapter_repo", "nameless"]),
        ("hub: {endpoint: 'http://me:secret@hub'}", [], ["hub.endpoint", "without user"]),
        ("prepare: {replay: {rows_per_new_row: -1}}", [], ["prepare.replay.rows_per_new_row"]),
        ("", ["gate.alpha=2"], ["gate.alpha", "less than 0.5"]),
        ("", ["gate"], ["--set gate", "a.b=value"]),
        ("", ["datasets.7.repo=a/b"], ["'7'", "0 to 0"]),
        ("", ["adapter_repo.x=1"], ["adapter_repo is a value"]),
    ],
)
def test_a_mistake_names_file_path_and_what_was_expected(
    tmp_path: Path, text: str, overrides: list[str], said: list[str]
) -> None:
    keys = {line.split(":")[0] for line in text.splitlines()}
    kept = [line for line in MINIMAL.strip().splitlines() if line.split(":")[0] not in keys]
    path = write(tmp_path, "\n".join([*kept, text]))
    with pytest.raises(ConfigError) as raised:
        load_config(path, overrides)
    message = str(raised.value)
    assert all(part in message for part in said), message
    assert str(path) in message or message.startswith("--set")


def test_a_missing_section_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="adapter_repo: missing"):
        load_config(write(tmp_path, "base_model: {repo: a/b}\ndatasets: [{repo: a/b}]\n"))


@pytest.mark.parametrize("text", ["- a\n- b\n", "just words", "a: [1", "\x00"])
def test_what_is_not_a_yaml_mapping_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"ct\.yaml"):
        load_config(write(tmp_path, text))


def test_a_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="ct-llm init"):
        load_config(tmp_path / "none.yaml")


def test_paths_are_relative_to_the_file_that_names_them(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    text = MINIMAL.replace("acme/base", "base").replace(
        "{repo: base}", "{repo: base, chat_template: t.jinja}"
    )
    config = load_config(write(tmp_path, text + "evaluate: {suites: [coding, my/own.yaml]}\n"))
    assert config.work_dir == tmp_path / ".ct_llm"
    assert config.base_model.repo == str(tmp_path / "base")
    assert config.base_model.chat_template == tmp_path / "t.jinja"
    assert config.evaluate.suites == ["coding", str(tmp_path / "my/own.yaml")]


def test_an_unknown_suite_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'coding'"):
        load_suite("codding", Path())


def test_a_config_survives_json() -> None:
    config = CTConfig.model_validate(
        {"base_model": {"repo": "a/b"}, "datasets": [{"repo": "a/b"}], "adapter_repo": "a/c"}
    )
    assert CTConfig.model_validate_json(config.model_dump_json()) == config
