"""The decode loop gives lm-eval's own texts: HFLM.generate_until is the reference, side by side."""

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, LogitsProcessorList

from ct_llm.errors import StepFailedError
from ct_llm.evaluate.engine import decode_loop
from ct_llm.evaluate.engine.decoding import generate
from ct_llm.evaluate.engine.memory import RowLimit
from ct_llm.evaluate.engine.sampling import sample, warpers
from ct_llm.evaluate.engine.stacked_lora import StackedLora
from ct_llm.evaluate.engine.stop_strings import StopStrings
from ct_llm.records import SIDES, Side
from tests.e2e.engine.adapters import DEMO

pytestmark = pytest.mark.e2e

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
GREEDY = {"until": ["<|end|>"], "do_sample": False, "max_gen_toks": 24}
WORDS = (
    *("add", "two", "names", "and", "count", "the", "red", "apples", "of", "a", "list", "then"),
    *("say", "hello", "to", "them", "7", "12", "40", "x"),
)


@dataclass
class World:
    """The same base and adapters twice: for the loop under test, and for lm-eval."""

    stacked: StackedLora
    lm: Any
    reference: Any
    tokenizer: Any

    def ours(
        self, requests: Sequence[Instance], sides: Sequence[Side] = SIDES[:2], rows: int = 64
    ) -> dict[Side, list[str]]:
        return generate(self.stacked, self.lm, requests, sides, RowLimit(rows))

    def lm_evals(
        self,
        requests: Sequence[Instance],
        sides: Sequence[Side] = SIDES[:2],
        batch_size: int = 1,
        **settings: Any,
    ) -> dict[Side, list[str]]:
        lm = _hflm(self.reference, self.tokenizer, batch_size, **settings)
        texts: dict[Side, list[str]] = {}
        for side in sides:
            if side == "anchor":  # the base itself
                with self.reference.disable_adapter():
                    texts[side] = lm.generate_until(list(requests), disable_tqdm=True)
            else:
                self.reference.set_adapter(side)
                texts[side] = lm.generate_until(list(requests), disable_tqdm=True)
        return texts

    def chat(self, content: str) -> str:
        return self.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )


def _hflm(model: Any, tokenizer: Any, batch_size: int, **settings: Any) -> Any:
    hflm: Any = HFLM  # the registering decorator hides its signature from type checkers
    return hflm(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, **settings)


