"""The base that all adapters share stays itself, whatever an adapter's file holds or replaces."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from ct_llm.errors import AdapterError
from ct_llm.evaluate.engine import hf_engine
from ct_llm.evaluate.engine.adapter_check import check_adapter
from ct_llm.evaluate.engine.hf_engine import HFEngine
from ct_llm.evaluate.engine.stacked_lora import probe_tokens
from ct_llm.records import Side
from tests.e2e.engine.adapters import DEMO, DEMO_CONFIG, load, save_adapter

pytestmark = pytest.mark.e2e

BEYOND_LORA: dict[str, dict[str, Any]] = {
    "embeddings": {"modules_to_save": ["embed_tokens"]},
    "head": {"modules_to_save": ["lm_head"]},
    "both": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "dora": {"target_modules": ["q_proj", "lm_head"], "use_dora": True},
    "embedding lora": {"target_modules": ["q_proj", "embed_tokens"]},
    "tokens": {"trainable_token_indices": [5, 90, 300]},
}
TYING: dict[str, Any] = {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}
LAYER = "base_model.model.model.layers.0."


@pytest.mark.parametrize("champion", [None, "plain", "the same"])
@pytest.mark.parametrize("name", BEYOND_LORA)
def test_tied_weights_stay_those_of_each_side(
    tmp_path: Path, name: str, champion: str | None
) -> None:
    assert AutoConfig.from_pretrained(DEMO.folder).tie_word_embeddings
    challenger = _trained(save_adapter(tmp_path / "b", DEMO, 2, **BEYOND_LORA[name]), 2)
    other = None
    if champion is not None:
        settings = BEYOND_LORA[name] if champion == "the same" else {}
        other = _trained(save_adapter(tmp_path / "a", DEMO, 1, **settings), 1)
    folders: dict[Side, Path | None] = {"champion": other, "challenger": challenger}
    engine = HFEngine.open(DEMO, DEMO_CONFIG, folders)
    seen: list[torch.Tensor] = []
    for side, folder in folders.items():
        expected, tokens = _by_peft(folder)
        with torch.inference_mode(), engine.stacked.rows((side,), (2,)):
            got = engine.lm.model(tokens).logits
        assert torch.equal(got, expected) if folder is None else torch.allclose(got, expected), side
        seen.append(got)
    assert not torch.allclose(seen[0], seen[1], atol=1e-3)
    base, tokens = _by_peft(None)
    with torch.inference_mode():
        assert torch.equal(engine.stacked.bare_logits(tokens), base)


def test_an_adapters_own_ties_are_kept_or_refused(tmp_path: Path) -> None:
    plain = save_adapter(tmp_path / "a", DEMO, 1)
    tying = save_adapter(tmp_path / "b", DEMO, 2, **TYING)
    engine = HFEngine.open(DEMO, DEMO_CONFIG, {"champion": plain, "challenger": tying})
    sides: dict[Side, Path] = {"champion": plain, "challenger": tying}
    for side, folder in sides.items():
        expected, tokens = _by_peft(folder)
        with torch.inference_mode(), engine.stacked.rows((side,), (2,)):
            assert torch.allclose(engine.lm.model(tokens).logits, expected), side
    second = save_adapter(tmp_path / "c", DEMO, 3, **TYING)
    with pytest.raises(AdapterError, match="PEFT cannot load it beside the champion's"):
        HFEngine.open(DEMO, DEMO_CONFIG, {"champion": tying, "challenger": second})


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
def test_copies_of_the_bases_embeddings_are_left_out_or_refused(
    tmp_path: Path, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PEFT saves them beside a LoRA on embeddings or output layer, and loads them into the base."""
    folder = save_adapter(tmp_path / "b", DEMO, 2, target_modules=["q_proj", target])
    path = folder / "adapter_model.safetensors"
    weights = load_file(path)
    copies = [key for key in weights if key.endswith("base_layer.weight")]
    assert copies
    loaded: list[str] = []
    load_adapter = PeftModel.load_adapter

    def spy(self: Any, model_id: str, *args: Any, **kwargs: Any) -> Any:
        loaded.extend(load_file(Path(model_id) / path.name))
        return load_adapter(self, model_id, *args, **kwargs)

    monkeypatch.setattr(PeftModel, "load_adapter", spy)
    HFEngine.open(DEMO, DEMO_CONFIG, {"champion": None, "challenger": folder})
    assert set(loaded) == set(weights) - set(copies)
    # Trained in another precision than this run's.
    half = {key: weight.bfloat16() for key, weight in weights.items()}
    save_file(half, path, metadata={"format": "pt"})
    HFEngine.open(DEMO, DEMO_CONFIG, {"champion": None, "challenger": folder})
    weights[copies[0]][700, 3] += 1e-3
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(AdapterError, match=copies[0]):
        HFEngine.open(DEMO, DEMO_CONFIG, {"champion": None, "challenger": folder})


