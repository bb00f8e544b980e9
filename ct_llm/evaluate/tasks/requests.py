"""What a task asks a model, item by item, and what a model's answers are worth.

Requests and scores are those of `lm_eval.evaluator.simple_evaluate` run on the task alone: the same
seeds, few-shot examples, chat template, filters and graders (lm-eval 0.4.13, `evaluator.py`
and `api/task.py`). An evaluation may stop early, so nothing is built for an item that is never asked:

- Few-shot examples are drawn for all documents in their order, as lm-eval's one random state wants
  it, but rendered only for those that are asked.
- A prompt function that draws from Python's or numpy's global random state is noticed by that state
  having moved; then the whole task is built in order. Documents built before that drew nothing, so
  theirs are the same either way.

Graders that draw from chance are the one exception: lm-eval's go on from wherever the ones before
left that state, ours begin from a seed of the item's own, for every side the same. That state is one
for all threads: whatever sets or watches it (all but `score_beside_others`) is for one at a time.
"""

import copy
import dataclasses
import functools
import inspect
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from importlib.metadata import version
from typing import Any, Protocol

import numpy as np
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.task import ConfigurableTask, Task
from lm_eval.utils import handle_non_serializable, hash_string

from ct_llm.config import Suite
from ct_llm.errors import CtError, InputError
from ct_llm.evaluate.engine.engine import Response
from ct_llm.evaluate.quiet import quiet
from ct_llm.evaluate.suite import task_files
from ct_llm.evaluate.tasks.downloads import no_downloads
from ct_llm.evaluate.tasks.samples import Scored, item_id, read_sample
from ct_llm.evaluate.tasks.tasks import EvalTask, doc_hash


class Templated(Protocol):
    """All that prompts need of a model."""

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str: ...


_PER_RESPONSE = tuple(
    f"lm_eval.filters.{name}" for name in ("extraction", "selection", "transformation")
)
"""Modules of filters that look at one item's responses and nothing else."""
_CHECKED_TOGETHER = 8
"""Items whose filter is also run beside another item's, for filters from elsewhere."""
_CLUSTER_CHARS = 16


