from pathlib import Path

import pytest

from ct_llm.config import LoraConfig
from ct_llm.digests import adapter_digest, fingerprint
from ct_llm.errors import AdapterError


def test_a_fingerprint_ignores_the_order_of_keys_only() -> None:
    assert fingerprint({"a": 1, "b": [1, 2]}) == fingerprint({"b": [1, 2], "a": 1})
    assert fingerprint([1, 2]) != fingerprint([2, 1])
    assert fingerprint(LoraConfig()) != fingerprint(LoraConfig(r=17))


def test_what_has_no_canonical_form_has_no_fingerprint() -> None:
    with pytest.raises(TypeError, match="object has no fingerprint"):
        fingerprint(object())


def test_an_adapters_digest_is_of_its_bytes_not_of_its_place(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()
        (folder / "adapter_config.json").write_text("{}")
        (folder / "adapter_model.safetensors").write_bytes(b"weights")
    (folders[1] / "README.md").write_text("not part of it")
    assert adapter_digest(folders[0]) == adapter_digest(folders[1])
    (folders[1] / "adapter_model.safetensors").write_bytes(b"weightz")
    assert adapter_digest(folders[0]) != adapter_digest(folders[1])


def test_a_folder_without_weights_is_no_adapter(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(AdapterError, match=r"adapter_model\.safetensors missing"):
        adapter_digest(tmp_path)
