"""Requests and scores of TaskRequests against those of lm-eval's own `evaluate`, with a made-up model."""

import copy
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, DatasetDict
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.task import ConfigurableTask
from lm_eval.evaluator import evaluate

from ct_llm.config import Suite, TaskConfig
from ct_llm.errors import InputError
from ct_llm.evaluate.batch import BatchScorer
from ct_llm.evaluate.ranks import Ranks
from ct_llm.evaluate.slices import EvalSlice
from ct_llm.evaluate.tasks.requests import Response, TaskRequests
from ct_llm.evaluate.tasks.tasks import EvalTask
from ct_llm.records import OrderedItem, Side

NUM_DOCS = 12
WORDS = ("red", "green", "blue", "7", "-3", "42.")


class MadeUpModel(LM):
    """Answers by the hash of what is asked, so that right and wrong are both common."""

    @property
    def tokenizer_name(self) -> str:
        return "made-up"

    def loglikelihood(self, requests: Sequence[Instance], *_: Any) -> list[tuple[float, bool]]:
        return [(-1 - number % 997 / 100, number % 2 == 0) for number in _numbers(requests)]

    def loglikelihood_rolling(self, requests: Sequence[Instance], *_: Any) -> list[float]:
        return [-1 - number % 997 / 100 for number in _numbers(requests)]

    def generate_until(self, requests: Sequence[Instance], *_: Any) -> list[str]:
        return [f" {WORDS[number % len(WORDS)]}" for number in _numbers(requests)]

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        return "".join(f"<{m['role']}>{m['content']}" for m in chat_history) + "<assistant>"


def _numbers(requests: Sequence[Instance]) -> list[int]:
    """The second answer to the same request is another than the first, as with sampling."""
    seen: Counter[str] = Counter()
    numbers = []
    for request in requests:
        asked = repr((request.doc_id, request.args))
        numbers.append(int.from_bytes(sha256(f"{seen[asked]}{asked}".encode()).digest()[:6]))
        seen[asked] += 1
    return numbers


def _docs(split: str, number: int) -> list[dict[str, Any]]:
    return [
        {
            "question": f"{split} question {n}: which colour?",
            "answer": WORDS[n % 3],
            "choices": list(WORDS[:3]),
            "label": n % 3,
            "passage": None if n == 0 else n // 3,
        }
        for n in range(number)
    ]


GENERATE = {
    "output_type": "generate_until",
    "doc_to_text": "Q: {{question}}\nA:",
    "doc_to_target": "{{answer}}",
    "generation_kwargs": {"until": ["\n"], "do_sample": False},
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    "filter_list": [
        {"name": "none", "filter": [{"function": "remove_whitespace"}, {"function": "take_first"}]}
    ],
}
CHOOSE = {
    "output_type": "multiple_choice",
    "doc_to_text": "Q: {{question}}\nA:",
    "doc_to_target": "{{label}}",
    "doc_to_choice": "{{choices}}",
    "metric_list": [
        {"metric": "acc", "aggregation": "mean", "higher_is_better": True},
        {"metric": "acc_norm", "aggregation": "mean", "higher_is_better": True},
    ],
}
LIKELY = {
    "output_type": "loglikelihood",
    "doc_to_text": "{{question}}",
    "doc_to_target": " {{answer}}",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
}


def _random_question(doc: dict[str, Any]) -> str:
    return f"{doc['question']} {random.random()}"


def _sometimes_random_question(doc: dict[str, Any]) -> str:
    return _random_question(doc) if " 4:" in doc["question"] else doc["question"]


def _bits(doc: dict[str, Any], results: Sequence[float]) -> dict[str, float]:
    return {"bits": -results[0] / len(doc["question"])}