@pytest.mark.parametrize(
    "key",
    [
        f"{LAYER}mlp.up_proj.weight",
        f"{LAYER}self_attn.q_proj.base_layer.weight",
        f"{LAYER}self_attn.q_proj.lora_A.champion.weight",
        f"{LAYER}input_layernorm.weight",
        "base_model.model.model.norm.original_module.weight",
        "base_model.model.model.norm.modules_to_save.champion.weight",
    ],
)
def test_a_weight_of_the_base_or_of_another_adapter_is_refused(tmp_path: Path, key: str) -> None:
    folder = save_adapter(tmp_path / "b", DEMO, 2, modules_to_save=["model.norm"])
    check_adapter("challenger", folder, DEMO)
    _add(folder, key, torch.ones(4))
    with pytest.raises(AdapterError, match=f"{key} is a weight of the base"):
        check_adapter("challenger", folder, DEMO)


def test_embeddings_are_refused_even_where_names_allow_them(tmp_path: Path) -> None:
    folder = save_adapter(tmp_path / "b", DEMO, 2)
    key = "base_model.model.model.embed_tokens.weight"
    _add(folder, key, load(DEMO).get_input_embeddings().weight.detach() * 1.01)
    with pytest.raises(AdapterError, match=key):
        HFEngine.open(DEMO, DEMO_CONFIG, {"champion": None, "challenger": folder})


def test_a_write_to_the_base_is_seen_even_if_names_did_not_tell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_adapter(tmp_path / "b", DEMO, 2)
    key = f"{LAYER}mlp.up_proj.weight"
    own = load(DEMO).model.layers[0].mlp.up_proj.weight.detach()
    _add(folder, key, own * 1.01)
    monkeypatch.setattr(hf_engine, "check_adapter", lambda *args: None)
    monkeypatch.setattr(hf_engine, "base_copies", lambda *args: [])
    folders: dict[Side, Path | None] = {"champion": None, "challenger": folder}
    with pytest.raises(AdapterError, match=r"writes to .*up_proj\.weight"):
        HFEngine.open(DEMO, DEMO_CONFIG, folders)
    monkeypatch.setattr(hf_engine, "_versions", lambda model: {})
    with pytest.raises(AdapterError, match="other logits than before"):
        HFEngine.open(DEMO, DEMO_CONFIG, folders)


@pytest.mark.parametrize("error", [AttributeError("no weight"), KeyError("lm_head")])
def test_what_peft_cannot_load_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    folder = save_adapter(tmp_path / "b", DEMO, 2)

    def fail(*args: Any, **kwargs: Any) -> Any:
        raise error

    monkeypatch.setattr(PeftModel, "load_adapter", fail)
    with pytest.raises(AdapterError, match=f"PEFT cannot load it.*{error.args[0]}"):
        HFEngine.open(DEMO, DEMO_CONFIG, {"challenger": folder})


def _trained(folder: Path, seed: int) -> Path:
    """Modules saved as a whole, and tokens, away from the base's values too."""
    generator = torch.Generator().manual_seed(seed)

    def change(key: str, weight: torch.Tensor) -> torch.Tensor:
        if "lora_" in key or "base_layer" in key:
            return weight
        return weight + 0.05 * torch.randn(weight.shape, generator=generator)

    _change(folder, change)
    return folder


def _change(folder: Path, change: Callable[[str, torch.Tensor], torch.Tensor]) -> None:
    path = folder / "adapter_model.safetensors"
    weights = {key: change(key, weight) for key, weight in load_file(path).items()}
    save_file(weights, path, metadata={"format": "pt"})


def _add(folder: Path, key: str, weight: torch.Tensor) -> None:
    path = folder / "adapter_model.safetensors"
    save_file({**load_file(path), key: weight.contiguous()}, path, metadata={"format": "pt"})


def _by_peft(folder: Path | None) -> tuple[torch.Tensor, torch.Tensor]:
    model = load(DEMO)
    tokens = probe_tokens(model, 2, 33)
    tokens[:, :3] = torch.tensor([5, 90, 300])  # those that are trained
    if folder is not None:
        model = PeftModel.from_pretrained(model, str(folder)).eval()
    with torch.inference_mode():
        return model(tokens).logits, tokens
