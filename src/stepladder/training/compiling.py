"""Whether a training is long enough for its passes to be compiled first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from stepladder.models.prefix.paths import FusedPath, NotCompiled, Path
from stepladder.models.prefix.rows import EncodedRow
from stepladder.models.prefix.trie import build_trie
from stepladder.training.presets import TrainSettings

WORTH_FLOP = 2e14
"""Minutes on two cores. Compiling takes half a minute the first time."""


def compile_where_it_pays(
    path: Path, model: Any, rows: Sequence[EncodedRow], settings: TrainSettings, note: Callable[[str], None], *, together: int = 1
) -> None:
    """Compile a long training's passes. That depends on its rows and settings alone, so that two runs of it are alike.

    Args:
        together: Rows of a group; see `train`.
    """
    if not isinstance(path, FusedPath) or not path.may_compile:
        return
    if training_flop(model, rows, settings, together=together) < WORTH_FLOP:
        return
    try:
        path.compile()
    except NotCompiled as error:
        note(f"Training runs without compiled code, a little slower: {error}.")


def training_flop(model: Any, rows: Sequence[EncodedRow], settings: TrainSettings, *, together: int = 1) -> float:
    """Of all steps, about: 4 for each weight and token, of the tokens that a first step computes (shared ones once)."""
    groups = len(rows) // together
    _, batch = next(settings.batches(groups))
    chosen = [row for index in batch for row in rows[index * together : (index + 1) * together]]
    tokens = sum(len(node.token_ids) for node in build_trie(chosen))
    weights: int = model.num_parameters(exclude_embeddings=True)
    return 4.0 * weights * tokens * settings.steps(groups)
