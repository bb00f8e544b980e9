"""What is wrong with a config, in words: the dotted path, what was expected, the nearest valid key."""

import difflib
import re
from collections.abc import Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError


def first_problem(error: ValidationError) -> str:
    """Place and message of the first of pydantic's problems, for records that people do not write."""
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc'])) or 'file'}: {first['msg']}"


def explain(model: type[BaseModel], data: dict[str, Any], problem: Any) -> str:
    """One line for one of pydantic's problems with `data`, read from a file for `model`."""
    place = [part for part in problem["loc"] if part in _path_parts(data, problem["loc"])]
    dotted = ".".join(str(part) for part in place)
    if problem["type"] == "extra_forbidden":
        section = _model_at(model, place[:-1])
        names = list(section.model_fields) if section else []
        return (
            f"{dotted}: no such key{nearest(str(place[-1]), names)}. Keys here: {', '.join(names)}"
        )
    if problem["type"] == "missing":
        return f"{dotted}: missing, but required"
    given = problem["input"]
    found = repr(given) if isinstance(given, (str, int, float, bool)) else kind(given)
    # Of a URL, not the user and the password.
    found = re.sub(r"(?<=://)[^/\s]*@", "...@", found)
    return f"{dotted}: {problem['msg'].removeprefix('Value error, ')}; found {found}"


def _path_parts(data: Any, loc: tuple[Any, ...]) -> list[Any]:
    """The parts of a pydantic location that the file has too: unions add labels of their own."""
    parts: list[Any] = []
    for index, part in enumerate(loc):
        if isinstance(data, dict) and (part in data or index == len(loc) - 1):
            parts.append(part)
            data = data.get(part)
        elif isinstance(data, list) and isinstance(part, int):
            parts.append(part)
            data = data[part] if part < len(data) else None
    return parts


def _model_at(model: type[BaseModel], place: Sequence[Any]) -> type[BaseModel] | None:
    for part in place:
        if isinstance(part, int):
            continue
        field = model.model_fields.get(part)
        kinds = [field.annotation, *get_args(field.annotation)] if field else []
        models = [k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)]
        if not models:
            return None
        model = models[0]
    return model


def nearest(word: str, words: Sequence[str]) -> str:
    """ " (did you mean ...?)" if one of the words is close, else nothing."""
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


def kind(value: Any) -> str:
    kinds = {dict: "a mapping", list: "a list", str: "text", type(None): "nothing"}
    return kinds.get(type(value), type(value).__name__)
