"""Adapters stacked into one batch give what PEFT gives for each alone."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

from ct_llm.errors import AdapterError
from ct_llm.evaluate.engine.hf_engine import HFEngine
from ct_llm.evaluate.engine.stacked_lora import StackedLora
from ct_llm.records import Side
from tests.e2e.engine.adapters import DEMO, DEMO_CONFIG, load, save_adapter

pytestmark = pytest.mark.e2e

TOKENS = torch.tensor([[5, 90, 17, 300, 41], [700, 2, 2, 64, 128], [11, 12, 13, 14, 15]])
WIDE: dict[str, Any] = {
    "r": 8,
    "lora_alpha": 32,
    "use_rslora": True,
    "target_modules": ["q_proj", "o_proj", "up_proj", "down_proj"],
    "rank_pattern": {"down_proj": 3, r"layers\.1\.self_attn\.q_proj": 16},
    "alpha_pattern": {"o_proj": 5},
}
NARROW: dict[str, Any] = {"r": 2, "target_modules": ["q_proj", "v_proj"]}
HEAD: dict[str, Any] = {"r": 4, "target_modules": ["k_proj", "lm_head"]}


def test_each_side_gets_its_own_adapter(tmp_path: Path) -> None:
    folders: dict[Side, Path | None] = {
        "champion": save_adapter(tmp_path / "a", DEMO, 1, **WIDE),
        "challenger": save_adapter(tmp_path / "b", DEMO, 2, **NARROW),
        "anchor": save_adapter(tmp_path / "c", DEMO, 3, **HEAD),
    }
    stacked = _stacked(folders)
    assert stacked.why_not is None
    expected = {side: _by_peft(folder) for side, folder in folders.items()}
    sides: tuple[Side, ...] = ("champion", "challenger", "anchor")
    got = _logits(stacked, sides, (3, 3, 3), TOKENS.repeat(3, 1))
    for index, side in enumerate(sides):
        assert torch.allclose(got[3 * index : 3 * index + 3], expected[side], atol=2e-5)
        assert torch.allclose(_logits(stacked, (side,), (3,), TOKENS), expected[side], atol=2e-5)
    assert not torch.allclose(expected["champion"], expected["challenger"], atol=1e-2)
    assert not torch.allclose(expected["anchor"], expected["challenger"], atol=1e-2)


def test_sides_may_have_different_numbers_of_rows_and_any_order(tmp_path: Path) -> None:
    folders: dict[Side, Path | None] = {
        "champion": None,
        "challenger": save_adapter(tmp_path / "b", DEMO, 2, **WIDE),
        "anchor": save_adapter(tmp_path / "c", DEMO, 3, **NARROW),
    }
    stacked = _stacked(folders)
    rows = torch.cat([TOKENS[1:2], TOKENS, TOKENS[:2]])
    got = _logits(stacked, ("anchor", "champion", "challenger"), (1, 3, 2), rows)
    assert torch.allclose(got[:1], _by_peft(folders["anchor"])[1:2], atol=2e-5)
    assert torch.allclose(got[1:4], _by_peft(None), atol=2e-5)
    assert torch.allclose(got[4:], _by_peft(folders["challenger"])[:2], atol=2e-5)
    gone = _logits(stacked, ("anchor", "challenger"), (0, 3), TOKENS)
    assert torch.allclose(gone, _by_peft(folders["challenger"]), atol=2e-5)


def test_the_base_is_itself_beside_an_adapter_and_alone(tmp_path: Path) -> None:
    folders: dict[Side, Path | None] = {
        "champion": None,
        "challenger": save_adapter(tmp_path / "b", DEMO, 2, **WIDE),
    }
    stacked = _stacked(folders)
    base = _by_peft(None)
    both = _logits(stacked, ("champion", "challenger"), (3, 3), TOKENS.repeat(2, 1))
    assert torch.allclose(both[:3], base, atol=1e-6)
    assert torch.equal(_logits(stacked, ("champion",), (3,), TOKENS), base)
    assert torch.equal(_logits(_stacked({"champion": None}), ("champion",), (3,), TOKENS), base)
    assert torch.equal(stacked.bare_logits(TOKENS), base)


def test_what_cannot_be_stacked_is_switched_and_right(tmp_path: Path) -> None:
    plain = save_adapter(tmp_path / "plain", DEMO, 1, **NARROW)
    unusual: dict[str, dict[str, Any]] = {
        "dora": {"use_dora": True},
        "bias": {"lora_bias": True},
        "embedding": {"target_modules": ["embed_tokens", "q_proj"]},
        "module": {"modules_to_save": ["norm"]},
        "tokens": {"trainable_token_indices": [3, 5]},
    }
    for name, settings in unusual.items():
        folder = save_adapter(tmp_path / name, DEMO, 2, **settings)
        folders: dict[Side, Path | None] = {
            "champion": plain,
            "challenger": folder,
            "anchor": None,
        }
        stacked = _stacked(folders)
        assert stacked.why_not is not None, name
        assert stacked.together(("champion", "challenger")) == [("champion",), ("challenger",)]
        for side, part in folders.items():
            assert torch.allclose(
                _logits(stacked, (side,), (3,), TOKENS), _by_peft(part), atol=2e-5
            ), (name, side)
        with (
            pytest.raises(ValueError, match=re.escape(stacked.why_not)),
            stacked.rows(("champion", "challenger"), (1, 1)),
        ):
            pass


@pytest.mark.parametrize(
    "inside",
    [
        lambda forward: lambda x: forward(x.flip(0)).flip(0),
        lambda forward: lambda x: forward(x.reshape(-1, x.shape[-1])).view(x.shape),
    ],
    ids=["another order", "no rows"],
)
def test_a_model_that_mixes_up_rows_is_not_stacked(
    tmp_path: Path, inside: Callable[[Any], Any]
) -> None:
    """As layers of experts do, which gather the tokens of many rows for each expert."""
    folders: dict[Side, Path | None] = {
        "champion": save_adapter(tmp_path / "a", DEMO, 1, target_modules=["up_proj"]),
        "challenger": save_adapter(tmp_path / "b", DEMO, 2, target_modules=["up_proj"]),
    }
    model = load(DEMO)
    for layer in model.model.layers:
        layer.mlp.forward = inside(layer.mlp.forward)
    stacked = _stacked(folders, model)
    assert stacked.why_not is not None and "order" in stacked.why_not
    for side, folder in folders.items():
        got = _logits(stacked, (side,), (3,), TOKENS)
        assert torch.allclose(got, _by_peft(folder), atol=2e-5)


def test_an_adapter_that_changes_the_base_for_the_others_is_refused(tmp_path: Path) -> None:
    for name, settings in {
        "bias": {"bias": "lora_only"},
        "deeper": {"layer_replication": [(0, 3), (1, 4)]},
    }.items():
        folder = save_adapter(tmp_path / name, DEMO, 1, **settings)
        with pytest.raises(AdapterError, match="changes the base"):
            HFEngine.open(DEMO, DEMO_CONFIG, {"challenger": folder})


def _stacked(folders: Mapping[Side, Path | None], model: Any = None) -> StackedLora:
    peft: Any = load(DEMO) if model is None else model
    for side, folder in folders.items():
        if folder is None:
            continue
        if isinstance(peft, PeftModel):
            peft.load_adapter(str(folder), side)
        else:
            peft = PeftModel.from_pretrained(peft, str(folder), adapter_name=side)
    return StackedLora(peft.eval(), folders)


def _logits(
    stacked: StackedLora, sides: tuple[Side, ...], counts: tuple[int, ...], tokens: torch.Tensor
) -> torch.Tensor:
    with torch.inference_mode(), stacked.rows(sides, counts):
        return stacked.model(tokens).logits


def _by_peft(folder: Path | None) -> torch.Tensor:
    model = load(DEMO)
    if folder is not None:
        model = PeftModel.from_pretrained(model, str(folder)).eval()
    with torch.inference_mode():
        return model(TOKENS).logits
