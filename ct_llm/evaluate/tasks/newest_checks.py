"""The slice of held-out newest rows that a program can grade: right or wrong, by the row's own response.

Models answer the row's conversation greedily. What the response is made of decides how it is graded:

- `number`: the response states one number as its result: `#### 72`, `\\boxed{72}`, `The answer is 72.`,
  the number alone, or a calculation that ends it (`24 + 48 = 72 clips in all.`). The answer's number
  must be the same.
- `json`: the whole response is a JSON object or array. The answer must be the same value.
- `text`: a short line that the question itself offered (one of its choices, yes, no, true, false). The
  answer must be the same but for case, white space, quotes and final punctuation.

A row is left out when there may be other good answers: an open request ("generate a random ..."), JSON
with words that stand nowhere in the conversation, a short text of the writer's own. Too few rows are
better than unfair ones. Which rows are taken depends on the rows alone.
"""

import json
import re
from collections.abc import Iterator, Sequence
from decimal import Decimal
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from ct_llm.config import NewestGeneratedConfig, TaskConfig
from ct_llm.evaluate.tasks.holdout_task import HeldOutRow, renderer, split_response

if TYPE_CHECKING:
    from lm_eval.api.model import LM

    from ct_llm.evaluate.tasks.tasks import EvalTask

NEWEST_GENERATED = "newest_generated"
METRIC = "correct"
MAX_WORDS = 5
MAX_CHARS = 40

Kind = Literal["number", "json", "text"]


class Check(NamedTuple):
    kind: Kind
    answer: str
    """The right one, in the form in which answers are compared."""


class CheckableRow(NamedTuple):
    row: HeldOutRow
    check: Check


def checkable_rows(rows: Sequence[HeldOutRow]) -> list[CheckableRow]:
    """The rows that can be graded fairly, in the order of their hashed ids."""
    found = [CheckableRow(row, check) for row in rows if (check := find_check(row)) is not None]
    return sorted(found, key=lambda part: sha256(part.row.row_id.encode()).digest())


def find_check(row: HeldOutRow) -> Check | None:
    """How the row's response is graded; None: not by a program."""
    *before, last = row.messages or [{}]
    response = last.get("content")
    if not before or last.get("role") != "assistant" or last.get("tool_calls"):
        return None
    if not isinstance(response, str) or not response.strip():
        return None
    asked = next((_words_of(m) for m in reversed(before) if m.get("role") == "user"), "")
    answers = {
        "json": _json_answer(response, _normal(" ".join(_texts([before, row.tools])))),
        "number": _number_answer(response),
        "text": _text_answer(response, asked),
    }
    kind: Kind
    for kind in ("json", "number", "text"):
        answer = answers[kind]
        if answer is not None:
            return None if _OPEN.search(asked) else Check(kind, answer)
    return None


def is_correct(check: Check, output: str) -> bool:
    """Whether a model's output gives the answer."""
    if check.kind == "number":
        return _last_number(output) == check.answer
    if check.kind == "json":
        return _canonical_json(_without_fence(output)) == check.answer
    return _normal(output) == check.answer