VOTE = [
    {
        "name": "vote",
        "filter": [
            {"function": "remove_whitespace"},
            {"function": "majority_vote"},
            {"function": "take_first"},
        ],
    }
]
CASES: dict[str, tuple[dict[str, Any], str, str]] = {
    "generate": (GENERATE, "exact_match", "none"),
    "generate with random examples": ({**GENERATE, "num_fewshot": 3}, "exact_match", "none"),
    "choose": (CHOOSE, "acc", "none"),
    "choose with random examples": ({**CHOOSE, "num_fewshot": 2}, "acc_norm", "none"),
    "examples from the split that is scored": (
        {**CHOOSE, "num_fewshot": 4, "training_split": None, "fewshot_split": "test"},
        "acc",
        "none",
    ),
    "the first examples": (
        {**LIKELY, "num_fewshot": 2, "fewshot_config": {"sampler": "first_n"}},
        "acc",
        "none",
    ),
    "contexts by choice": (
        {
            **CHOOSE,
            "doc_to_text": "{{label}}",
            "doc_to_target": " is it",
            "doc_to_choice": "{{choices}}",
        },
        "acc",
        "none",
    ),
    "mutual information": (
        {
            **CHOOSE,
            "metric_list": [
                {"metric": "acc_mutual_info", "aggregation": "mean", "higher_is_better": True}
            ],
        },
        "acc_mutual_info",
        "none",
    ),
    "likelihood": (LIKELY, "acc", "none"),
    "rolling": (
        {
            "output_type": "loglikelihood_rolling",
            "doc_to_text": "",
            "doc_to_target": "question",
            "process_results": _bits,
            "metric_list": [{"metric": "bits", "aggregation": "mean", "higher_is_better": True}],
        },
        "bits",
        "none",
    ),
    "votes": ({**GENERATE, "repeats": 5, "filter_list": VOTE}, "exact_match", "vote"),
    "random questions": ({**LIKELY, "doc_to_text": _random_question}, "acc", "none"),
    "a random question": (
        {**GENERATE, "doc_to_text": _sometimes_random_question, "num_fewshot": 1},
        "exact_match",
        "none",
    ),
}


def _task(
    config: dict[str, Any],
    metric: str = "exact_match",
    filter_: str = "none",
    *,
    chat: bool = False,
    clusters: str | None = None,
) -> tuple[EvalTask, Suite]:
    splits = DatasetDict(
        {
            "train": Dataset.from_list(_docs("train", 9)),
            "test": Dataset.from_list(_docs("test", NUM_DOCS)),
        }
    )
    task = ConfigurableTask(
        config={
            "task": "made_up",
            "custom_dataset": lambda **_: splits,
            "training_split": "train",
            "test_split": "test",
            "num_fewshot": 0,
            **copy.deepcopy(config),
        }
    )
    named = TaskConfig(task="made_up", metric=metric, filter=filter_, clusters=clusters)
    suite = Suite(slice="s", tasks=[named], tolerance=0.0, apply_chat_template=chat)
    return EvalTask("made_up", task, named, chat, None), suite


def _respond(model: LM, requests: Sequence[Instance]) -> list[Response]:
    kinds: dict[str, Callable[..., list[Any]]] = {
        name: getattr(model, name)
        for name in ("loglikelihood", "loglikelihood_rolling", "generate_until")
    }
    (kind,) = {request.request_type for request in requests}
    return kinds[kind](requests)


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_requests_and_scores_are_those_of_evaluate(name: str, chat: bool) -> None:
    config, metric, filter_ = CASES[name]
    reference, _ = _task(config, metric, filter_, chat=chat)
    reference.seed()
    model = MadeUpModel()
    results = evaluate(
        model,
        {"tasks": {"made_up": reference.task}},
        bootstrap_iters=0,
        apply_chat_template=chat,
        fewshot_as_multiturn=chat,
    )
    assert results is not None and "samples" in results
    theirs = {
        f"made_up/{sample['doc_id']}/{sample['doc_hash'][:16]}": sample
        for sample in results["samples"]["made_up"]
        if sample["filter"] == filter_
    }

    task, suite = _task(config, metric, filter_, chat=chat)
    requests = TaskRequests(task, suite, model)
    assert requests.item_ids == list(theirs)
    scores = set()
    for item in random.Random(0).sample(requests.item_ids, NUM_DOCS):
        asked = requests.of(item)
        repeats = reference.task.config.repeats
        assert [r.args for r in asked[::repeats]] == theirs[item]["arguments"], item
        scored = requests.score(item, _respond(model, asked))
        assert (scored.score, scored.prompt_hash) == (
            theirs[item][metric],
            theirs[item]["prompt_hash"],
        )
        scores.add(scored.score)
    assert len(scores) > 1