class TaskRequests:
    """All requests of one task for one model's tokenizer and template.

    Raises InputError for documents without the field that `clusters` names. Two documents that are
    the same word for word are two items: their position is part of the identity.
    """

    def __init__(self, task: EvalTask, suite: Suite, lm: "LM | Templated") -> None:
        self.task, self.suite = task, suite
        self._chat_template = getattr(lm, "apply_chat_template", None)
        self.documents: list[Any] = task.documents()
        self.item_ids = [
            item_id(task.name, number, doc_hash(document))
            for number, document in enumerate(self.documents)
        ]
        self._position = {name: number for number, name in enumerate(self.item_ids)}
        self._built: dict[int, list[Instance]] = {}
        self._fewshot: list[Sequence[Any]] | None = None
        self._together: list[Instance] = []
        self._num_together = 0
        self._grader_draws = False
        self._check_clusters()
        with quiet(), _random_state_kept():
            self._begin()

    def of(self, item_id: str) -> list[Instance]:
        """The item's requests, each `repeats` times side by side; copies that may be written to."""
        return [
            _copy(request)
            for request in self._requests(item_id)
            for _ in range(request.repeats or 1)
        ]

    def arguments_digest(self, item_id: str) -> str:
        """sha256 of everything that a model is asked for this item."""
        asked = [[r.request_type, r.args, r.repeats or 1] for r in self._requests(item_id)]
        text = json.dumps(asked, sort_keys=True, default=handle_non_serializable)
        return sha256(text.encode()).hexdigest()

    def cluster(self, item_id: str) -> str | None:
        """A label that items with one passage share; none without a field, or where it is null.

        A digest, not the value: the field may hold the passage itself, and labels go to the Hub with
        every verdict's evidence, also where no text may leave this machine. Who has the passage can
        tell that it is the one; nobody can read it from the label. Equal are values that print alike.
        """
        field = self.task.config.clusters
        if field is None:
            return None
        value = self.documents[self._position[item_id]][field]
        if value is None:
            return None
        # Half a surrogate pair, which strict UTF-8 refuses, is a difference like any other.
        return sha256(str(value).encode("utf-8", "surrogatepass")).hexdigest()[:_CLUSTER_CHARS]

    def score(self, item_id: str, responses: Sequence[Response]) -> Scored:
        """lm-eval's filters and grader on one item. responses: in the order of `of(item_id)`.

        Raises InputError: the grader failed, the filter or the metric does not exist, the score is not
        one finite number in the suite's range, or a custom filter gives the item another answer once
        it sees other items too. A grader that keeps state between items cannot be noticed.
        """
        requests = self._requests(item_id)
        with _random_state_kept():
            random.seed(item_id)
            np.random.seed(int.from_bytes(sha256(item_id.encode()).digest()[:4]))
            before = _random_state(self.task.task)
            scored = self._score(item_id, requests, responses)
            self._grader_draws |= _random_state(self.task.task) != before
        return scored

    def score_beside_others(self, item_id: str, responses: Sequence[Response]) -> Scored | None:
        """The same while other threads do the same; None where chance may have had a part in it.

        Then `score` must say it, once the other threads are done. For an item that was asked already;
        in the meantime nobody may build prompts, or call `score` of any task. Raises as `score`.
        """
        if self._grader_draws:
            return None
        # Nobody seeds or restores the state meanwhile, so it moves for one reason: somebody drew. It
        # may have been another thread's grader, which `score` finds out.
        before = _random_state(self.task.task)
        try:
            scored = self._score(item_id, self._built[self._position[item_id]], responses)
        except CtError:
            if _random_state(self.task.task) == before:
                raise
            return None
        return scored if _random_state(self.task.task) == before else None

    def _score(
        self, item_id: str, built: Sequence[Instance], responses: Sequence[Response]
    ) -> Scored:
        requests = _with_responses(item_id, built, responses)
        document = copy.deepcopy(self.documents[self._position[item_id]])
        with quiet(), no_downloads():
            try:
                self._filter(requests)
                requests.sort(key=lambda request: request.idx)  # as lm-eval hands them to graders
                filtered = [r.filtered_resps[self.task.config.filter] for r in requests]
                grade: Any = self.task.task.process_results  # untyped in lm-eval
                metrics = dict(grade(document, filtered))
            except CtError:
                raise
            except Exception as error:  # a task's own code: it may raise anything
                raise InputError(
                    f"task {self.task.name}: item {item_id} could not be graded: "
                    f"{type(error).__name__}: {error}"
                ) from error
        sample = {
            "prompt_hash": hash_string(str(requests[0].args[0])),
            "arguments": [request.args for request in requests],
            "resps": [request.resps for request in requests],
            "metrics": list(metrics),
            **metrics,
        }
        return read_sample(self.task.name, item_id, sample, self.task.config, self.suite)

    def identity(self) -> dict[str, Any]:
        """What turns answers into scores, as JSON: part of the key under which scores are kept.

        The documents are not in it: their hash is part of every item's identity.
        """
        task = self.task.task
        config = task.config.to_dict(keep_callable=True)
        graded_by = {key: config[key] for key in _GRADING if key in config}
        return {
            "task": self.task.name,
            "metric": self.task.config.metric,
            "filter": self.task.config.filter,
            "version": str(getattr(task, "VERSION", None)),
            "class": f"{type(task).__module__}.{type(task).__qualname__}",
            "config": json.loads(json.dumps(graded_by, default=_described, sort_keys=True)),
            "files": task_files(self.suite),
            "libraries": {name: version(name) for name in ("ct-llm", "lm_eval")},
        }

    # ------------------------------------------------------------ building

    def _begin(self) -> None:
        self.task.seed()
        task, num_fewshot = self.task.task, self.task.num_fewshot()
        if num_fewshot == 0 or not self.documents:
            return
        if not isinstance(task, ConfigurableTask) or (
            type(task).fewshot_context is not ConfigurableTask.fewshot_context
        ):
            self._build_all()
            return
        same_split = task.fewshot_cfg.split == task.config.test_split
        try:
            self._fewshot = [
                task.sampler.sample(n=num_fewshot, eval_doc=doc if same_split else None)
                for doc in self.documents
            ]
        except (AssertionError, AttributeError, ValueError) as error:
            raise InputError(
                f"task {self.task.name}: {num_fewshot} few-shot examples cannot be drawn for every "
                f"document: {error}. Lower num_fewshot."
            ) from error

    def _requests(self, item_id: str) -> list[Instance]:
        number = self._position[item_id]
        if number not in self._built:
            with quiet(), _random_state_kept():
                before = _random_state(self.task.task)
                built = self._build(number)
                if _random_state(self.task.task) == before:
                    self._built[number] = built
                else:
                    self._build_all()
        return self._built[number]

    def _build_all(self) -> None:
        """In the documents' order from the seeds on, as a whole run of lm-eval does it."""
        self._fewshot = None
        self.task.seed()
        for number in range(len(self.documents)):
            self._built[number] = self._build(number)

    def _build(self, number: int) -> list[Instance]:
        """As `Task.build_all_requests` does it for one document."""
        task: Any = self.task.task  # untyped overloads in lm-eval
        chat = self.task.apply_chat_template
        document = self.documents[number]
        template = self._chat_template if chat else None
        with _examples(task, None if self._fewshot is None else self._fewshot[number]):
            context = task.fewshot_context(
                document,
                num_fewshot=self.task.num_fewshot(),
                system_instruction=None,
                apply_chat_template=chat,
                fewshot_as_multiturn=chat,
                chat_template=template,
                gen_prefix=task.doc_to_prefix(document),
            )
        built = task.construct_requests(
            doc=document,
            ctx=context,
            metadata=(task.config["task"], number, task.config.repeats),
            apply_chat_template=chat,
            chat_template=template,
        )
        return built if isinstance(built, list) else [built]

    def _check_clusters(self) -> None:
        field = self.task.config.clusters
        if field is None:
            return
        for number, document in enumerate(self.documents):
            if not isinstance(document, Mapping) or field not in document:
                names = ", ".join(document) if isinstance(document, Mapping) else "no fields"
                raise InputError(
                    f"task {self.task.name}: clusters: document {number} has no field {field!r}. It "
                    f"has: {names}."
                )

    # ------------------------------------------------------------ scoring

    def _filter(self, requests: list[Instance]) -> None:
        name = self.task.config.filter
        pipelines = {pipeline.name: pipeline for pipeline in self.task.task._filters}
        if name not in pipelines:
            raise InputError(
                f"task {self.task.name}: no filter {name!r}. It has: {', '.join(pipelines)}."
            )
        pipeline = pipelines[name]
        pipeline.apply(requests)
        if self._num_together >= _CHECKED_TOGETHER or all(map(_per_response, pipeline.filters)):
            return
        # Read once: another thread may put its own item there meanwhile.
        if other := self._together:
            both = [_copy(request) for request in [*other, *requests]]
            for new, old in zip(both, [*other, *requests], strict=True):
                new.resps = copy.deepcopy(old.resps)
            pipeline.apply(both)
            alone = [r.filtered_resps[name] for r in [*other, *requests]]
            if [r.filtered_resps[name] for r in both] != alone:
                raise InputError(
                    f"task {self.task.name}: filter {name!r} gives an item another answer when it sees "
                    "other items too, so items have no score of their own. Use another filter."
                )
            self._num_together += 1
        self._together = requests.copy()


