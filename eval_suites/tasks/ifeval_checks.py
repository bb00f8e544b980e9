"""IFEval's checks in plain Python: a prompt counts when all of its instructions were followed.

The rules are those of Google's instruction_following_eval ("strict", by prompt), with these
differences, all for the sake of running anywhere and always alike:

- prompts with an instruction that needs a language detector or NLTK are left out: the response's
  language, the number of sentences, the number of words in capitals;
- "in English, and in all capital letters" (or lower case) checks the case, not the language;
- keywords are taken literally, not as regular expressions;
- a "letter" that is none, such as "!", is counted; the original draws another one at random.
"""

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

Doc = dict[str, Any]
Arguments = dict[str, Any]
Check = Callable[[str, Arguments], bool]


def checkable(dataset: Any) -> Any:
    """The rows of a `datasets.Dataset` all of whose instructions have a check here."""
    rows = enumerate(dataset["instruction_id_list"])
    return dataset.select([index for index, names in rows if all(name in CHECKS for name in names)])


def grade(doc: Doc, results: Sequence[str]) -> dict[str, float]:
    return {"followed": float(follows_all(doc, results[0]))}


def follows_all(doc: Doc, response: str) -> bool:
    if not response.strip():
        return False
    for name, arguments in zip(doc["instruction_id_list"], doc["kwargs"], strict=True):
        # Parquet fills the arguments of other instructions with nulls.
        given = {key: value for key, value in arguments.items() if value is not None}
        if not CHECKS[name](response, given):
            return False
    return True


def _compare(count: int, relation: str, threshold: int) -> bool:
    return count < threshold if relation == "less than" else count >= threshold


def _has_keywords(text: str, a: Arguments) -> bool:
    return all(keyword.lower() in text.lower() for keyword in a["keywords"])


def _keyword_frequency(text: str, a: Arguments) -> bool:
    return _compare(text.lower().count(a["keyword"].lower()), a["relation"], a["frequency"])


def _has_no_forbidden_words(text: str, a: Arguments) -> bool:
    found = (re.search(rf"\b{re.escape(w)}\b", text, re.IGNORECASE) for w in a["forbidden_words"])
    return not any(found)


def _letter_frequency(text: str, a: Arguments) -> bool:
    return _compare(text.lower().count(a["letter"].lower()), a["let_relation"], a["let_frequency"])


def _num_words(text: str, a: Arguments) -> bool:
    return _compare(len(re.findall(r"\w+", text)), a["relation"], a["num_words"])


def _num_paragraphs(text: str, a: Arguments) -> bool:
    """Paragraphs are divided by ***."""
    paragraphs = [part.strip() for part in re.split(r"\s?\*\*\*\s?", text)]
    if not all(paragraphs[1:-1]):
        return False
    return sum(1 for part in paragraphs if part) == a["num_paragraphs"]


def _nth_paragraph_first_word(text: str, a: Arguments) -> bool:
    """Paragraphs are divided by an empty line."""
    paragraphs = text.split("\n\n")
    filled = sum(1 for part in paragraphs if part.strip())
    nth = a["nth_paragraph"]
    if filled != a["num_paragraphs"] or nth > filled or not paragraphs[nth - 1].strip():
        return False
    word = paragraphs[nth - 1].split()[0].lstrip("'").lstrip('"').lower()
    return re.split(r"[.,?!'\"]", word)[0] == a["first_word"].lower()


def _num_placeholders(text: str, a: Arguments) -> bool:
    return len(re.findall(r"\[.*?\]", text)) >= a["num_placeholders"]


def _postscript(text: str, a: Arguments) -> bool:
    marker: str = a["postscript_marker"]
    patterns = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}
    pattern: str = patterns.get(marker, re.escape(marker.lower()))
    return bool(re.search(pattern, text.lower()))


def _num_bullets(text: str, a: Arguments) -> bool:
    stars = re.findall(r"^\s*\*[^\*].*$", text, re.MULTILINE)
    dashes = re.findall(r"^\s*-.*$", text, re.MULTILINE)
    return len(stars) + len(dashes) == a["num_bullets"]


def _constrained_response(text: str, _: Arguments) -> bool:
    return any(f"My answer is {word}." in text for word in ("yes", "no", "maybe"))


def _num_highlights(text: str, a: Arguments) -> bool:
    single = [h for h in re.findall(r"\*[^\n\*]*\*", text) if h.strip("*").strip()]
    double = [h for h in re.findall(r"\*\*[^\n\*]*\*\*", text) if h[2:-2].strip()]
    return len(single) + len(double) >= a["num_highlights"]


def _num_sections(text: str, a: Arguments) -> bool:
    spliter = re.escape(a["section_spliter"].strip())
    return len(re.split(rf"\s?{spliter}\s?\d+\s?", text)) - 1 >= a["num_sections"]


def _json_format(text: str, _: Arguments) -> bool:
    text = re.sub(r"\A```(json|Json|JSON)?", "", text.strip()).removesuffix("```")
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _title(text: str, _: Arguments) -> bool:
    return any(t.lstrip("<").rstrip(">").strip() for t in re.findall(r"<<[^\n]+>>", text))


def _two_responses(text: str, _: Arguments) -> bool:
    parts = [part.strip() for part in text.split("******")]
    answers = [part for part in parts if part]
    return all(parts[1:-1]) and len(answers) == 2 and answers[0] != answers[1]


def _repeats_prompt(text: str, a: Arguments) -> bool:
    return text.strip().lower().startswith(a["prompt_to_repeat"].strip().lower())


def _ends_with(text: str, a: Arguments) -> bool:
    return text.strip().strip('"').lower().endswith(a["end_phrase"].strip().lower())


def _is_quotation(text: str, _: Arguments) -> bool:
    text = text.strip()
    return len(text) > 1 and text[0] == text[-1] == '"'


CHECKS: dict[str, Check] = {
    "keywords:existence": _has_keywords,
    "keywords:frequency": _keyword_frequency,
    "keywords:forbidden_words": _has_no_forbidden_words,
    "keywords:letter_frequency": _letter_frequency,
    "length_constraints:number_words": _num_words,
    "length_constraints:number_paragraphs": _num_paragraphs,
    "length_constraints:nth_paragraph_first_word": _nth_paragraph_first_word,
    "detectable_content:number_placeholders": _num_placeholders,
    "detectable_content:postscript": _postscript,
    "detectable_format:number_bullet_lists": _num_bullets,
    "detectable_format:constrained_response": _constrained_response,
    "detectable_format:number_highlighted_sections": _num_highlights,
    "detectable_format:multiple_sections": _num_sections,
    "detectable_format:json_format": _json_format,
    "detectable_format:title": _title,
    "combination:two_responses": _two_responses,
    "combination:repeat_prompt": _repeats_prompt,
    "startend:end_checker": _ends_with,
    "startend:quotation": _is_quotation,
    "change_case:english_capital": lambda text, _: text.isupper(),
    "change_case:english_lowercase": lambda text, _: text.islower(),
    "punctuation:no_comma": lambda text, _: "," not in text,
}