def test_what_is_never_asked_is_never_rendered() -> None:
    rendered: Counter[str] = Counter()

    def question(doc: dict[str, Any]) -> str:
        rendered[doc["question"]] += 1
        return doc["question"]

    task, suite = _task({**GENERATE, "doc_to_text": question, "num_fewshot": 2})
    rendered.clear()
    requests = TaskRequests(task, suite, MadeUpModel())
    assert not rendered
    requests.of(requests.item_ids[5])
    requests.arguments_digest(requests.item_ids[5])
    assert sum(rendered.values()) == 3
    assert [q for q in rendered if q.startswith("test")] == ["test question 5: which colour?"]


def test_copies_may_be_written_to() -> None:
    task, suite = _task({**GENERATE, "repeats": 2})
    requests = TaskRequests(task, suite, MadeUpModel())
    item = requests.item_ids[0]
    before = requests.arguments_digest(item)
    first, second = requests.of(item)
    first.args[1]["until"].append("x")  # pyright: ignore[reportGeneralTypeIssues]
    first.resps.append("y")
    assert second.resps == [] and second.args[1]["until"] == ["\n"]  # pyright: ignore[reportGeneralTypeIssues]
    assert requests.arguments_digest(item) == before
    with pytest.raises(ValueError, match="1 responses to 2 requests"):
        requests.score(item, ["red"])


def test_a_digest_changes_with_anything_that_is_asked() -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"doc_to_text": "{{question}}"},
        {"generation_kwargs": {"until": ["\n"], "max_gen_toks": 9}},
        {"repeats": 2},
        {"num_fewshot": 1},
    ]
    digests = set()
    for change in changes:
        task, suite = _task({**GENERATE, **change})
        requests = TaskRequests(task, suite, MadeUpModel())
        digests.add(requests.arguments_digest(requests.item_ids[3]))
    assert len(digests) == len(changes)


def test_identity_is_about_grading_alone() -> None:
    def identity(**change: Any) -> dict[str, Any]:
        task, suite = _task({**GENERATE, **change})
        return TaskRequests(task, suite, MadeUpModel()).identity()

    same = identity()
    assert identity() == same == identity(num_fewshot=2) == identity(description="Hello.")
    assert identity(doc_to_target="question") != same
    assert identity(filter_list=VOTE) != same
    assert identity(process_results=_bits) != same
    assert "0x" not in str(identity(process_results=_bits))


def _looks_around(resps: Sequence[Sequence[str]], docs: Sequence[Any]) -> list[str]:
    return [f"{len(resps)}"] * len(resps)


def _looks_at_one(resps: Sequence[Sequence[str]], docs: Sequence[Any]) -> list[str]:
    return [one[0].strip().upper() for one in resps]


@pytest.mark.parametrize("function", [_looks_around, _looks_at_one])
def test_a_filter_that_needs_other_items_is_noticed(function: Callable[..., Any]) -> None:
    custom = {"name": "none", "filter": [{"function": "custom", "filter_fn": function}]}
    task, suite = _task({**GENERATE, "filter_list": [custom]})
    requests = TaskRequests(task, suite, MadeUpModel())
    first, second, *_ = requests.item_ids
    requests.score(first, ["red"])
    if function is _looks_at_one:
        assert requests.score(second, ["green"]).score == 0.0  # GREEN is not green
        return
    with pytest.raises(InputError, match="another answer when it sees other items"):
        requests.score(second, ["green"])


