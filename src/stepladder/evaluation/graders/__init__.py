"""What an answer is worth: one grader a file, one promise for all."""

from stepladder.evaluation.graders.base import Grader, cannot_judge, metrics, prepare
from stepladder.evaluation.graders.build import GraderTools, build_grader, build_graders
from stepladder.evaluation.graders.openai import from_openai, run_openai, validate_openai
from stepladder.evaluation.graders.reward import GraderRefused

__all__ = [
    "Grader",
    "GraderRefused",
    "GraderTools",
    "build_grader",
    "build_graders",
    "cannot_judge",
    "from_openai",
    "metrics",
    "prepare",
    "run_openai",
    "validate_openai",
]
