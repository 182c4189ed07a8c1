"""What an answer is worth: one grader a file, one promise for all."""

from stepladder.evaluation.graders.base import Grader, metrics
from stepladder.evaluation.graders.build import build_grader, build_graders

__all__ = ["Grader", "build_grader", "build_graders", "metrics"]
