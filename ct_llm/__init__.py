"""Continuous training for LLM adapters: notice new data, train a challenger, gate it, promote it.

The names of `__all__` are the public API. Each is imported when it is first used, so `import ct_llm`
costs nothing; torch is loaded only by what trains or evaluates.
"""

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ct_llm.api import (
        check_for_retraining_trigger,
        compare,
        evaluate,
        promote,
        rollback,
        validate_new_model,
    )
    from ct_llm.comparison import Comparison, Evaluation
    from ct_llm.config import CTConfig, load_config
    from ct_llm.pipeline import run_cycle
    from ct_llm.records import GateDecision

__version__ = "0.1.0"

__all__ = [
    "CTConfig",
    "Comparison",
    "Evaluation",
    "GateDecision",
    "check_for_retraining_trigger",
    "compare",
    "evaluate",
    "load_config",
    "promote",
    "rollback",
    "run_cycle",
    "validate_new_model",
]

_HOMES = {
    "CTConfig": "ct_llm.config",
    "Comparison": "ct_llm.comparison",
    "Evaluation": "ct_llm.comparison",
    "GateDecision": "ct_llm.records",
    "load_config": "ct_llm.config",
    "run_cycle": "ct_llm.pipeline",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'ct_llm' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES.get(name, "ct_llm.api")), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


class _CallableStep(ModuleType):
    """A step's folder that is also the public function of the same name (`ct_llm.evaluate(...)`)."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from ct_llm import api

        return getattr(api, self.__name__.removeprefix("ct_llm."))(*args, **kwargs)


class _Package(ModuleType):
    """Importing the folder `ct_llm.evaluate` binds it here and would hide the function of that name."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in __all__ and isinstance(value, ModuleType):
            value.__class__ = _CallableStep
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