def _with_adapters(folder: Path, **settings: Any) -> Any:
    """Two adapters of different rank, strong enough to change texts and weak enough to end some."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ranks: dict[str, int] = {"champion": 4, "challenger": 8}
    peft: Any = None
    generator = torch.Generator().manual_seed(5)
    for side, rank in ranks.items():
        config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=LINEAR, **settings)
        if peft is None:
            peft = get_peft_model(model, config, adapter_name=side)
        else:
            peft.add_adapter(side, config)
    for name, parameter in peft.named_parameters():
        if "lora_" in name:
            scale = 0.02 if "lora_B" in name else 0.1
            parameter.data = torch.randn(parameter.shape, generator=generator) * scale
    return peft.eval()


def make_world(folder: Path, **settings: Any) -> World:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    peft = _with_adapters(folder, **settings)
    sides: dict[Side, object] = {"champion": folder, "challenger": folder, "anchor": None}
    stacked = StackedLora(peft, sides)
    stacked.plain_attention = True
    lm = _hflm(stacked.model, tokenizer, 4)
    return World(stacked, lm, _with_adapters(folder, **settings), tokenizer)


@pytest.fixture(scope="module")
def demo() -> World:
    return make_world(DEMO.folder)


@pytest.fixture(scope="module")
def stories(real_data: Path) -> World:
    return make_world(real_data / "model_stories260k")


@pytest.fixture
def read_tokens(demo: World) -> Iterator[list[tuple[int, int]]]:
    """Rows and tokens of every forward pass."""
    seen: list[tuple[int, int]] = []
    hook = demo.stacked.model.model.embed_tokens.register_forward_hook(
        lambda module, args, output: seen.append(tuple(args[0].shape))
    )
    yield seen
    hook.remove()


def ask(contexts: Sequence[str], *kwargs: dict[str, Any], task: str = "t") -> list[Instance]:
    """One request for each context, with the given generation_kwargs in turn."""
    chosen = kwargs or (GREEDY,)
    return [
        Instance("generate_until", {}, (text, dict(chosen[i % len(chosen)])), 0, (task, i, 1))
        for i, text in enumerate(contexts)
    ]


def contexts(world: World, count: int = 8) -> list[str]:
    """Chat prompts of many lengths."""
    return [
        world.chat(" ".join(WORDS[(i * 5 + j) % len(WORDS)] for j in range(1 + i * 7 % 17)))
        for i in range(count)
    ]


@pytest.mark.parametrize("sides", [SIDES[:1], SIDES[:2], SIDES, ("anchor",)])
def test_one_two_and_three_sides(demo: World, sides: tuple[Side, ...]) -> None:
    requests = ask(contexts(demo))
    got = demo.ours(requests, sides)
    assert got == demo.lm_evals(requests, sides)
    assert got == demo.lm_evals(requests, sides, batch_size=5)
    assert len({tuple(texts) for texts in got.values()}) == len(sides), "adapters must differ"


@pytest.mark.parametrize("rows", [1, 4, 7])
def test_the_size_of_the_batch_changes_nothing(demo: World, rows: int) -> None:
    requests = ask(contexts(demo))
    assert demo.ours(requests, rows=rows) == demo.ours(requests)


@pytest.mark.parametrize(
    "until",
    [
        "e",  # one token, in most texts early
        [" the", ".", "\n"],
        ["in the", "es "],  # several tokens, and a part of one
        ["a", "an", "ing"],
        "<|user|>",  # a special token, which the final text does not show
        ["<|assistant|>", "t"],
        [],
        "",  # lm-eval ends after one token
    ],
)
def test_stop_strings(demo: World, until: Any) -> None:
    requests = ask(contexts(demo), {"until": until, "max_gen_toks": 20})
    assert demo.ours(requests) == demo.lm_evals(requests)


def test_texts_end_at_every_length(demo: World) -> None:
    """End of text, stop string and max_gen_toks, all in one batch."""
    kinds: list[dict[str, Any]] = [
        {"until": ["<|end|>"], "max_gen_toks": 40},
        {"until": [" "], "max_gen_toks": 1},
        {"until": ["o", "7"], "max_new_tokens": 9, "do_sample": False},
        {"until": ["\n"], "max_tokens": 3, "temperature": 0.0},
        {"max_gen_toks": 5, "do_sample": False, "temperature": 0.7},
    ]
    requests = ask(contexts(demo, 20), *kinds)
    got = demo.ours(requests)
    assert got == demo.lm_evals(requests)
    assert len({len(text) for text in got["champion"]}) > 5


def test_prompts_beyond_the_context_lose_their_start(demo: World) -> None:
    long = [demo.chat(" ".join(WORDS * n)) for n in (1, 9, 12, 20)]
    assert len(demo.tokenizer.encode(long[-1])) > demo.lm.max_length
    requests = ask([*long, demo.chat("hello")])
    assert demo.ours(requests) == demo.lm_evals(requests)
    assert demo.ours(requests) == demo.lm_evals(requests, batch_size=5)


def test_what_prompts_share_is_computed_once(
    demo: World, read_tokens: list[tuple[int, int]]
) -> None:
    examples = demo.chat(" ".join(WORDS * 4)) + "seven<|end|>"
    alone = [demo.chat("say hello"), demo.chat("count to 7")]
    texts = [examples + text for text in contexts(demo, 8)]
    requests = ask([alone[0], *texts[:5], alone[1], *texts[5:]], {**GREEDY, "max_gen_toks": 8})
    expected = demo.lm_evals(requests)
    assert demo.ours(requests) == expected

    prompts = [demo.tokenizer.encode(request.arguments[0]) for request in requests]
    prefilled = sum(rows * tokens for rows, tokens in read_tokens if tokens > 1)
    assert prefilled < 0.5 * 2 * sum(map(len, prompts))


def test_the_same_prompt_is_computed_once(demo: World, read_tokens: list[tuple[int, int]]) -> None:
    requests = ask([demo.chat("say hello")] * 5)
    got = demo.ours(requests, ["champion"])["champion"]
    assert got == demo.lm_evals(requests[:1], ["champion"])["champion"] * 5
    assert max(rows for rows, _ in read_tokens) == 1


def test_rows_whose_text_has_ended_leave_the_batch(
    demo: World, read_tokens: list[tuple[int, int]]
) -> None:
    kinds = [{"until": [], "max_gen_toks": 2 if i % 8 else 30} for i in range(16)]
    requests = ask(contexts(demo, 16), *kinds)
    assert demo.ours(requests, SIDES) == demo.lm_evals(requests, SIDES)
    assert read_tokens[1] == (3 * 16, 1)
    assert read_tokens[-1][0] <= 3 * 2


def test_looking_seldom_at_tokens_as_on_accelerators_changes_nothing(
    demo: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = ask(contexts(demo), GREEDY, {"until": ["e", "a b"], "max_gen_toks": 7})
    expected = demo.ours(requests)
    monkeypatch.setattr(decode_loop, "STEPS_BETWEEN_LOOKS", 4)
    monkeypatch.setattr(decode_loop, "waits_for_device", lambda device: True)
    assert demo.ours(requests) == expected


def test_more_tokens_than_there_was_room_for(demo: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode_loop, "TOKENS_AHEAD", 3)
    requests = ask(contexts(demo))
    assert demo.ours(requests) == demo.lm_evals(requests)


def test_every_end_of_text_of_the_model_counts(
    demo: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    letter = demo.tokenizer.encode("e", add_special_tokens=False)[-1]
    for model in (demo.stacked.model, demo.reference.base_model.model):
        monkeypatch.setattr(model.generation_config, "eos_token_id", [1, letter])
    requests = ask(contexts(demo))
    assert demo.ours(requests) == demo.lm_evals(requests)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_other_attention_of_transformers(
    demo: World, monkeypatch: pytest.MonkeyPatch, attention: str
) -> None:
    monkeypatch.setattr(demo.stacked.model.config, "_attn_implementation", attention)
    requests = ask(contexts(demo))
    assert demo.ours(requests, SIDES) == demo.lm_evals(requests, SIDES)


@pytest.mark.parametrize("think_end", ["e", 300])
def test_thinking_is_cut_off(demo: World, think_end: int | str) -> None:
    requests = ask(contexts(demo), {"until": ["."], "max_gen_toks": 32})
    expected = demo.lm_evals(requests, think_end_token=think_end)
    before, demo.lm.think_end_token = demo.lm.think_end_token, think_end
    try:
        got = demo.ours(requests)
    finally:
        demo.lm.think_end_token = before
    assert got == expected


@pytest.mark.parametrize(
    "kwargs",
    [
        {"repetition_penalty": 1.5},
        {"num_beams": 2},
        {"repetition_penalty": 1.5, "until": ["<|user|>", "e"]},
        {"min_new_tokens": 5},
        {"suppress_tokens": [1, 5]},
    ],
)
def test_what_the_loop_does_not_know_is_lm_evals(demo: World, kwargs: dict[str, Any]) -> None:
    plain = ask(contexts(demo, 6))
    requests = ask(contexts(demo, 6), GREEDY, {**GREEDY, **kwargs})
    got = demo.ours(requests)
    assert got == demo.lm_evals(requests)
    assert got != demo.lm_evals(plain)


def test_settings_of_the_model_that_the_loop_does_not_know(
    demo: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for model in (demo.stacked.model, demo.reference.base_model.model):
        monkeypatch.setattr(model.generation_config, "repetition_penalty", 1.5)
    requests = ask(contexts(demo, 6))
    assert demo.ours(requests) == demo.lm_evals(requests)


def test_models_without_plain_attention_are_lm_evals(
    demo: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo.stacked, "plain_attention", False)
    requests = ask(contexts(demo, 6))
    assert demo.ours(requests, SIDES) == demo.lm_evals(requests, SIDES)


def test_adapters_that_cannot_be_stacked_take_turns() -> None:
    world = make_world(DEMO.folder, use_dora=True)
    assert world.stacked.why_not is not None
    requests = ask(contexts(world, 4), {**GREEDY, "max_gen_toks": 12})
    assert world.ours(requests, SIDES) == world.lm_evals(requests, SIDES)


def test_a_lack_of_memory_halves_the_batch_and_loses_nothing(
    demo: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = ask(contexts(demo))
    expected = demo.ours(requests)
    forward = demo.stacked.model.forward

    def small(*args: Any, **kwargs: Any) -> Any:
        if kwargs["input_ids"].shape[0] > room:
            raise torch.OutOfMemoryError("no room")
        return forward(*args, **kwargs)

    monkeypatch.setattr(demo.stacked.model, "forward", small)
    room = 6
    assert demo.ours(requests) == expected
    room = 1
    with pytest.raises(StepFailedError):
        demo.ours(requests)


def test_a_lack_of_memory_in_lm_evals_own_loop_halves_the_batch_too(
    demo: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = ask(
        contexts(demo), {**GREEDY, "repetition_penalty": 1.5}, {**GREEDY, "num_beams": 2}
    )
    expected = demo.ours(requests)
    own = demo.lm.generate_until
    sizes: list[int] = []

    def small(part: list[Instance], **kwargs: Any) -> list[str]:
        sizes.append(len(part))
        if len(part) > room:
            raise torch.OutOfMemoryError("no room")
        return own(part, **kwargs)

    monkeypatch.setattr(demo.lm, "generate_until", small)
    room = 2
    assert demo.ours(requests) == expected
    assert sizes[:3] == [4, 2, 2]
    room = 0
    with pytest.raises(StepFailedError, match="single item"):
        demo.ours(requests[:1])


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_rope_that_changes_with_length_is_asked_one_at_a_time(tmp_path: Path, kind: str) -> None:
    """Neither what is in the same batch nor what came before may change a text."""
    folder = _with_changing_rope(tmp_path / "base", kind)

    def world() -> World:
        made = make_world(folder)
        made.stacked.plain_attention = False  # as `likelihoods.plain_attention` finds
        made.lm._max_length = 200
        return made

    asked = world()
    requests = ask(contexts(asked), {**GREEDY, "max_gen_toks": 8})
    lengths = [len(asked.tokenizer.encode(request.arguments[0])) for request in requests]
    assert min(lengths) < ORIGINAL_LENGTH < sorted(lengths)[-3]
    together = asked.ours(requests)
    backwards = asked.ours(requests[::-1])
    assert {side: texts[::-1] for side, texts in backwards.items()} == together
    for index in (lengths.index(min(lengths)), lengths.index(sorted(lengths)[-3])):
        for side in SIDES[:2]:
            alone = world().lm_evals([requests[index]], [side], max_length=200)
            assert alone[side] == [together[side][index]], (lengths[index], side)
    batched = world().lm_evals(requests, batch_size=8, max_length=200)
    assert batched != together, "a batch must make a difference here"


ORIGINAL_LENGTH = 18


def _with_changing_rope(folder: Path, kind: str) -> Path:
    shutil.copytree(DEMO.folder, folder)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    rope = {"rope_type": kind, "rope_theta": 10000.0, "factor": 8.0}
    if kind == "longrope":
        rope["original_max_position_embeddings"] = ORIGINAL_LENGTH
        half = config["head_dim"] // 2
        rope |= {"short_factor": [1.0] * half, "long_factor": [8.0] * half}
    else:
        config["max_position_embeddings"] = ORIGINAL_LENGTH
    path.write_text(json.dumps({**config, "rope_parameters": rope}))
    return folder


# --- sampling ---

SAMPLED = {"until": ["<|end|>"], "do_sample": True, "temperature": 1.2, "max_gen_toks": 12}


def test_samples_do_not_depend_on_the_batch(demo: World) -> None:
    requests = ask(contexts(demo), SAMPLED, {**SAMPLED, "top_p": 0.9}, GREEDY)
    together = demo.ours(requests)
    assert demo.ours(requests, rows=4) == together
    backwards = demo.ours(requests[::-1])
    assert {side: texts[::-1] for side, texts in backwards.items()} == together
    for index in (0, 5):
        alone = demo.ours(requests[index : index + 1], ["challenger"])
        assert alone["challenger"] == [together["challenger"][index]]


def test_repeats_differ_and_sides_draw_alike(demo: World) -> None:
    text = demo.chat("say hello")
    repeats = [
        Instance("generate_until", {}, (text, dict(SAMPLED)), 0, ("t", 3, 4)) for _ in range(4)
    ]
    assert len(set(demo.ours(repeats, ["anchor"])["anchor"])) > 1
    other = [Instance("generate_until", {}, (text, dict(SAMPLED)), 0, ("t", 4, 1))]
    assert demo.ours(other, ["anchor"])["anchor"][0] != demo.ours(repeats, ["anchor"])["anchor"][0]
    twin = make_world(DEMO.folder)
    for name, parameter in twin.stacked.model.named_parameters():
        assert torch.equal(parameter, dict(demo.stacked.model.named_parameters())[name])
    assert twin.ours(repeats, SIDES) == demo.ours(repeats, SIDES)


def test_the_likeliest_of_one_is_greedy(demo: World) -> None:
    prompts = contexts(demo)
    greedy = demo.ours(ask(prompts, {"until": ["<|end|>"], "max_gen_toks": 12}))
    assert demo.ours(ask(prompts, {**SAMPLED, "top_k": 1})) == greedy


def test_tokens_are_sampled_as_often_as_transformers_would() -> None:
    torch.manual_seed(0)
    logits = torch.randn(1, 40) * 3
    chain = warpers({"temperature": 0.8, "top_k": 20, "top_p": 0.9, "min_p": 0.01})
    nothing: Any = None
    scores: Any = logits
    for warper in chain:
        scores = warper(nothing, scores)
    expected = torch.softmax(scores, dim=-1)[0]
    draws = (torch.arange(20_000) + 0.5) / 20_000
    tokens = sample(logits.expand(20_000, -1), chain, draws)
    shares = torch.bincount(tokens, minlength=40) / 20_000
    assert 2 < int((expected > 0).sum()) < 20
    # Evenly spaced draws: each token's share is its probability up to one draw at either end.
    assert float((shares - expected).abs().max()) < 2e-4
    edge = torch.tensor([0.0, 1.0 - 2**-24])
    ends = sample(logits.expand(2, -1), LogitsProcessorList(chain), edge)
    assert bool((expected[ends] > 0).all())


def test_sampling_that_only_lm_eval_knows_does_not_depend_on_the_batch(demo: World) -> None:
    requests = ask(contexts(demo, 4), {**SAMPLED, "typical_p": 0.8})
    together = demo.ours(requests)
    assert demo.ours(requests[2:3])["champion"] == together["champion"][2:3]
    assert len(set(together["champion"])) > 1


# --- another tokenizer, real text ---


@pytest.mark.parametrize("until", [["\n"], ["."], [" she", "ed"], []])
def test_a_real_model(stories: World, until: list[str]) -> None:
    starts = ["Once upon a time", "Lily", "<s>The dog saw a big red ball.", "One day, Tom and his"]
    requests = ask(starts, {"until": until, "max_gen_toks": 40})
    assert stories.ours(requests, SIDES) == stories.lm_evals(requests, SIDES)


def test_a_real_model_with_shared_examples(stories: World) -> None:
    example = "Question: who saw the ball? Answer: the little dog saw it. " * 6
    requests = ask([example + f"Question: who saw the {w}? Answer:" for w in WORDS[:8]])
    assert stories.ours(requests, SIDES) == stories.lm_evals(requests, SIDES)


@pytest.mark.parametrize("which", ["demo", "stories"])
def test_stop_strings_are_seen_after_the_token_that_completes_them(
    which: str, request: pytest.FixtureRequest
) -> None:
    """Against lm-eval's own criterion, over random tokens: broken characters and special ones too."""
    from lm_eval.models.utils_hf import MultiTokenEOSCriteria

    world: World = request.getfixturevalue(which)
    size = len(world.tokenizer)
    generator = torch.Generator().manual_seed(1)
    ended = 0
    for stops in (
        ["\n"],
        ["e", "th"],
        ["é", "\u2581"],
        [" a", "s "],
        ["<|user|>", "<s>"],
        ["an\n"],
    ):
        ours = StopStrings(world.tokenizer, stops)
        for _ in range(60):
            tokens = torch.randint(0, size, (1, 40), generator=generator)
            criteria = [MultiTokenEOSCriteria(stop, world.tokenizer, 0, 1) for stop in stops]
            scores: Any = None
            for length in range(1, 41):
                seen: Any = tokens[:, :length]
                expected = any(criterion(seen, scores) for criterion in criteria)
                assert ours.ends(seen[0].tolist()) == expected, (stops, seen)
                if expected:
                    ended += 1
                    break
    assert ended > 50