_GRADING = (
    "output_type",
    "process_results",
    "doc_to_text",
    "doc_to_target",
    "doc_to_choice",
    "target_delimiter",
    "use_prompt",
    "metric_list",
    "filter_list",
    "repeats",
)
"""Of a task's config; what else there is shapes the requests, whose digest stands beside the score."""


def _copy(request: Instance) -> Instance:
    return dataclasses.replace(
        request, arguments=copy.deepcopy(request.arguments), resps=[], filtered_resps={}
    )


def _with_responses(
    item_id: str, built: Sequence[Instance], responses: Sequence[Response]
) -> list[Instance]:
    requests = [_copy(request) for request in built]
    wanted = sum(request.repeats or 1 for request in requests)
    if len(responses) != wanted:
        raise ValueError(f"{item_id}: {len(responses)} responses to {wanted} requests")
    given = iter(responses)
    for request in requests:
        request.resps = [next(given) for _ in range(request.repeats or 1)]
    return requests


def _per_response(component: Any) -> bool:
    made_by = getattr(component, "func", component)
    return getattr(made_by, "__module__", None) in _PER_RESPONSE


def _described(value: Any) -> Any:
    """Callables by their source, so that nothing of this process (addresses) is in an identity."""
    if isinstance(value, functools.partial):
        return [_described(value.func), value.args, value.keywords]
    if callable(value):
        try:
            return inspect.getsource(value)
        except (TypeError, OSError):
            kind = value if hasattr(value, "__qualname__") else type(value)
            return f"{kind.__module__}.{kind.__qualname__}"
    return handle_non_serializable(value)


class _Drawn:
    """Stands in for a task's sampler: gives the examples that were drawn for one document."""

    def __init__(self, examples: Sequence[Any]) -> None:
        self._examples = examples

    def sample(self, n: int, eval_doc: Any = None) -> Sequence[Any]:
        assert n == len(self._examples)
        return self._examples


@contextmanager
def _examples(task: Task, examples: Sequence[Any] | None) -> Iterator[None]:
    if examples is None:
        yield
        return
    assert isinstance(task, ConfigurableTask)
    sampler: Any = task.sampler
    drawn: Any = _Drawn(examples)
    task.sampler = drawn
    try:
        yield
    finally:
        task.sampler = sampler


@contextmanager
def _random_state_kept() -> Iterator[None]:
    """Whoever calls gets the global random state back."""
    state, numpy_state = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(state)
        np.random.set_state(numpy_state)


def _random_state(task: Task) -> tuple[Any, ...]:
    kind, keys, position, *rest = np.random.get_state()
    own = task.fewshot_rnd.getstate() if task.fewshot_rnd is not None else None
    return random.getstate(), kind, np.asarray(keys).tobytes(), position, *rest, own
