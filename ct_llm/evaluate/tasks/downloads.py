"""What lm-eval's tasks fetch at run time beside their dataset: metrics that are code, and NLTK data.

`evaluate.load(name)` runs a script of that name in the current folder if there is one, and else
fetches code from the Hub and runs it; `nltk.download` fetches archives. An evaluation does neither:
its result would hang on what lies about, or on a network. While a task is loaded or graded, both say
so instead. Their modules are not imported for that (7 seconds): they are changed once a task imports
them, and behave as always for everybody else.
"""

import functools
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from ct_llm.errors import CtError, InputError, SecurityError


@contextmanager
def no_downloads() -> Iterator[list[CtError]]:
    """Yields what was refused inside, for lm-eval swallows some exceptions and goes on without."""
    for name in _INSTEAD:
        if name in sys.modules:
            _guard(sys.modules[name])
    _refused.append([])
    sys.meta_path.insert(0, _FINDER)
    try:
        yield _refused[-1]
    finally:
        sys.meta_path.remove(_FINDER)
        _refused.pop()


_refused: list[list[CtError]] = []
"""One list for each `no_downloads` that we are inside of."""


class _ExactMatch:
    """lm-eval's copy of the metric of that name, with the interface of `evaluate`'s modules."""

    name = "exact_match"

    def compute(self, **given: Any) -> dict[str, Any]:
        from lm_eval.api.metrics import exact_match_hf_evaluate

        return exact_match_hf_evaluate(**given)


def _load_metric(path: str, *_: Any, **__: Any) -> Any:
    if path == "exact_match":
        return _ExactMatch()
    if path == "code_eval":
        raise SecurityError(
            "metric code_eval runs generated code on this machine, unprotected. Grade with "
            "ct_llm.evaluate.sandbox.run_checks, as the shipped coding suite does."
        )
    raise InputError(
        f"metric {path!r} is code that `evaluate` would take from the current folder or from the Hub; "
        "an evaluation runs neither. Use a metric that lm-eval has itself, or compute it in the "
        "task's process_results."
    )


def _download_data(info_or_id: Any = None, *_: Any, **__: Any) -> Any:
    raise InputError(
        f"NLTK data {info_or_id or ''} is missing, and an evaluation downloads none. Fetch it first: "
        f"python -m nltk.downloader {info_or_id or 'all'}"
    )


_INSTEAD: dict[str, tuple[str, Callable[..., Any]]] = {
    "evaluate": ("load", _load_metric),
    "nltk": ("download", _download_data),
}


def _guard(module: ModuleType) -> None:
    attribute, instead = _INSTEAD[module.__name__]
    original = getattr(module, attribute, None)
    if original is None or getattr(original, "is_guarded", False):
        return

    @functools.wraps(original)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        if not _refused:
            return original(*args, **kwargs)
        try:
            return instead(*args, **kwargs)
        except CtError as error:
            _refused[-1].append(error)
            raise

    guarded.__dict__["is_guarded"] = True
    setattr(module, attribute, guarded)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds nothing itself: it looks in on the import of the guarded modules."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in _INSTEAD:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            loader: Any = spec.loader
            run = loader.exec_module

            def exec_module(module: ModuleType) -> None:
                run(module)
                _guard(module)

            loader.exec_module = exec_module
        return spec


_FINDER = _Finder()
