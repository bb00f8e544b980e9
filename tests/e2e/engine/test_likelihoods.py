"""Log-likelihoods of all sides at once are those of lm-eval's own model, one side at a time."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoTokenizer

from ct_llm.config import BaseModelConfig
from ct_llm.errors import InputError, StepFailedError
from ct_llm.evaluate.engine.engine import Response
from ct_llm.evaluate.engine.hf_engine import HFEngine
from ct_llm.evaluate.engine.likelihoods import Likelihoods
from ct_llm.evaluate.engine.memory import RowLimit
from ct_llm.evaluate.engine.stacked_lora import StackedLora
from ct_llm.hub.client import BaseModelFolder
from ct_llm.records import Side
from tests.e2e.engine.adapters import DEMO, DEMO_CONFIG, load, save_adapter

pytestmark = pytest.mark.e2e

FIRST: dict[str, Any] = {"r": 8, "target_modules": "all-linear"}
SECOND: dict[str, Any] = {"r": 3, "target_modules": ["q_proj", "down_proj"], "use_rslora": True}


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> dict[Side, Path | None]:
    folder = tmp_path_factory.mktemp("adapters")
    return {
        "champion": save_adapter(folder / "a", DEMO, 1, **FIRST),
        "challenger": save_adapter(folder / "b", DEMO, 2, **SECOND),
        "anchor": None,
    }


@pytest.fixture(scope="module")
def engine(adapters: dict[Side, Path | None]) -> HFEngine:
    return HFEngine.open(DEMO, DEMO_CONFIG, adapters)


@pytest.fixture(scope="module")
def texts(engine: HFEngine) -> "Texts":
    return Texts(engine.tokenizer, 1)


class Texts:
    """Random texts of about so many tokens."""

    def __init__(self, tokenizer: Any, seed: int) -> None:
        self.random = random.Random(seed)
        words = [tokenizer.decode([token]) for token in range(20, 400)]
        self.words = [word for word in words if word.strip() and word.isascii()]

    def __call__(self, low: int, high: int) -> str:
        return "".join(self.random.choices(self.words, k=self.random.randint(low, high)))


def test_requests_of_every_kind(
    engine: HFEngine, adapters: dict[Side, Path | None], texts: Texts
) -> None:
    assert engine.plain and engine.stacked.why_not is None
    examples = texts(60, 60)
    requests = [
        *_choices("few_shot", [examples + texts(3, 20) for _ in range(12)], texts, (1, 6)),
        *_choices("zero_shot", [texts(2, 60) for _ in range(6)], texts, (1, 30)),
        *_choices("letters", [texts(5, 40) for _ in range(6)], texts, (1, 1)),
        *_choices("too_long", [texts(230, 400) for _ in range(3)], texts, (1, 40)),
        *_choices("trailing", [texts(5, 9) + "  " for _ in range(2)], texts, (2, 3)),
        *_choices("nothing_before", [""], texts, (2, 5)),
        *(_rolling(texts(1, 600)) for _ in range(5)),
    ]
    requests.extend(requests[:3])  # the same request twice
    random.Random(2).shuffle(requests)
    got = engine.respond(requests, engine.sides)
    assert set(got) == set(adapters)
    for side, folder in adapters.items():
        _same(got[side], _by_lm_eval(DEMO, folder, requests))
    assert got["champion"] != got["challenger"] != got["anchor"]


def test_the_likeliest_token_is_greedy_and_no_other(
    engine: HFEngine, adapters: dict[Side, Path | None], texts: Texts
) -> None:
    context = texts(20, 20)
    length = len(engine.lm.tok_encode(context))
    words = {engine.tokenizer.decode([token]) for token in range(engine.lm.vocab_size)}
    single = [w for w in words if w and len(engine.lm.tok_encode(context + w)) == length + 1]
    requests = [_likelihood("all_words", context, word, 0) for word in sorted(single)]
    assert len(requests) > 300
    got = engine.respond(requests, ("challenger",))
    assert list(got) == ["challenger"]
    _same(got["challenger"], _by_lm_eval(DEMO, adapters["challenger"], requests))
    assert sum(_pair(answer)[1] for answer in got["challenger"]) == 1


def test_a_prefix_serves_the_next_batches_too(
    engine: HFEngine, adapters: dict[Side, Path | None], texts: Texts
) -> None:
    examples, other = texts(80, 80), texts(70, 70)
    for start in (examples, examples, other):
        contexts = [start + texts(3, 20) for _ in range(12)]
        requests = _choices("repeated", contexts, texts, (1, 5))
        with _Tokens(engine) as seen:
            got = engine.respond(requests, ("challenger", "champion"))
        for side in ("challenger", "champion"):
            _same(got[side], _by_lm_eval(DEMO, adapters[side], requests))
        full = sum(len(engine.lm.tok_encode("".join(r.args))) for r in requests)
        assert seen.count < 2 * full / 5, "examples and questions were not computed once"


def test_one_side_or_a_cold_engine_gives_the_same(
    engine: HFEngine, adapters: dict[Side, Path | None], texts: Texts
) -> None:
    requests = _choices("again", [texts(5, 30) for _ in range(5)], texts, (1, 5))
    together = engine.respond(requests, ("champion", "challenger", "anchor"))
    alone = HFEngine.open(
        DEMO, DEMO_CONFIG, {"challenger": adapters["challenger"]}, batch_size=2
    ).respond(requests, ("challenger",))
    _same(alone["challenger"], together["challenger"])
    base = HFEngine.open(DEMO, DEMO_CONFIG, {"anchor": None}).respond(requests, ("anchor",))
    _same(base["anchor"], together["anchor"])


def test_a_real_model(real_data: Path, tmp_path: Path) -> None:
    folder = real_data / "model_stories260k"
    if not folder.is_dir():
        pytest.skip(f"no model at {folder}")
    base = BaseModelFolder(folder, "real/stories", "1" * 40)
    adapters: dict[Side, Path | None] = {
        "champion": save_adapter(tmp_path / "a", base, 1, **SECOND),
        "challenger": save_adapter(tmp_path / "b", base, 2, **FIRST),
    }
    engine = HFEngine.open(base, BaseModelConfig(repo=base.repo), adapters)
    assert engine.plain and engine.stacked.why_not is None
    story = "Once upon a time, there was a little girl named Lily. She loved to play in the park. "
    endings = [" She was happy.", " the", " They went home and had a big dinner.", " red"]
    contexts = [4 * story + start for start in ("One day, she saw", "Her mom", "The dog ran")] * 3
    contexts = [context + " again" * (index // 3) for index, context in enumerate(contexts)]
    requests = [
        *(
            _likelihood("stories", context, ending, number)
            for number, context in enumerate(contexts)
            for ending in endings
        ),
        _rolling(12 * story),
    ]
    got = engine.respond(requests, engine.sides)
    for side, part in adapters.items():
        _same(got[side], _by_lm_eval(base, part, requests))


ARCHITECTURES: dict[str, tuple[Any, dict[str, Any], list[str], bool]] = {
    "gpt2": (
        transformers.GPT2Config,
        {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 96},
        ["c_attn", "c_proj"],
        True,
    ),
    "qwen3": (
        transformers.Qwen3Config,
        {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "intermediate_size": 48,
            "head_dim": 8,
            "max_position_embeddings": 96,
        },
        ["q_proj", "up_proj"],
        True,
    ),
    "mistral": (
        transformers.MistralConfig,
        {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "intermediate_size": 48,
            "sliding_window": 7,
            "max_position_embeddings": 96,
        },
        ["q_proj", "up_proj"],
        False,
    ),
    "gemma2": (
        transformers.Gemma2Config,
        {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "intermediate_size": 48,
            "head_dim": 8,
            "sliding_window": 7,
            "final_logit_softcapping": 2.0,
            "max_position_embeddings": 96,
        },
        ["q_proj", "up_proj"],
        False,
    ),
    "mpt": (
        transformers.MptConfig,
        {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 96},
        ["Wqkv", "up_proj"],
        False,  # its positions are those of the slots, whatever a mask says
    ),
    "mamba": (
        transformers.MambaConfig,
        {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
        ["in_proj"],
        False,
    ),
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_models_of_other_kinds(name: str) -> None:
    kind, sizes, targets, plain = ARCHITECTURES[name]
    tokenizer = AutoTokenizer.from_pretrained(DEMO.folder)
    texts = Texts(tokenizer, 3)
    torch.manual_seed(0)
    config = kind(vocab_size=768, **sizes)
    base = transformers.AutoModelForCausalLM.from_config(config).eval()
    for parameter in base.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    sides: tuple[Side, ...] = ("champion", "challenger")
    model: Any = None
    for rank, side in enumerate(sides, start=2):
        lora = LoraConfig(r=rank, target_modules=targets, task_type="CAUSAL_LM")
        if model is None:
            model = get_peft_model(base, lora, adapter_name=side)
        else:
            model.add_adapter(side, lora)
    for part, parameter in model.named_parameters():
        if "lora_B" in part:
            torch.nn.init.normal_(parameter, std=0.3)
    model.eval()
    examples = texts(50, 50)
    requests = [
        *_choices("few_shot", [examples + texts(1, 9) for _ in range(12)], texts, (1, 6)),
        *_choices("zero_shot", [texts(2, 30) for _ in range(3)], texts, (1, 8)),
        _rolling(texts(80, 130)),
    ]
    hflm: Any = HFLM
    expected: dict[Side, list[Response]] = {}
    for side in sides:
        model.set_adapter(side, inference_mode=True)
        lm = hflm(pretrained=model, tokenizer=tokenizer, batch_size=1, max_length=96)
        expected[side] = _ask(lm, requests)
    stacked = StackedLora(model, dict.fromkeys(sides, "an adapter"))
    lm = hflm(pretrained=stacked.model, tokenizer=tokenizer, batch_size=8, max_length=96)
    likelihoods = Likelihoods(stacked, lm, RowLimit(16))
    assert stacked.plain_attention == plain
    got = {
        side: [*pairs, rolled]
        for (side, pairs), (rolled,) in zip(
            likelihoods.loglikelihood(requests[:-1], sides).items(),
            likelihoods.loglikelihood_rolling(requests[-1:], sides).values(),
            strict=True,
        )
    }
    for side in sides:
        _same(got[side], expected[side])


def test_adapters_that_cannot_be_stacked(
    adapters: dict[Side, Path | None], texts: Texts, tmp_path: Path
) -> None:
    unusual: dict[Side, Path | None] = {
        "champion": adapters["champion"],
        "challenger": save_adapter(tmp_path / "dora", DEMO, 4, use_dora=True),
        "anchor": None,
    }
    engine = HFEngine.open(DEMO, DEMO_CONFIG, unusual)
    assert engine.stacked.why_not is not None
    examples = texts(60, 60)
    requests = _choices("unusual", [examples + texts(2, 9) for _ in range(10)], texts, (1, 5))
    got = engine.respond(requests, engine.sides)
    for side, folder in unusual.items():
        _same(got[side], _by_lm_eval(DEMO, folder, requests))


def test_out_of_memory_means_smaller_passes(
    adapters: dict[Side, Path | None], texts: Texts
) -> None:
    engine = HFEngine.open(DEMO, DEMO_CONFIG, adapters, batch_size=64)
    requests = _choices("memory", [texts(5, 30) for _ in range(9)], texts, (1, 5))
    room = 9

    def allocate(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        if len(kwargs["input_ids"]) > room:
            raise torch.OutOfMemoryError("no room")

    engine.stacked.model.register_forward_pre_hook(allocate, with_kwargs=True)
    got = engine.respond(requests, engine.sides)
    for side, folder in adapters.items():
        _same(got[side], _by_lm_eval(DEMO, folder, requests))
    assert engine.limit.rows <= room
    room = 2  # three sides cannot even have a row each
    with pytest.raises(StepFailedError, match="single item"):
        engine.respond(requests, engine.sides)


def test_what_lm_eval_refuses_names_the_task(engine: HFEngine, texts: Texts) -> None:
    for request in (
        _likelihood("endless", texts(3, 3), texts(400, 400), 0),
        _likelihood("endless", "a", "", 0),
    ):
        with pytest.raises(InputError, match="task endless"):
            engine.respond([request], ("champion",))


class _Tokens:
    """Counts the tokens that the model reads, over all rows."""

    def __init__(self, engine: HFEngine) -> None:
        self.embeddings = engine.stacked.model.get_input_embeddings()
        self.count = 0

    def __enter__(self) -> "_Tokens":
        def count(module: Any, args: tuple[torch.Tensor, ...]) -> None:
            self.count += args[0].numel()

        self.handle = self.embeddings.register_forward_pre_hook(count)
        return self

    def __exit__(self, *error: object) -> None:
        self.handle.remove()


def _likelihood(task: str, context: str, continuation: str, doc: int) -> Instance:
    return Instance("loglikelihood", {}, (context, continuation), 0, metadata=(task, doc, 1))


def _rolling(text: str) -> Instance:
    return Instance("loglikelihood_rolling", {}, (text,), 0, metadata=("rolling", 0, 1))


def _choices(
    task: str, contexts: Sequence[str], texts: Texts, lengths: tuple[int, int]
) -> list[Instance]:
    return [
        _likelihood(task, context, " " + texts(*lengths), number)
        for number, context in enumerate(contexts)
        for _ in range(4)
    ]


def _by_lm_eval(
    base: BaseModelFolder, adapter: Path | None, requests: Sequence[Instance]
) -> list[Response]:
    """One at a time: nothing that a batch may change."""
    model = load(base)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, str(adapter)).eval()
    hflm: Any = HFLM
    tokenizer = AutoTokenizer.from_pretrained(base.folder)
    return _ask(hflm(pretrained=model, tokenizer=tokenizer, batch_size=1), requests)


def _ask(lm: Any, requests: Sequence[Instance]) -> list[Response]:
    answers: dict[int, Response] = {}
    for kind in ("loglikelihood", "loglikelihood_rolling"):
        places = [index for index, request in enumerate(requests) if request.request_type == kind]
        part = getattr(lm, kind)([requests[index] for index in places], disable_tqdm=True)
        answers.update(zip(places, part, strict=True))
    return [answers[index] for index in range(len(requests))]


def _same(got: Sequence[Response], expected: Sequence[Response]) -> None:
    """Same greedy flags; log-likelihoods to 1e-4, or to rounding where they are in the thousands."""
    assert len(got) == len(expected)
    for mine, theirs in zip(got, expected, strict=True):
        if isinstance(theirs, float):
            assert mine == pytest.approx(theirs, abs=1e-4, rel=1e-6)
        else:
            assert _pair(mine)[0] == pytest.approx(_pair(theirs)[0], abs=1e-4, rel=1e-6)
            assert _pair(mine)[1] == _pair(theirs)[1]


def _pair(answer: Response) -> tuple[float, bool]:
    assert isinstance(answer, tuple)
    return answer
