"""Which training examples a prompt shows, and how many fit."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from stepladder.domain.errors import RunError
from stepladder.domain.messages import Example, Input
from stepladder.domain.protocols import FitContext, Prompt
from stepladder.techniques.asking import Asked
from stepladder.techniques.forms import Form, reference_text

SHARE_OF_CONTEXT = 0.6  # of the model's context that a prompt with demonstrations may fill

Cluster = int | str


def cluster_of(context: FitContext, id: str) -> Cluster:
    """The near-duplicate cluster of an example; an example without one is its own."""
    return context.clusters.get(id, id)


def own_clusters(context: FitContext, inputs: Sequence[Input]) -> list[Cluster | None]:
    """For every input the cluster whose training examples must not help to answer it.

    None for a new input that merely bears the id of a training example.
    """
    known = {example.id: example.input.messages for example in context.train}
    return [None if known.get(input.id, input.messages) != input.messages else cluster_of(context, input.id) for input in inputs]


def one_per_cluster(context: FitContext, examples: Sequence[Example]) -> list[Example]:
    """The first example of every cluster: near-duplicates teach a prompt nothing new."""
    firsts: dict[Cluster, Example] = {}
    for example in examples:
        firsts.setdefault(cluster_of(context, example.id), example)
    return list(firsts.values())


def representatives(context: FitContext, count: int) -> list[Example]:
    """Up to `count` training examples that stand for the rest, best first; balanced over labels where there are labels.

    Every prefix of the list is itself the choice for that many, and what follows is the reserve.
    """
    pool = one_per_cluster(context, context.train)
    groups = _by_label(context, pool)
    ordered = [_spread(context, group, count) for group in groups]
    turns = [group[turn] for turn in range(count) for group in ordered if turn < len(group)]
    return turns[:count]


def spread(vectors: NDArray[np.float32], count: int) -> list[int]:
    """Indices of `count` rows that together lie close to all rows, greedily: each lowers the total distance most.

    Args:
        vectors: Unit vectors, shape (rows, dimensions).
    Source:
        The BUILD step of k-medoids: Kaufman & Rousseeuw (1987), Clustering by means of medoids.
    """
    if not len(vectors):
        return []
    similarity = (vectors @ vectors.T).astype(np.float64)
    nearest = np.full(len(vectors), -1.0)
    chosen: list[int] = []
    for _ in range(min(count, len(vectors))):
        gain = np.maximum(similarity - nearest[:, None], 0.0).sum(axis=0).round(9)  # rounded: ties fall to the first row
        gain[chosen] = -1.0
        chosen.append(int(gain.argmax()))
        nearest = np.maximum(nearest, similarity[:, chosen[-1]])
    return chosen


def by_id(context: FitContext, ids: Sequence[str]) -> list[Example]:
    """Training examples by id, in the order asked.

    Raises:
        RunError: A recipe names an example that the training split no longer holds.
    """
    known = {example.id: example for example in context.train}
    missing = next((id for id in ids if id not in known), None)
    if missing is not None:
        raise RunError(
            f"the recipe shows the example '{missing}', which is not among the training rows.",
            "Use the data the run was made with, or climb again.",
        )
    return [known[id] for id in ids]


def fit_into_context(
    context: FitContext,
    inputs: Sequence[Input],
    items: Sequence[Sequence[object]],
    build: Callable[[Input, Sequence[object]], Prompt],
    *,
    drop_first: bool,
) -> list[tuple[Prompt, int]]:
    """Prompts that fill at most 60 % of the context, and how many of its items each one lost.

    An item is dropped from the front (`drop_first`) or the back. A prompt too long without any items stays as it is: the
    engine refuses it by name.
    """
    kept = [list(some) for some in items]
    prompts = [build(input, some) for input, some in zip(inputs, kept, strict=True)]
    limit = _token_limit(context)
    pending = [index for index, some in enumerate(kept) if some] if limit else []
    while pending:
        counts = context.engine.count_tokens([prompts[index] for index in pending])
        pending = [index for index, count in zip(pending, counts, strict=True) if count > limit and kept[index]]
        for index in pending:
            del kept[index][0 if drop_first else -1]
            prompts[index] = build(inputs[index], kept[index])
    dropped = [len(before) - len(after) for before, after in zip(items, kept, strict=True)]
    return list(zip(prompts, dropped, strict=True))


def ask_with_shots(context: FitContext, form: Form, inputs: Sequence[Input], shots: Sequence[Sequence[Example]]) -> list[Asked]:
    """One prompt an input with its own demonstrations in the order given; the first ones go when they do not fit."""

    def build(input: Input, some: Sequence[object]) -> Prompt:
        return form.render(context.task, input, demonstrations=[one for one in some if isinstance(one, Example)])

    fitted = fit_into_context(context, inputs, shots, build, drop_first=True)
    return [Asked(prompt, dropped=dropped) for prompt, dropped in fitted]


def possible_shots(context: FitContext) -> list[int]:
    """The numbers of demonstrations worth trying: those the training rows can fill, or all there are."""
    available = len(one_per_cluster(context, context.train)) - 1  # one more stays in reserve
    return sorted({min(count, available) for count in context.choices.shots if min(count, available) > 0})


def reason_no_shots(context: FitContext) -> str | None:
    """Why no demonstrations can be shown, in a sentence; None when they can."""
    if not possible_shots(context):
        return "Demonstrations need at least two training examples that are not near-duplicates of each other."
    return None


def _token_limit(context: FitContext) -> int:
    """Tokens a prompt may have; 0 = unknown."""
    size = context.engine.identity.context_tokens
    if not size or "count" not in context.engine.can:
        return 0
    return max(1, min(int(SHARE_OF_CONTEXT * size), size - context.max_new_tokens))


def _by_label(context: FitContext, pool: Sequence[Example]) -> list[list[Example]]:
    """Examples grouped by label, the commonest label first; one group where there are no labels."""
    if not context.task.settings.output.labels:
        return [list(pool)]
    groups: dict[str, list[Example]] = defaultdict(list)
    for example in pool:
        groups[reference_text(context.task, example)].append(example)
    return sorted(groups.values(), key=lambda group: -len(group))


def _spread(context: FitContext, group: Sequence[Example], count: int) -> list[Example]:
    vectors = context.embedder.embed([example.input.text for example in group])
    return [group[index] for index in spread(vectors, count)]