def _breaks(doc: dict[str, Any], results: Sequence[str]) -> dict[str, float]:
    raise KeyError("nothing")


@pytest.mark.parametrize(
    ("change", "filter_", "complaint"),
    [
        ({"process_results": _breaks}, "none", r"item made_up/0/\w+ could not be graded: KeyError"),
        ({}, "strict", r"no filter 'strict'\. It has: none"),
    ],
)
def test_what_cannot_be_graded_names_the_item(
    change: dict[str, Any], filter_: str, complaint: str
) -> None:
    task, suite = _task({**GENERATE, **change}, filter_=filter_)
    requests = TaskRequests(task, suite, MadeUpModel())
    with pytest.raises(InputError, match=complaint):
        requests.score(requests.item_ids[0], ["red"])


def test_a_perplexity_is_no_score_of_an_item() -> None:
    rolling = {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "question",
        "metric_list": [{"metric": "word_perplexity"}],
    }
    task, suite = _task(rolling, "word_perplexity")
    requests = TaskRequests(task, suite, MadeUpModel())
    with pytest.raises(InputError, match="not one number per item but tuple"):
        requests.score(requests.item_ids[0], [-3.0])


def test_clusters_are_a_field_of_the_document() -> None:
    task, suite = _task(GENERATE, clusters="passage")
    requests = TaskRequests(task, suite, MadeUpModel())
    labels = [requests.cluster(item) for item in requests.item_ids]
    # Nothing of the value is in its label, which goes to the Hub; the digest is the same everywhere.
    assert labels[0] is None and labels[1] == sha256(b"0").hexdigest()[:16]
    names = dict.fromkeys(labels[1:])
    assert [list(names).index(label) for label in labels[1:]] == [
        n // 3 for n in range(1, NUM_DOCS)
    ]
    task, suite = _task(GENERATE, clusters="chapter")
    with pytest.raises(InputError, match="clusters: document 0 has no field 'chapter'"):
        TaskRequests(task, suite, MadeUpModel())


def test_any_value_makes_a_cluster() -> None:
    task, suite = _task(GENERATE, clusters="passage")
    requests = TaskRequests(task, suite, MadeUpModel())
    values = ["half \ud83d", "half ?", "", ["a", 1], {"a": 1}, 1, "1"]
    for number, value in enumerate(values):
        requests.documents[number] = {"passage": value}
    labels = [requests.cluster(item) for item in requests.item_ids[: len(values)]]
    assert len(set(labels)) == len(values) - 1 and labels[-1] == labels[-2]
    assert {len(label or "") for label in labels} == {16}


def test_examples_that_are_not_there() -> None:
    task, suite = _task({**GENERATE, "num_fewshot": 10})
    with pytest.raises(InputError, match="10 few-shot examples cannot be drawn"):
        TaskRequests(task, suite, MadeUpModel())


def _guesses(doc: dict[str, Any], results: Sequence[str]) -> dict[str, float]:
    return {"guess": float(random.random() < 0.5)}


def test_a_grader_that_guesses_guesses_alike_for_every_side() -> None:
    metric = {"metric": "guess", "aggregation": "mean", "higher_is_better": True}
    task, suite = _task({**GENERATE, "process_results": _guesses, "metric_list": [metric]}, "guess")
    requests = TaskRequests(task, suite, MadeUpModel())
    random.seed(5)
    state = random.getstate()
    first = [requests.score(item, ["red"]).score for item in requests.item_ids]
    again = [requests.score(item, ["blue"]).score for item in reversed(requests.item_ids)]
    assert first == again[::-1]
    assert set(first) == {0.0, 1.0}
    assert random.getstate() == state


