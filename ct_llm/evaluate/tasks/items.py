"""What the suites ask, as text: every item of every task, so that no training row repeats one.

    <cache>/items/<key>.parquet    the items of one suite

lm-eval finds and renders the items, which takes seconds and downloads, so they are kept. The key
covers the suite's slice, its tasks and their revisions, every file below its task_dir, and lm-eval's
version. With the items stand the Hub datasets that they came from, at the revisions of that time: one
that has moved since is noticed by one request and the suite is loaded anew, as the evaluation will do
it. Other places that a task may name (files outside of task_dir, URLs) are not looked at again: remove
the folder to do so.
"""

import io
import json
import os
import re
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from ct_llm.config import Suite
from ct_llm.cycle_dir import write_atomically
from ct_llm.digests import fingerprint
from ct_llm.errors import HubUnavailableError, InputError
from ct_llm.evaluate.suite import task_files
from ct_llm.evaluate.tasks.samples import item_id
from ct_llm.hub.client import resolve_revision

if TYPE_CHECKING:
    from huggingface_hub import HfApi

    from ct_llm.evaluate.tasks.tasks import EvalTask

Say = Callable[[str], None]

VERSION = 1
"""Raise when the same documents give other items."""

MIN_TEXT_CHARS = 40
"""Shorter fields (ids, labels, single words) say too little to be looked for in rows."""
MAX_SHARED = 20
"""A text that more items of a task have than this is the task's and no item's."""

QUESTION_FIELDS = (
    "question",
    "prompt",
    "input",
    "text",
    "query",
    "problem",
    "instruction",
    "sentence",
    "goal",
    "question_stem",
    "problem_statement",
    "description",
)

_SCHEMA = pa.schema(
    [
        ("slice", pa.string()),
        ("item_id", pa.string()),
        ("question", pa.string()),
        ("texts", pa.list_(pa.string())),
    ]
)
_ORIGINS = b"ct_llm.origins"
_COMMIT = re.compile(r"[0-9a-f]{40}")


class SuiteItem(NamedTuple):
    """One item of the evaluation, as its words might turn up in a training row."""

    slice: str
    item_id: str
    """As in ItemScore."""
    question: str
    """What is asked, without the task's template around it where that can be told."""
    texts: tuple[str, ...]
    """The question, the prompt as the task renders it, and longer texts of the document: solution,
    tests, passage, choices."""


class Origin(NamedTuple):
    """A Hub dataset that items came from."""

    repo: str
    ref: str
    """Branch, tag or commit that the task names."""
    revision: str | None
    """Its commit at that time; none: the Hub could not be asked."""


def suite_items(
    suites: Sequence[Suite],
    *,
    cache: Path,
    api: "HfApi | None" = None,
    dataset_revisions: Mapping[str, str] = MappingProxyType({}),
    on_progress: Say | None = None,
) -> list[SuiteItem]:
    """Every item that the suites could be evaluated on, whatever `limit` says; suite by suite.

    Those are the documents of the split that is scored. Few-shot examples come from other splits and
    may be trained on. No generated code is run, so no sandbox is needed. api: asked whether the
    datasets have moved; none: they are taken as they were found. dataset_revisions: as in
    EvaluateConfig.

    Raises as `tasks.load_tasks`, InputError for a document that its task cannot render, and
    StorageError.
    """
    say = on_progress or (lambda _: None)
    found: list[SuiteItem] = []
    for suite in suites:
        path = cache / "items" / f"{_key(suite, dataset_revisions)}.parquet"
        items = _read(path, api, say)
        if items is None:
            say(f"{suite.slice}: loading the items that no training row may repeat")
            items = _load(suite, path, api, dataset_revisions)
        found += items
    return found


# ---------------------------------------------------------------- the kept items


def _key(suite: Suite, dataset_revisions: Mapping[str, str]) -> str:
    tasks = [[task.task, task.revision] for task in suite.tasks]
    content = [suite.slice, tasks, task_files(suite), dict(dataset_revisions)]
    return fingerprint([VERSION, version("lm_eval"), *content])[:40]


def _read(path: Path, api: "HfApi | None", say: Say) -> list[SuiteItem] | None:
    """None where there are none, or they are no longer what the Hub holds."""
    try:
        table = pq.read_table(path).select(_SCHEMA.names)
        origins = [Origin(*origin) for origin in json.loads(table.schema.metadata[_ORIGINS])]
    except (OSError, pa.ArrowException, ValueError, TypeError, KeyError):
        return None  # missing, or damaged: it is made again
    if api is not None:
        try:
            if any(_moved(origin, api) for origin in origins):
                return None
        except HubUnavailableError as error:
            say(f"the items' datasets are taken as they were last found: {error}")
    slices, item_ids, questions, texts = (column.to_pylist() for column in table.columns)
    return [
        SuiteItem(*row) for row in zip(slices, item_ids, questions, map(tuple, texts), strict=True)
    ]


def _moved(origin: Origin, api: "HfApi") -> bool:
    if _COMMIT.fullmatch(origin.ref):
        return False
    return resolve_revision(api, origin.repo, origin.ref, "dataset") != origin.revision


