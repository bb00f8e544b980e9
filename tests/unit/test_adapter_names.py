"""What people type, resolved to folders and to the one base model under them."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from ct_llm.adapter_names import BASE, NamedAdapter, base_of, find_adapter
from ct_llm.config import BaseModelConfig, HubConfig
from ct_llm.errors import AdapterError, InputError
from ct_llm.records import Lineage


def adapter(folder: Path, base: Any = "acme/base", revision: str | None = None) -> NamedAdapter:
    folder.mkdir()
    config = {"base_model_name_or_path": base, "revision": revision, "peft_type": "LORA"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    (folder / "adapter_model.safetensors").write_bytes(folder.name.encode())
    return find_adapter(folder, HubConfig())


def test_a_folder_is_an_adapter_and_base_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = adapter(tmp_path / "one")
    assert (found.folder, found.label) == (tmp_path / "one", str(tmp_path / "one"))
    assert found.digest != adapter(tmp_path / "two").digest
    for name in (None, BASE):
        itself = find_adapter(name, HubConfig())
        assert (itself.label, itself.folder, itself.digest) == ("base", None, None)
    # The word, even beside a folder of that name, which is to be had as ./base.
    adapter(tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    assert find_adapter("base", HubConfig()).folder is None
    assert find_adapter("./base", HubConfig()).folder is not None


@pytest.mark.parametrize("name", ["nowhere", "a/", "owner/name@", "", "@v1"])
def test_what_is_no_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="neither a folder here nor a Hub repo"):
        find_adapter(name, HubConfig())


@pytest.mark.parametrize(
    "name", ["./nofolder", "../none@v1", "/none", "~/no-such-one", "~nobody-here/x", "a/b/c"]
)
def test_what_can_only_be_a_folder_is_not_asked_of_the_hub(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=re.escape(f"{name}: no such folder")):
        find_adapter(name, HubConfig())
    with pytest.raises(InputError, match=re.escape(f"base model {name}: no such folder")):
        base_of([NamedAdapter(BASE)], name)


def test_a_path_and_a_file_are_no_hub_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="owner/name: no such folder"):
        find_adapter(Path("./owner/name"), HubConfig())
    (tmp_path / "file").write_text("text")
    with pytest.raises(InputError, match="a file, not a folder"):
        find_adapter("./file", HubConfig())


def test_a_folder_without_an_adapter(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="is not a PEFT adapter"):
        find_adapter(tmp_path, HubConfig())


def test_the_base_is_what_the_adapters_name(tmp_path: Path) -> None:
    first, second = adapter(tmp_path / "1"), adapter(tmp_path / "2", revision="v1")
    assert base_of([first]) == BaseModelConfig(repo="acme/base")
    # The one that names a revision knows more.
    for order in ([first, second], [second, first], [NamedAdapter(BASE), second]):
        assert base_of(order) == BaseModelConfig(repo="acme/base", revision="v1")


def test_two_bases_are_not_compared(tmp_path: Path) -> None:
    """Naming one is the advice only where the engine then takes it for both."""
    first = adapter(tmp_path / "1", revision="v1")
    others = {
        "compare adapters that": adapter(tmp_path / "2", "acme/other"),
        "one revision for both, name it with --base": adapter(tmp_path / "3", revision="v2"),
        "the same model, name it with --base": adapter(tmp_path / "4", "/models/base"),
        "adapters that were trained on the same": adapter(tmp_path / "5", "other/base"),
    }
    for advice, other in others.items():
        with pytest.raises(InputError, match=f"only compared on one base: .*{advice}") as caught:
            base_of([first, other])
        assert ("--base" in str(caught.value)) == ("--base" in advice)
        found = base_of([first, other], "acme/third@v9")
        assert (found.repo, found.revision) == ("acme/third", "v9")


def test_lineage_goes_before_what_peft_wrote(tmp_path: Path) -> None:
    found = adapter(tmp_path / "1", "/some/path")
    (tmp_path / "1" / "ct").mkdir()
    lineage = Lineage(
        version=1,
        cycle_id="c",
        adapter_digest="d",
        base_model="acme/base",
        base_revision="f" * 40,
        parent_revision=None,
        datasets=(),
        created_at="2026-01-01T00:00:00Z",
        ct_llm_version="1",
    )
    (tmp_path / "1" / "ct" / "lineage.json").write_text(lineage.model_dump_json())
    assert base_of([found]) == BaseModelConfig(repo="acme/base", revision="f" * 40)
    (tmp_path / "1" / "ct" / "lineage.json").write_text("{}")
    assert base_of([found]).repo == "/some/path"


@pytest.mark.parametrize("base", [None, 7, ""])
def test_an_adapter_that_names_no_base(base: Any, tmp_path: Path) -> None:
    found = adapter(tmp_path / "1", base)
    with pytest.raises(AdapterError, match="does not name the base model"):
        base_of([found])
    assert base_of([found], "acme/base").repo == "acme/base"


def test_nobody_names_the_base() -> None:
    with pytest.raises(InputError, match="--base"):
        base_of([NamedAdapter(BASE)])


@pytest.mark.parametrize("name", ["acme/base@", ""])
def test_what_is_no_base(name: str) -> None:
    with pytest.raises(InputError, match="neither a folder here nor a Hub repo"):
        base_of([NamedAdapter(BASE)], name)


def test_the_template_that_they_were_trained_with(tmp_path: Path) -> None:
    first, second = adapter(tmp_path / "1"), adapter(tmp_path / "2")
    assert base_of([first, second]).chat_template is None
    own = tmp_path / "2" / "chat_template.jinja"
    own.write_text("two")
    assert base_of([first, second]).chat_template == own
    (tmp_path / "1" / "chat_template.jinja").write_text("one")
    with pytest.raises(InputError, match="different chat templates"):
        base_of([first, second])
    assert base_of([first, second], chat_template=own).chat_template == own
    with pytest.raises(InputError, match="no such file"):
        base_of([first, second], chat_template=tmp_path / "none.jinja")


def test_a_config_goes_through_as_it_is(tmp_path: Path) -> None:
    config = BaseModelConfig(repo="acme/base", dtype="bfloat16")
    assert base_of([adapter(tmp_path / "1", "acme/other")], config) == config
