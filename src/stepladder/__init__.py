"""Stepladder: measure before you tune.

>>> import stepladder
>>> climb = stepladder.climb(stepladder.Task.load("support-tickets"))  # doctest: +SKIP
>>> climb.verdict.sentence  # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stepladder.domain.task import Task as Task
    from stepladder.service.climb import Climb as Climb
    from stepladder.service.climb import climb as climb
    from stepladder.service.open_run import load_climb as load_climb
    from stepladder.service.predict import predict as predict
    from stepladder.service.tune import FineTune as FineTune
    from stepladder.service.tune import tune as tune

__version__ = "0.1.0"
__all__ = ["Climb", "FineTune", "Task", "__version__", "climb", "load_climb", "predict", "tune"]

_HOMES = {
    "Task": "stepladder.domain.task",
    "Climb": "stepladder.service.climb",
    "climb": "stepladder.service.climb",
    "load_climb": "stepladder.service.open_run",
    "predict": "stepladder.service.predict",
    "FineTune": "stepladder.service.tune",
    "tune": "stepladder.service.tune",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that `import stepladder` and `stepladder --help` stay quick."""
    if name not in _HOMES:
        raise AttributeError(f"module 'stepladder' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
