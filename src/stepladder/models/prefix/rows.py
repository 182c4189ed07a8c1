"""Token rows, what they share, and how they are grouped into passes. Plain Python: nothing here needs torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

LOGITS_AT_ONCE = 128 * 49_152
"""Entries of one piece of the head's output: 25 MB in fp32."""
KEPT_WEIGHTS_BYTES = 2**29
"""Softmax weights that a pass may keep for its backward pass, over all layers; more are computed again, layer by layer."""
ENTERED_SHARE = 1 / 4
"""Of what a token's backward pass needs, what stays where its layers are computed twice: what enters them, keys and values."""


@dataclass(frozen=True, slots=True)
class EncodedRow:
    """A row as token ids, and how much each token counts as a label.

    `weights[t]` is the weight of token t's negative log-likelihood given the tokens before it; 0 = not learned. A row's
    first token has nothing before it, so its weight must be 0. `excluded` are the places of answers that are not to be
    learned, whatever a prompt's token counts.
    """

    id: str
    token_ids: tuple[int, ...]
    weights: tuple[float, ...]
    excluded: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if len(self.token_ids) != len(self.weights):
            raise ValueError(f"row {self.id}: {len(self.token_ids)} tokens but {len(self.weights)} weights")
        if self.weights and self.weights[0] != 0:
            raise ValueError(f"row {self.id}: its first token has no token before it and cannot be learned")
        if any(self.weights[place] for place in self.excluded):
            raise ValueError(f"row {self.id}: a token of an excluded answer is learned")

    def with_prompt_weight(self, weight: float) -> EncodedRow:
        """The row with `weight` on every token that is not learned, but for the first and those of excluded answers."""
        if not weight:
            return self
        never = {0, *self.excluded}
        weights = tuple(own or (0.0 if place in never else weight) for place, own in enumerate(self.weights))
        return replace(self, weights=weights)

    def __len__(self) -> int:
        return len(self.token_ids)

    @property
    def labelled(self) -> tuple[int, ...]:
        """Places of the learned tokens."""
        return tuple(place for place, weight in enumerate(self.weights) if weight > 0)

    @property
    def weight(self) -> float:
        """Sum of the weights: what this row contributes to the denominator of the loss."""
        return sum(self.weights)


def common_prefix_length(rows: Sequence[EncodedRow]) -> int:
    """How many leading tokens all rows share and may compute once; 0 for fewer than two rows.

    Compared on token ids, never on text (a merge may cross the border of equal texts). The prefix ends two tokens before
    the first learned token of any row at the latest: the token that predicts a label is then always a row's own, so
    every position has one label at most and the last shared one needs no copy for each row. A row without labels keeps
    its last token for itself.
    """
    if len(rows) < 2:
        return 0
    first, last = min(row.token_ids for row in rows), max(row.token_ids for row in rows)
    shared = 0  # what the smallest and the greatest of sorted sequences share, all between them share too
    for left, right in zip(first, last, strict=False):
        if left != right:
            break
        shared += 1
    own_from = min((row.labelled[0] if row.labelled else len(row)) - 1 for row in rows)
    return max(0, min(shared, own_from))


def group_by_length(lengths: Sequence[int], tokens_per_pass: int, *, alike: bool = False) -> list[list[int]]:
    """Row numbers in groups of similar length, the longest first; `rows × longest` of a group stays in the budget.

    A row longer than the budget is a group of its own. Ties keep their order, so equal input gives equal groups.

    Args:
        alike: Only rows of one length share a group, so that nothing is padded.
    """
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):  # longest first: memory is short at once or never
        longest = lengths[groups[-1][0]] if groups else 0
        if groups and (len(groups[-1]) + 1) * longest <= tokens_per_pass and not (alike and lengths[index] < longest):
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups
