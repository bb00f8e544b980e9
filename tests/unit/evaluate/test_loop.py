"""The loop and what it scores with, on tasks and an engine that are easily understood."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ct_llm.config import EvaluateConfig, Suite, TaskConfig
from ct_llm.digests import random_order
from ct_llm.errors import InputError, StepFailedError
from ct_llm.evaluate.batch import BatchScorer
from ct_llm.evaluate.journal import Journal, Scores
from ct_llm.evaluate.loop import Loop, Stopping
from ct_llm.evaluate.plan import Plan, Schedule
from ct_llm.evaluate.prefix import ScorePrefix
from ct_llm.evaluate.progress import EvaluateProgress
from ct_llm.evaluate.ranks import Ranks
from ct_llm.evaluate.slices import EvalSlice
from ct_llm.records import KnownScore, Side, SlicePrefix

PAIR: tuple[Side, ...] = ("champion", "challenger")
SIZES = {"coding": 50, "chat": 20}


class Request:
    def __init__(self, item_id: str, idx: int) -> None:
        self.item_id, self.idx = item_id, idx
        self.args = (f"question {item_id} {idx}", {})


class Task:
    """Two requests an item; its score is the mean of the answers."""

    def __init__(self, name: str, size: int) -> None:
        self.name = name
        self.item_ids = [f"{name}/{n}/x" for n in range(size)]
        self.threads: set[str] = set()
        self.grade: Callable[[Sequence[Any]], float] = lambda responses: sum(responses) / 2

    def of(self, item_id: str) -> list[Request]:
        return [Request(item_id, 0), Request(item_id, 1)]

    def arguments_digest(self, item_id: str) -> str:
        return f"digest of {item_id}"

    def cluster(self, item_id: str) -> str | None:
        return None

    def score(self, item_id: str, responses: Sequence[Any]) -> SimpleNamespace:
        self.threads.add(threading.current_thread().name)
        return SimpleNamespace(score=self.grade(responses), output=f"says {responses}")

    def score_beside_others(self, item_id: str, responses: Sequence[Any]) -> SimpleNamespace | None:
        return self.score(item_id, responses)


class Engine:
    """Answers by item, side and request; remembers what it was asked."""

    def __init__(self, answer: Callable[[str, Side, int], Any] | None = None) -> None:
        self.asked: Counter[tuple[str, Side]] = Counter()
        self.calls: list[tuple[int, tuple[Side, ...]]] = []
        self.answer = answer or _answer

    def respond(self, requests: Sequence[Request], sides: Sequence[Side]) -> dict[Side, list[Any]]:
        self.calls.append((len(requests), tuple(sides)))
        self.asked.update((request.item_id, side) for request in requests for side in sides)
        return {
            side: [self.answer(request.item_id, side, request.idx) for request in requests]
            for side in sides
        }


def _answer(item_id: str, side: Side, idx: int) -> float:
    return (int(item_id.split("/")[1]) % 7) / 7 + (0.125 if side == "challenger" else 0.0)


class Evaluation:
    """All parts of a loop over SIZES."""

    def __init__(
        self,
        folder: Path,
        *,
        engine: Engine | None = None,
        known: Scores | None = None,
        stopping: Stopping | None = None,
        schedule: Schedule = "slices",
        executes_code: bool = False,
        ranks: Ranks | None = None,
        batch_items: int = 8,
        **config: Any,
    ) -> None:
        ranks = ranks or Ranks()
        self.engine: Any = engine or Engine()
        self.said: list[EvaluateProgress] = []
        self.tasks = {name: Task(name, size) for name, size in SIZES.items()}
        slices = {name: _slice(task, executes_code) for name, task in self.tasks.items()}
        self.items = random_order(
            [item for part in slices.values() for item in part.items()], order_seed=0
        )
        settings = EvaluateConfig.model_validate({"suites": [], **config})
        self.plan = Plan(
            self.items, slices=list(slices), schedule=schedule, batch_items=batch_items
        )
        self.prefixes = {
            name: ScorePrefix(part.scores(), self.plan.order(name), PAIR)
            for name, part in slices.items()
        }
        self.scorer = BatchScorer(slices, self.engine, known or {}, ranks, batch_items)
        self.journal = Journal(folder, ["inputs"])
        if ranks.is_first:
            self.journal.begin({})
        self.loop = Loop(
            settings,
            self.plan,
            self.prefixes,
            self.scorer,
            self.journal,
            ranks,
            stopping=stopping,
            tell=self.said.append,
        )

    def num_scored(self) -> dict[str, int]:
        return {name: p.slice_scores().num_scored for name, p in self.prefixes.items()}


def _slice(task: Any, executes_code: bool) -> EvalSlice:
    suite = Suite(
        slice=task.name,
        tasks=[TaskConfig(task=task.name, metric="acc")],
        tolerance=0.1,
        executes_code=executes_code,
    )
    return EvalSlice(suite, {task.name: task}, PAIR)


def _until(**enough: int) -> Stopping:
    def rule(order: Sequence[str], prefixes: Sequence[SlicePrefix]) -> list[str]:
        assert Counter(order) == SIZES
        return [p.scores.slice for p in prefixes if p.scores.num_scored < enough[p.scores.slice]]

    return rule


def test_without_a_rule_every_item_is_scored_once_for_each_side(tmp_path: Path) -> None:
    evaluation = Evaluation(tmp_path)
    assert evaluation.loop.run() == "all"
    assert evaluation.num_scored() == SIZES
    assert evaluation.engine.asked == {
        (item.item_id, side): 2 for item in evaluation.items for side in PAIR
    }
    for item in evaluation.items:
        found = evaluation.loop.scores[item.slice, item.item_id]
        assert {side: known.score for side, known in found.items()} == {
            side: pytest.approx(_answer(item.item_id, side, 0)) for side in PAIR
        }
    shown = evaluation.prefixes["chat"].prefix()
    assert shown.champion == tuple(
        evaluation.loop.scores["chat", item.item_id]["champion"].score
        for item in evaluation.plan.order("chat")
    )


def test_the_rule_ends_each_slice_at_a_batch(tmp_path: Path) -> None:
    evaluation = Evaluation(tmp_path, stopping=_until(coding=17, chat=1))
    assert evaluation.loop.run() == "decided"
    assert evaluation.num_scored() == {"coding": 24, "chat": 8}
    assert [said.text.split(":")[0] for said in evaluation.said] == [
        *("coding 8/50", "chat 8/20", "coding 16/50", "coding 24/50")
    ]
    assert evaluation.said[-1].fraction == 32 / 70


def test_a_rule_that_wants_nothing_costs_nothing(tmp_path: Path) -> None:
    evaluation = Evaluation(tmp_path, stopping=_until(coding=0, chat=0))
    assert evaluation.loop.run() == "decided"
    assert evaluation.engine.calls == []


def test_pooled_batches_show_the_one_order(tmp_path: Path) -> None:
    evaluation = Evaluation(tmp_path, stopping=_until(coding=17, chat=1), schedule="pooled")
    assert evaluation.loop.run() == "decided"
    num_scored = sum(evaluation.num_scored().values())
    assert num_scored % 8 == 0
    assert set(evaluation.loop.scores) == {item[:2] for item in evaluation.items[:num_scored]}


def test_a_budget_of_items_is_kept_to_the_item(tmp_path: Path) -> None:
    evaluation = Evaluation(tmp_path, max_items=21)
    assert evaluation.loop.run() == "budget"
    assert evaluation.num_scored() == {"coding": 13, "chat": 8}
    enough = Evaluation(tmp_path / "2", max_items=70)
    assert enough.loop.run() == "all"


def test_a_budget_of_seconds_ends_it_after_a_batch(tmp_path: Path) -> None:
    evaluation = Evaluation(tmp_path, max_seconds=1e-9)
    assert evaluation.loop.run() == "budget"
    assert sum(evaluation.num_scored().values()) == 8
    again = Evaluation(tmp_path, max_seconds=1e-9)
    assert again.loop.run() == "budget"
    assert again.engine.calls == []
    assert again.num_scored() == evaluation.num_scored()


def test_finished_batches_are_read_not_scored(tmp_path: Path) -> None:
    whole = Evaluation(tmp_path / "whole")
    whole.loop.run()
    Evaluation(tmp_path, max_items=42).loop.run()
    # The last batch was cut by the budget, so it is not the batch of an evaluation without one.
    again = Evaluation(tmp_path)
    assert again.loop.run() == "all"
    assert again.loop.scores == whole.loop.scores
    assert sum(number for number, _ in again.engine.calls) == 2 * 30
    assert again.loop.seconds > 0


def test_only_sides_without_a_score_are_asked(tmp_path: Path) -> None:
    names = [item[:2] for item in Evaluation(tmp_path / "1").items]
    known: Scores = {
        name: {"champion": KnownScore(0.25, "known")} for name in names if name[0] == "chat"
    }
    known[names[0]] = {side: KnownScore(1.0, "known") for side in PAIR}
    evaluation = Evaluation(tmp_path, known=known, schedule="pooled")
    evaluation.loop.run()
    asked = set(evaluation.engine.asked)
    assert not any(item[0].startswith("chat/") and item[1] == "champion" for item in asked)
    assert not any(item[0] == names[0][1] for item in asked)
    assert len(asked) == 2 * 70 - sum(len(sides) for sides in known.values())
    assert evaluation.loop.scores[names[0]] == known[names[0]]
    chat = next(name for name in names[1:] if name[0] == "chat")
    assert evaluation.loop.scores[chat]["champion"] == KnownScore(0.25, "known")
    assert {sides for _, sides in evaluation.engine.calls} == {PAIR, ("challenger",)}


def test_code_is_graded_in_threads_and_everything_else_is_not(tmp_path: Path) -> None:
    plain, code = Evaluation(tmp_path / "1"), Evaluation(tmp_path / "2", executes_code=True)
    plain.loop.run()
    code.loop.run()
    assert code.loop.scores == plain.loop.scores
    main = threading.main_thread().name
    assert plain.tasks["chat"].threads == {main}
    assert code.tasks["chat"].threads
    assert main not in code.tasks["chat"].threads


def test_prompts_and_what_draws_have_their_turns_without_threads(tmp_path: Path) -> None:
    """The random state is one for all threads: nothing that sets or watches it runs beside any."""
    beside: set[str] = set()

    class Drawing(Task):
        def of(self, item_id: str) -> list[Request]:
            beside.update(_pool_threads())
            return super().of(item_id)

        def score(self, item_id: str, responses: Sequence[Any]) -> SimpleNamespace:
            beside.update(_pool_threads())
            return super().score(item_id, responses)

        def score_beside_others(self, item_id: str, responses: Sequence[Any]) -> None:
            time.sleep(0.002)

    evaluation = Evaluation(tmp_path / "1", executes_code=True, batch_items=70, schedule="pooled")
    tasks = {name: Drawing(name, size) for name, size in SIZES.items()}
    slices = {name: _slice(task, executes_code=name == "coding") for name, task in tasks.items()}
    engine: Any = Engine()
    scores = BatchScorer(slices, engine, {}, Ranks(), 16).score(evaluation.items)
    evaluation.loop.run()
    assert scores == evaluation.loop.scores
    assert {t for task in tasks.values() for t in task.threads} == {threading.main_thread().name}
    assert not beside


def _pool_threads() -> set[str]:
    return {t.name for t in threading.enumerate() if t.name.startswith("ThreadPoolExecutor")}


class ThreadRanks(Ranks):
    """Ranks that are threads of this process."""

    def __init__(self, rank: int, meeting: threading.Barrier, table: list[Any]) -> None:
        super().__init__(rank, len(table))
        self._meeting, self._table = meeting, table

    def gather(self, make: Callable[[], Any]) -> list[Any]:
        self._table[self.rank] = make()
        self._meeting.wait(timeout=60)
        told = list(self._table)
        self._meeting.wait(timeout=60)
        return told

    def from_first(self, make: Callable[[], Any]) -> Any:
        return self.gather(make if self.is_first else lambda: None)[0]


def test_ranks_share_every_batch_and_see_the_same(tmp_path: Path) -> None:
    alone = Evaluation(tmp_path / "alone", batch_items=70, schedule="pooled")
    alone.loop.run()
    meeting, table = threading.Barrier(2), [None, None]
    both = [
        Evaluation(
            tmp_path / str(rank),
            batch_items=70,
            schedule="pooled",
            ranks=ThreadRanks(rank, meeting, table),
        )
        for rank in range(2)
    ]
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(lambda part: part.loop.run(), both)) == ["all", "all"]
    asked = [set(part.engine.asked) for part in both]
    assert [len(part) for part in asked] == [2 * 64, 2 * 6]
    assert not asked[0] & asked[1]
    for part in both:
        assert part.loop.scores == alone.loop.scores
        assert [p.prefix() for p in part.prefixes.values()] == [
            p.prefix() for p in alone.prefixes.values()
        ]
    assert both[0].loop.seconds == both[1].loop.seconds
    assert (tmp_path / "0" / "journal" / "00000.json").exists()
    assert not (tmp_path / "1" / "journal").exists()


def _nan(item_id: str, side: Side, idx: int) -> Any:
    wrong = item_id == "chat/3/x" and side == "challenger" and idx == 1
    return (float("nan"), False) if wrong else (-1.0, False)


def _none(item_id: str, side: Side, idx: int) -> Any:
    return None if item_id == "chat/3/x" and idx == 1 else 0.5


@pytest.mark.parametrize(
    ("answer", "error", "complaint"),
    [
        (_nan, InputError, r"task chat, item chat/3/x: the challenger's log-likelihood is NaN"),
        (_none, StepFailedError, r"task chat, item chat/3/x: the engine gave"),
    ],
)
def test_an_answer_that_is_none_names_its_item(
    tmp_path: Path, answer: Callable[..., Any], error: type[Exception], complaint: str
) -> None:
    evaluation = Evaluation(tmp_path, engine=Engine(answer))
    for task in evaluation.tasks.values():
        task.grade = lambda _: 0.5
    with pytest.raises(error, match=complaint):
        evaluation.loop.run()


def test_a_score_that_is_no_number_names_its_item(tmp_path: Path) -> None:
    evaluation = Evaluation(tmp_path)
    evaluation.tasks["chat"].grade = lambda _: float("nan")
    with pytest.raises(InputError, match=r"task chat: item chat/\d+/x: its score is nan"):
        evaluation.loop.run()


def test_an_engine_that_forgets_requests_is_noticed(tmp_path: Path) -> None:
    class Forgetful(Engine):
        def respond(
            self, requests: Sequence[Request], sides: Sequence[Side]
        ) -> dict[Side, list[Any]]:
            said = super().respond(requests, sides)
            return {side: said[side][:-1] for side in sides}

    evaluation = Evaluation(tmp_path, engine=Forgetful())
    with pytest.raises(StepFailedError, match="gave the champion 1 answers to 2 requests"):
        evaluation.loop.run()