# ---------------------------------------------------------------- graders in threads


def _draws_slowly(doc: dict[str, Any], results: Sequence[str]) -> dict[str, float]:
    """As a grader that waits for a sandbox between two draws, so that others come in between."""
    first = random.random()
    time.sleep(0.003)
    return {"guess": float((first + np.random.random() + random.random()) % 1)}


def _draws_and_fails(doc: dict[str, Any], results: Sequence[str]) -> dict[str, float]:
    time.sleep(0.001)
    if random.random() < 0.5 and threading.current_thread() is not threading.main_thread():
        raise ValueError("by chance")
    return {"guess": 1.0}


class _SlowEngine:
    """Answers after the graders of the share before have begun."""

    def respond(
        self, requests: Sequence[Instance], sides: Sequence[Side]
    ) -> dict[Side, list[Response]]:
        time.sleep(0.003)
        return {side: _respond(MadeUpModel(), requests) for side in sides}


def _guessing(grader: Callable[..., Any]) -> TaskRequests:
    metric = {"metric": "guess", "aggregation": "mean", "higher_is_better": True}
    task, suite = _task({**GENERATE, "process_results": grader, "metric_list": [metric]}, "guess")
    return TaskRequests(task, suite, MadeUpModel())


def _in_threads(requests: TaskRequests) -> list[float]:
    engine: Any = _SlowEngine()
    suite = requests.suite.model_copy(update={"executes_code": True})
    part = EvalSlice(suite, {"made_up": requests}, ("champion",))
    items = [OrderedItem("s", name, "made_up") for name in requests.item_ids]
    found = BatchScorer({"s": part}, engine, {}, Ranks(), 3).score(items)
    return [found["s", name]["champion"].score for name in requests.item_ids]


def test_graders_that_draw_in_threads_draw_as_they_do_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ct_llm.evaluate.batch._num_threads", lambda _: 6)
    alone = _guessing(_draws_slowly)
    expected = [alone.score(name, ["red"]).score for name in alone.item_ids]
    assert len(set(expected)) == NUM_DOCS

    def drew(self: TaskRequests) -> None:
        raise AssertionError("no prompt of this task draws")

    monkeypatch.setattr(TaskRequests, "_build_all", drew)
    requests = _guessing(_draws_slowly)
    assert _in_threads(requests) == expected
    assert _in_threads(requests) == expected, "now it is known that it draws"


def test_what_chance_broke_in_a_thread_is_graded_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ct_llm.evaluate.batch._num_threads", lambda _: 6)
    assert _in_threads(_guessing(_draws_and_fails)) == [1.0] * NUM_DOCS
    with pytest.raises(InputError, match="could not be graded: KeyError"):
        _in_threads(_guessing(_breaks))


def test_a_grader_beside_one_that_draws_is_no_such_grader() -> None:
    plain, drawing = _guessing(lambda doc, results: {"guess": 1.0}), _guessing(_draws_slowly)
    name = plain.item_ids[0]
    for requests in (plain, drawing):
        requests.of(name)
    begun = threading.Event()

    def waits(doc: dict[str, Any], results: Sequence[str]) -> dict[str, float]:
        begun.set()
        time.sleep(0.05)
        return {"guess": 1.0}

    waiting = _guessing(waits)
    waiting.of(name)
    with ThreadPoolExecutor(1) as pool:
        beside = pool.submit(waiting.score_beside_others, name, ["red"])
        begun.wait(timeout=60)
        assert drawing.score_beside_others(name, ["red"]) is None
    assert beside.result() is None, "something moved, and who it was nobody knows yet"
    for requests in (waiting, drawing):
        requests.score(name, ["red"])
    assert waiting.score_beside_others(name, ["red"]) is not None
    assert drawing.score_beside_others(name, ["red"]) is None
    assert plain.score_beside_others(name, ["red"]) == plain.score(name, ["red"])