def _write(path: Path, items: Sequence[SuiteItem], origins: Sequence[Origin]) -> None:
    columns = list(zip(*items, strict=True)) or [()] * len(_SCHEMA)
    table = pa.table(columns, schema=_SCHEMA.with_metadata({_ORIGINS: json.dumps(origins)}))
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    write_atomically(path, buffer.getvalue())


# ---------------------------------------------------------------- from lm-eval


def _load(
    suite: Suite, path: Path, api: "HfApi | None", dataset_revisions: Mapping[str, str]
) -> list[SuiteItem]:
    # Read by OpenMP when torch is loaded, which lm-eval does: see `evaluate`.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from ct_llm.evaluate.quiet import quiet
    from ct_llm.evaluate.tasks.tasks import load_tasks

    whole = [task.model_copy(update={"limit": None}) for task in suite.tasks]
    with tempfile.TemporaryDirectory(prefix="ct_llm_items_") as folder:
        tasks = load_tasks(
            suite.model_copy(update={"tasks": whole}), None, Path(folder), dataset_revisions
        )
        with quiet():
            items = [item for task in tasks for item in _task_items(suite.slice, task)]
    _write(path, items, _origins(tasks, api))
    return items


def _origins(tasks: Sequence["EvalTask"], api: "HfApi | None") -> list[Origin]:
    from ct_llm.evaluate.tasks.tasks import FILE_FORMATS

    named: dict[tuple[str, str], None] = {}
    for task in tasks:
        repo = getattr(task.task, "DATASET_PATH", None)
        if isinstance(repo, str) and repo not in FILE_FORMATS and not Path(repo).exists():
            kwargs = task.task.get_config("dataset_kwargs") or {}
            named[repo, kwargs.get("revision") or "main"] = None
    origins: list[Origin] = []
    for repo, ref in named:
        revision = None
        if api is not None:
            with suppress(HubUnavailableError):  # loaded from the datasets library's cache, then
                revision = resolve_revision(api, repo, ref, "dataset")
        origins.append(Origin(repo, ref, revision))
    return origins


class _Document(NamedTuple):
    item_id: str
    fields: Mapping[str, str]
    """Every field that is text, or a list of texts (one a line)."""
    rendered: str
    target: str


def _task_items(slice_name: str, task: "EvalTask") -> Iterator[SuiteItem]:
    documents = list(_documents(task))
    question_of = _questions(documents)
    shared = Counter(text for document in documents for text in {*_long_texts(document)})
    for document in documents:
        question = question_of(document)
        texts = [question, document.rendered]
        texts += [text for text in _long_texts(document) if shared[text] <= MAX_SHARED]
        yield SuiteItem(
            slice_name, document.item_id, question, tuple(dict.fromkeys(filter(None, texts)))
        )


def _documents(task: "EvalTask") -> Iterator[_Document]:
    import jinja2

    from ct_llm.evaluate.tasks.tasks import doc_hash

    documents = task.documents()
    for number, doc in enumerate(documents):
        try:
            rendered, target = task.task.doc_to_text(doc), task.task.doc_to_target(doc)
        except (jinja2.TemplateError, LookupError, TypeError, ValueError) as error:
            raise InputError(
                f"task {task.name}: document {number} cannot be rendered "
                f"({type(error).__name__}: {error}). Mend the task or the document."
            ) from error
        named = doc if isinstance(doc, Mapping) else {}
        fields = {name: _text(value) for name, value in named.items()}
        identity = item_id(task.name, number, doc_hash(doc))
        yield _Document(identity, fields, _text(rendered), _text(target))


def _text(value: Any) -> str:
    """Of text, or of a list of texts; nothing of numbers and the like."""
    if isinstance(value, (list, tuple)):
        return "\n".join(filter(None, map(_text, value)))
    if isinstance(value, Mapping):
        return "\n".join(filter(None, map(_text, value.values())))
    # Half a surrogate pair is in no row that passed the checks.
    return value.encode(errors="ignore").decode().strip() if isinstance(value, str) else ""


def _questions(documents: Sequence[_Document]) -> Callable[[_Document], str]:
    """Document -> its question: the longest of the fields that hold one, else the rendered prompt.

    A field whose text stands under different prompts is not all that is asked ("Translate this
    sentence."), and would condemn every row that asks it of something else.
    """
    prompts: defaultdict[str, set[str]] = defaultdict(set)
    for document in documents:
        for text in {document.fields.get(name, "") for name in QUESTION_FIELDS}:
            prompts[text].add(document.rendered)

    def question(document: _Document) -> str:
        texts = (document.fields.get(name, "") for name in QUESTION_FIELDS)
        telling = [text for text in texts if text and len(prompts[text]) == 1]
        return max(telling, key=len, default=document.rendered)

    return question


def _long_texts(document: _Document) -> list[str]:
    texts = [document.target, *document.fields.values()]
    return [text for text in texts if len(text) >= MIN_TEXT_CHARS]
