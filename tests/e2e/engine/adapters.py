"""Random adapters on small bases, with an effect that can be seen."""

import json
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from ct_llm.config import BaseModelConfig
from ct_llm.hub.client import BaseModelFolder

DEMO = BaseModelFolder(
    Path(__file__).parents[3] / "scripts" / "demo_world" / "base", "demo/base", "0" * 40
)
DEMO_CONFIG = BaseModelConfig(repo="demo/base")


def load(base: BaseModelFolder) -> Any:
    return AutoModelForCausalLM.from_pretrained(base.folder, dtype=torch.float32).eval()


def save_adapter(folder: Path, base: BaseModelFolder, seed: int, **settings: Any) -> Path:
    """settings: of PEFT's LoraConfig; every B is random, so that each target has an effect."""
    torch.manual_seed(seed)
    config = LoraConfig(
        **{"r": 4, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM", **settings}
    )
    model = get_peft_model(load(base), config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name or "lora_embedding_B" in name or "lora_magnitude" in name:
            torch.nn.init.normal_(parameter, mean=float("magnitude" in name), std=0.1)
    model.save_pretrained(str(folder))
    path = folder / "adapter_config.json"
    path.write_text(
        json.dumps({**json.loads(path.read_text()), "base_model_name_or_path": base.repo})
    )
    return folder
