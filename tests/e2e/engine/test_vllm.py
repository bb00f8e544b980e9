"""What the vLLM engine asks of vLLM, which stands here as a module that records it."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lm_eval.api.instance import Instance

from ct_llm.config import EvaluateConfig
from ct_llm.errors import AdapterError, ConfigError
from ct_llm.evaluate.engine.engine import open_engine
from ct_llm.records import Side
from tests.e2e.engine.adapters import DEMO, DEMO_CONFIG, save_adapter

pytestmark = pytest.mark.e2e

CONFIG = EvaluateConfig(engine="vllm", batch_size=8)
MODULES = {
    "vllm/__init__.py": '''
from types import SimpleNamespace as Object

made, asked = [], []

class SamplingParams:
    def __init__(self, **settings):
        self.__dict__.update(settings)

class TokensPrompt(dict):
    pass

class LLM:
    """A token's log-probability depends on the token and on the adapter's number."""

    def __init__(self, **settings):
        made.append(settings)
        self.llm_engine = Object(model_config=Object(max_model_len=128))

    def generate(self, prompts, sampling_params, use_tqdm, lora_request):
        return [self.answer(*pair, lora_request) for pair in zip(prompts, sampling_params)]

    def answer(self, prompt, params, adapter):
        tokens = prompt["prompt_token_ids"]
        asked.append((adapter and adapter.lora_name, tokens, params))
        number = adapter.lora_int_id * adapter.effect if adapter else 0
        likely = [{t: -1.0 - (t % 7) / 7 - number, 0: -0.5} for t in tokens[1:]]
        text = f"by {adapter.lora_name if adapter else 'base'}<|end|>more"
        return Object(prompt_logprobs=[None, *likely], outputs=[Object(text=text)])
''',
    "vllm/lora/__init__.py": "",
    "vllm/lora/request.py": """
import pathlib

class LoRARequest:
    def __init__(self, lora_name, lora_int_id, lora_path):
        self.lora_name, self.lora_int_id, self.lora_path = lora_name, lora_int_id, lora_path
        self.effect = 0 if "useless" in lora_path else float("nan") if "broken" in lora_path else 1
""",
    "vllm/tokenizers.py": """
from transformers import AutoTokenizer

def get_tokenizer(name, **settings):
    return AutoTokenizer.from_pretrained(name)
""",
    "vllm/renderers/__init__.py": "",
    "vllm/renderers/hf.py": "def resolve_chat_template(**settings): return None\n",
    "vllm-0.11.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: vllm\nVersion: 0.11.0\n",
}


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    site = tmp_path_factory.mktemp("site")
    for name, text in MODULES.items():
        path = site / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(site)
        yield importlib.import_module("vllm")
    for name in [name for name in sys.modules if name.split(".")[0] == "vllm"]:
        del sys.modules[name]


@pytest.fixture
def vllm(module: Any) -> Any:
    module.made.clear()
    module.asked.clear()
    return module


@pytest.fixture
def adapters(tmp_path: Path) -> dict[Side, Path | None]:
    return {
        "anchor": None,
        "challenger": save_adapter(tmp_path / "new", DEMO, 1, rank_pattern={"v_proj": 12}),
        "champion": save_adapter(tmp_path / "old", DEMO, 2),
    }


def test_each_side_is_asked_with_its_own_adapter(
    vllm: Any, adapters: dict[Side, Path | None]
) -> None:
    engine = open_engine(CONFIG, DEMO, DEMO_CONFIG, adapters)
    assert engine.sides == ("champion", "challenger", "anchor")
    [made] = vllm.made
    assert made["enable_lora"] and made["max_loras"] == 2
    assert made["max_lora_rank"] == 16, "the smallest that vLLM has for a rank of 12"
    assert made["model"] == str(DEMO.folder) and not made["trust_remote_code"]
    assert engine.max_length == 128

    requests = [
        _request("generate_until", "add 1 and 2", {"until": ["<|end|>"], "max_gen_toks": 7}),
        _request("loglikelihood", "add 1", " and 2"),
        _request("loglikelihood_rolling", "add 1 and 2"),
    ]
    vllm.asked.clear()
    got = engine.respond(requests, ("challenger", "anchor", "champion"))
    assert {side: answers[0] for side, answers in got.items()} == {
        "champion": "by champion",
        "challenger": "by challenger",
        "anchor": "by base",
    }
    assert {name for name, _, _ in vllm.asked} == {"champion", "challenger", None}
    choice, base = got["champion"][1], got["anchor"][1]
    assert isinstance(choice, tuple) and isinstance(base, tuple)
    tokens = len(engine.lm.tok_encode("add 1 and 2")) - len(engine.lm.tok_encode("add 1"))
    assert choice[0] == pytest.approx(base[0] - tokens) and not choice[1]
    rolled, base_rolled = got["champion"][2], got["anchor"][2]
    assert isinstance(rolled, float) and isinstance(base_rolled, float)
    assert rolled < base_rolled
    assert engine.identity()["vllm"] == "0.11.0"


def test_samples_are_drawn_alike_for_each_side_and_differ_among_repeats(
    vllm: Any, adapters: dict[Side, Path | None]
) -> None:
    engine = open_engine(CONFIG, DEMO, DEMO_CONFIG, adapters)
    settings = {"until": ["x"], "max_gen_toks": 5, "do_sample": True, "temperature": 0.7}
    requests = [_request("generate_until", "add 1", settings) for _ in range(3)]
    seeds: dict[str, list[int]] = {}
    calls: tuple[tuple[Side, ...], ...] = (("champion",), ("challenger", "champion"))
    for sides in calls:
        vllm.asked.clear()
        engine.respond(requests, sides)
        for side in sides:
            found = [params.seed for name, _, params in vllm.asked if name == side]
            assert seeds.setdefault("first", sorted(found)) == sorted(found)
    assert len(set(seeds["first"])) == 3
    assert settings.keys() == {"until", "max_gen_toks", "do_sample", "temperature"}


@pytest.mark.parametrize(("name", "message"), [("useless", "changes nothing"), ("broken", "NaN")])
def test_an_adapter_without_sane_effect_is_refused(
    vllm: Any, tmp_path: Path, name: str, message: str
) -> None:
    folder = save_adapter(tmp_path / name, DEMO, 1)
    with pytest.raises(AdapterError, match=message):
        open_engine(CONFIG, DEMO, DEMO_CONFIG, {"champion": None, "challenger": folder})


def test_what_vllm_does_not_serve_is_refused_before_it_is_loaded(vllm: Any, tmp_path: Path) -> None:
    dora = save_adapter(tmp_path / "dora", DEMO, 1, use_dora=True)
    with pytest.raises(AdapterError, match=r"use_dora.*engine: hf"):
        open_engine(CONFIG, DEMO, DEMO_CONFIG, {"challenger": dora})
    assert not vllm.made


def test_without_vllm_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ConfigError, match=r"pip install ct_llm\[vllm\]"):
        open_engine(CONFIG, DEMO, DEMO_CONFIG, {"challenger": tmp_path})


def _request(kind: Any, *arguments: Any) -> Instance:
    return Instance(kind, {}, arguments, 0, metadata=("toy", 5, 1))