def newest_generated_task(
    rows: Sequence[HeldOutRow], lm: "LM", config: NewestGeneratedConfig, *, max_length: int
) -> "EvalTask":
    """An lm-eval generation task of the checkable rows for this model. max_length: its context, in tokens.

    Raises InputError: the chat template cannot render a row.
    """
    from datasets import Dataset, DatasetDict
    from lm_eval.api.task import ConfigurableTask

    from ct_llm.evaluate.quiet import quiet
    from ct_llm.evaluate.tasks.tasks import EvalTask

    documents: list[dict[str, str]] = []
    ends: set[str] = set()
    for row, check in checkable_rows(rows):
        render = renderer(getattr(lm, "tokenizer", None), row)
        prompt, response = split_response(row.messages, render, row.row_id)
        ends.add(_end_of_turn(response, row.messages[-1]["content"]))
        documents.append({"row_id": row.row_id, "prompt": prompt, **check._asdict()})
    generation = {
        "until": sorted(filter(None, ends)),
        "do_sample": False,
        # Nobody chose this slice, so a small model's context must not make it an error.
        "max_gen_toks": min(config.max_gen_toks, max_length // 2),
    }
    with quiet():
        task = ConfigurableTask(
            config={
                "task": NEWEST_GENERATED,
                "custom_dataset": lambda **_: DatasetDict({"test": Dataset.from_list(documents)}),
                "test_split": "test",
                "output_type": "generate_until",
                "doc_to_text": "prompt",
                "doc_to_target": "answer",
                "generation_kwargs": generation,
                "process_results": _correct,
                "metric_list": [
                    {"metric": METRIC, "aggregation": "mean", "higher_is_better": True}
                ],
                "num_fewshot": 0,
                "metadata": {"version": 1},
            }
        )
    return EvalTask(
        NEWEST_GENERATED, task, TaskConfig(task=NEWEST_GENERATED, metric=METRIC), False, None
    )


def _correct(doc: dict[str, Any], results: Sequence[str]) -> dict[str, float]:
    return {METRIC: float(is_correct(Check(doc["kind"], doc["answer"]), results[0]))}


def _end_of_turn(rendered: str, content: str) -> str:
    """What the template writes after a message: the models stop there, whatever their eos is."""
    text = content.strip()
    return rendered[rendered.rfind(text) + len(text) :].strip() if text in rendered else ""


# ---------------------------------------------------------------- open requests

_THING = r"(?:an?|some|another|the|\d+|two|three|four|five|several)\b"
_OPEN = re.compile(
    r"\b(?:random(?:ly)?|hypothetical|fictional|fictitious|imaginary|made[- ]up|creative(?:ly)?"
    r"|come up with|make up|brainstorm|your own|example of|any (?:number|word|color|colour|name)"
    rf"|(?:generate|create|suggest|invent|compose|design|write|imagine|propose|give me) {_THING}"
    r"|(?:think of|name|list|give) (?:an?|some|one|two|three|four|five|\d+)\b)"
    # The same in Chinese: at random, make, write, build, imagine, list, for example.
    r"|随机|生成|创建|创作|构建|编写|编造|写一|想象|列出|列举|举例|给出一",
    re.IGNORECASE,
)


def _words_of(message: dict[str, Any]) -> str:
    content = message.get("content")
    return content if isinstance(content, str) else json.dumps(content)


# ---------------------------------------------------------------- numbers

_NUMBER = r"(?<![\w.)])[-−]?\s?[$€£]?\s?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?![\d,]*\d)"
_UNIT = r"\s*(?:%|°[CF]?|[A-Za-z]+)?"
_MARKED = re.compile(rf"####\s*(?P<number>{_NUMBER})\s*(?:%|\n|$)")
_BOXED = re.compile(rf"\\boxed\{{\s*\\?(?P<number>{_NUMBER})\s*\\?%?\s*\}}")
_STATED = re.compile(
    rf"\b(?:answer|result|solution)\b[^.\n=]{{0,60}}?(?:\bis|\bequals|:)\s*\**"
    rf"(?P<number>{_NUMBER}){_UNIT}\**\s*[.!]?\s*$",
    re.IGNORECASE,
)
_ALONE = re.compile(rf"^\s*(?P<number>{_NUMBER})\s*(?:%|°[CF]?)?\s*[.!]?\s*$")
_OPERATOR = r"(?:[-+*/×÷]|(?<=\s)x(?=\s)|(?<=\d)x(?=\d))"
_TERMS = rf"(?:[\d\s.,()$€£%]|{_OPERATOR})*"
_CALCULATED = re.compile(
    rf"[\d)%]\s*{_OPERATOR}\s*{_TERMS}(?<=[\d\s)%])=\s*(?P<number>{_NUMBER})(?P<rest>[^\d=\n]*)$"
)
_ANY_NUMBER = re.compile(_NUMBER)
_EXPLICIT = (_MARKED, _BOXED, _STATED, _ALONE)


def _number_answer(response: str) -> str | None:
    text = response.strip()
    for form in _EXPLICIT:
        found = list(form.finditer(text))
        if found:
            # Only what ends the response is its result.
            return _decimal(found[-1]["number"]) if _ends(text, found[-1]) else None
    calculated = _CALCULATED.search(text.rsplit("\n", 1)[-1])
    if calculated is None or "```" in text or not _is_prose_end(calculated["rest"]):
        return None
    return _decimal(calculated["number"])


def _ends(text: str, found: re.Match[str]) -> bool:
    return re.fullmatch(r"[\s.$\\)\]*]*", text[found.end() :]) is not None


def _is_prose_end(rest: str) -> bool:
    """A unit or the end of a sentence, not code, a list or another claim."""
    return re.fullmatch(r"[\w\s'’%°,.!$-]*", rest) is not None and len(rest.split()) <= 20


def _last_number(output: str) -> str | None:
    """The number that an answer states as its result, else its last one."""
    for form in (*_EXPLICIT, _ANY_NUMBER):
        found = list(form.finditer(output.strip()))
        if found:
            last = found[-1]
            return _decimal(last["number"] if form is not _ANY_NUMBER else last.group())
    return None


def _decimal(text: str) -> str:
    """One text a value: `1,000.50` and `$1000.5` are the same."""
    value = Decimal(re.sub(r"[\s,$€£]", "", text).replace("−", "-"))
    return f"{value.normalize() + 0:f}"


# ---------------------------------------------------------------- JSON


def _json_answer(response: str, conversation: str) -> str | None:
    answer = _canonical_json(response)
    if answer is None:
        return None
    value = json.loads(response)
    words = [_normal(text) for text in _texts(value)]
    given = all(word in conversation for word in words if word)
    return answer if value and given else None


def _canonical_json(text: str) -> str | None:
    """One text a value; None: no object or array, or one with a key twice or without finite numbers."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in pairs}) < len(pairs):
            raise ValueError("a key twice")
        return dict(pairs)

    try:
        value = json.loads(
            text,
            object_pairs_hook=once,
            parse_int=_decimal_of,
            parse_float=_decimal_of,
            parse_constant=_decimal_of,
        )
        if not isinstance(value, (dict, list)):
            return None
        return json.dumps(value, sort_keys=True, default=lambda number: {"number": str(number)})
    # ArithmeticError: a number beyond what Decimal holds.
    except (ValueError, RecursionError, ArithmeticError):
        return None


def _decimal_of(text: str) -> Decimal:
    """3 and 3.0 are the same number. Raises ValueError for one that cannot be compared."""
    value = Decimal(text)
    if len(text) > 100 or not value.is_finite():
        raise ValueError("no number to compare")
    return value.normalize() + 0


def _without_fence(output: str) -> str:
    fence = re.fullmatch(r"\s*```(?:json)?[ \t]*\n(.*?)\n?[ \t]*```\s*", output, re.DOTALL)
    return fence[1] if fence else output


def _texts(value: Any) -> Iterator[str]:
    """Every key and every text in it."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield key
            yield from _texts(part)
    elif isinstance(value, list):
        for part in value:
            yield from _texts(part)
    elif isinstance(value, str):
        yield value


# ---------------------------------------------------------------- short texts

_OFFERS = re.compile(
    r"\b(?:or|whether|either|classify|categori[sz]e|options?|choices?|choose|select|which|detect"
    r"|determine|identify|label|evaluate)\b",
    re.IGNORECASE,
)
_CLOSED = {"yes", "no", "true", "false"}


def _text_answer(response: str, asked: str) -> str | None:
    text = response.strip()
    if "\n" in text or len(text) > MAX_CHARS or len(text.split()) > MAX_WORDS:
        return None
    answer = _normal(text)
    if not answer:
        return None
    offered = re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", _normal(asked)) is not None
    return answer if answer in _CLOSED or (offered and _OFFERS.search(asked)) else None


def _normal(text: str) -> str:
    """Without case, quotes, final punctuation and the number of spaces."""
    text = re.sub(r"[\"“”`*]", "", " ".join(text.casefold().split()))
    return text.strip(" .!?,;:'")
