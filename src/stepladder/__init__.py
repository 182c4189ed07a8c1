"""Stepladder: measure before you tune.

>>> import stepladder
>>> climb = stepladder.climb(stepladder.Task.load("support-tickets"))  # doctest: +SKIP
>>> climb.verdict.sentence  # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stepladder.data.bundled import copy_bundled as copy_bundled
    from stepladder.data.readers import read_file as read_file
    from stepladder.data.write import write_examples as write_examples
    from stepladder.domain.task import Task as Task
    from stepladder.service.check import Checked as Checked
    from stepladder.service.check import check as check
    from stepladder.service.climb import Climb as Climb
    from stepladder.service.climb import climb as climb
    from stepladder.service.init import init_task as init_task
    from stepladder.service.open_run import load_climb as load_climb
    from stepladder.service.planning import plan as plan
    from stepladder.service.predict import predict as predict
    from stepladder.service.score import Scored as Scored
    from stepladder.service.score import score as score
    from stepladder.service.setup import Watcher as Watcher
    from stepladder.service.tune import FineTune as FineTune
    from stepladder.service.tune import tune as tune

__version__ = "0.1.0"
__all__ = [
    "Checked",
    "Climb",
    "FineTune",
    "Scored",
    "Task",
    "Watcher",
    "__version__",
    "check",
    "climb",
    "copy_bundled",
    "init_task",
    "load_climb",
    "plan",
    "predict",
    "read_file",
    "score",
    "tune",
    "write_examples",
]

_HOMES = {
    "Task": "stepladder.domain.task",
    "Checked": "stepladder.service.check",
    "check": "stepladder.service.check",
    "Climb": "stepladder.service.climb",
    "climb": "stepladder.service.climb",
    "load_climb": "stepladder.service.open_run",
    "plan": "stepladder.service.planning",
    "predict": "stepladder.service.predict",
    "Watcher": "stepladder.service.setup",
    "copy_bundled": "stepladder.data.bundled",
    "init_task": "stepladder.service.init",
    "read_file": "stepladder.data.readers",
    "write_examples": "stepladder.data.write",
    "Scored": "stepladder.service.score",
    "score": "stepladder.service.score",
    "FineTune": "stepladder.service.tune",
    "tune": "stepladder.service.tune",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that `import stepladder` and `stepladder --help` stay quick."""
    if name not in _HOMES:
        raise AttributeError(f"module 'stepladder' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
