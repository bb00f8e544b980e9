import itertools
from pathlib import Path

import pytest

from ct_llm.config import LoraConfig
from ct_llm.digests import adapter_digest, fingerprint, random_order
from ct_llm.errors import AdapterError
from ct_llm.records import OrderedItem

ITEMS = [OrderedItem(name, f"task/{n}/{n:016x}", "task") for name in ("a", "b") for n in range(50)]


def test_an_order_is_a_permutation_of_all_items_of_all_slices() -> None:
    order = random_order(ITEMS, order_seed=0)
    assert sorted(order) == sorted(ITEMS)
    assert order != ITEMS
    assert {item.slice for item in order[:20]} == {"a", "b"}


def test_an_order_depends_on_the_seed_and_the_items_but_not_on_their_arrival() -> None:
    order = random_order(ITEMS, order_seed=0)
    assert random_order(ITEMS[::-1], order_seed=0) == order
    assert random_order(ITEMS, order_seed=1) != order
    fewer = random_order(ITEMS[:-1], order_seed=0)
    assert fewer != [item for item in order if item != ITEMS[-1]]


def test_every_order_of_three_items_comes_up() -> None:
    seen = {tuple(random_order(ITEMS[:3], order_seed=seed)) for seed in range(100)}
    assert seen == set(itertools.permutations(ITEMS[:3]))


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
