"""A training step, or the losses of given answers, over the trie of its rows: every shared stretch is computed once.

Passes go depth first. A node too large to share a pass with all that is below it is kept: its keys and values serve every
pass below, which leave their gradients at them, and the node's own backward pass comes last (exact, because a backward pass
is linear in what it is given). Memory holds one pass and the kept nodes above it, however many rows there are. Where that is too
much, a pass holds what enters each layer, and its backward pass computes the layers again, one by one (gradient checkpointing,
Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost"): the same numbers to the last bit, a forward pass more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stepladder.models.prefix.anatomy import Anatomy
from stepladder.models.prefix.attention import Past, lay_out, weights_fit
from stepladder.models.prefix.head import Head
from stepladder.models.prefix.kernels import PLAIN, Kernels
from stepladder.models.prefix.layer import Stream, Tape, layer_backward, layer_forward
from stepladder.models.prefix.lowrank import stack_adapters
from stepladder.models.prefix.rows import ENTERED_SHARE, EncodedRow
from stepladder.models.prefix.trie import Kept, Label, Node, Pass, build_trie, cut_into_passes, label_places, most_tokens

Coefficients = Callable[[Sequence[Label]], Sequence[float]]
"""How much each label's negative log-likelihood counts in the loss: d loss / d nll."""


@dataclass(frozen=True, slots=True)
class Sending:
    """How losses are sent back.

    `late`: a pass's coefficients are asked for only when its labels, and those of everything below it, have been yielded:
    they may then depend on them, and the head goes forward twice. `smoothing`: of the labels; see `Head.nll`.
    """

    coefficients: Coefficients
    late: bool = False
    smoothing: float = 0.0


@dataclass(frozen=True, slots=True)
class Work:
    """The rows of one step as a trie, its passes, and the labels by node."""

    trie: tuple[Node, ...]
    steps: tuple[Pass | Kept, ...]
    labels: dict[int, list[Label]]

    @classmethod
    def of(cls, rows: Sequence[EncodedRow], *, tokens_per_pass: int, together: int = 1, **options: Any) -> Work:
        """Args: together: Rows of a group, which stay in one pass; see `cut_into_passes`."""
        trie = build_trie(rows, **options)
        labels: dict[int, list[Label]] = {}
        for label in label_places(rows, trie):
            labels.setdefault(label.node, []).append(label)
        return cls(trie, cut_into_passes(trie, tokens_per_pass, together=together), labels)

    @property
    def computed_tokens(self) -> int:
        return sum(len(node.token_ids) for node in self.trie)


@dataclass(frozen=True, slots=True)
class Run:
    """One pass that has gone forward: what its labels, those below it and its backward pass need.

    Attributes:
        kept: Rotated keys and values by layer.
        entered: What entered each layer, where the layers are computed again; their tapes are None then.
    """

    stream: Stream
    past: Sequence[Past | None]  # by layer
    states: Tensor  # (tokens, hidden), before the final norm
    kept: list[tuple[Tensor, Tensor]]
    tapes: list[Tape | None]
    entered: list[Tensor]
    labels: list[Label]
    places: Tensor  # of the labels in the stream


class FusedStep:
    """Runs steps over a decoder that could be read.

    Args:
        anatomy: Of a model in evaluation mode; its adapter is trained, everything else stays.
        head: What makes losses of states; the model's own by default.
        kernels: What computes between the products.
        room: Tokens for which a pass and the kept nodes above it hold all that their backward pass needs; None = any number.
            The layers of those beyond are computed twice.
    """

    def __init__(self, anatomy: Anatomy, head: Head | None = None, kernels: Kernels = PLAIN, *, room: int | None = None) -> None:
        self.anatomy = anatomy
        self.kernels = kernels
        self.room = room
        self.device = anatomy.model.device
        self.head = head or Head(anatomy.model)
        self._loras = tuple(stack_adapters(layer) for layer in anatomy.layers)

    @torch.no_grad()  # on a generator it holds while the generator runs, and not for whoever is handed a result
    def backward(self, work: Work, sending: Sending) -> Iterator[tuple[list[Label], Tensor]]:
        """Add the gradient of Σ coefficient · nll to the adapter, yielding each pass's labels with their nll in nats."""
        self._refresh()
        yield from self._walk(work, work.steps, [None] * len(self.anatomy.layers), sending, self.room)

    @torch.no_grad()
    def losses(self, work: Work) -> Iterator[tuple[list[Label], Tensor]]:
        """Each pass's labels with their negative log-likelihoods in nats; no gradients, and hardly any memory."""
        self._refresh()
        yield from self._walk(work, work.steps, [None] * len(self.anatomy.layers), None, None)

    def _refresh(self) -> None:
        for loras in self._loras:
            for stacked in loras.values():
                stacked.refresh(self.anatomy.dtype)

    def _walk(
        self,
        work: Work,
        steps: Sequence[Pass | Kept],
        past: Sequence[Past | None],
        sending: Sending | None,
        room: int | None,
    ) -> Iterator[tuple[list[Label], Tensor]]:
        trained = sending is not None
        late = sending is not None and sending.late
        for step in steps:
            nodes = (step.node,) if isinstance(step, Kept) else step.nodes
            fits = room is None or most_tokens(work.trie, step) <= room
            run = self._forward(work, nodes, past, keep=trained and fits, again=trained and not fits)
            nll, gradient = self._head(run, sending, back=trained and not late)
            yield run.labels, nll
            passed_on = None
            if isinstance(step, Kept):
                below = [_longer(layer_past, kept, trained) for layer_past, kept in zip(past, run.kept, strict=True)]
                held = len(work.trie[step.node].token_ids) * (1 if fits else ENTERED_SHARE)
                left = None if room is None else max(0, int(room - held))
                yield from self._walk(work, step.below, below, sending, left)
                if trained:
                    passed_on = [_hand_back(outer, inner) for outer, inner in zip(past, below, strict=True)]
            run.kept.clear()
            if late:
                _, gradient = self._head(run, sending, back=True)
            if gradient is not None:
                self._backward(run, gradient, passed_on)

    def _forward(self, work: Work, nodes: Sequence[int], past: Sequence[Past | None], *, keep: bool, again: bool) -> Run:
        """Args: keep: What the backward pass needs. again: Only what enters each layer."""
        anatomy = self.anatomy
        segments = lay_out(work.trie, nodes)
        token_ids = torch.tensor([token for number in nodes for token in work.trie[number].token_ids], device=self.device)
        positions = torch.cat([torch.arange(one.start, one.start + one.stop - one.first, device=self.device) for one in segments])
        rotations = {
            kind: (_half(cosines, anatomy.dtype), _half(sines, anatomy.dtype))
            for kind, (cosines, sines) in anatomy.rotations(positions).items()
        }
        keep_weights = weights_fit(
            segments, heads=anatomy.heads, layers=len(anatomy.layers), bytes_per_number=anatomy.dtype.itemsize
        )
        stream = Stream(segments, keep_weights, rotations, self.kernels)
        states = anatomy.embed(token_ids)
        kept: list[tuple[Tensor, Tensor]] = []
        tapes: list[Tape | None] = []
        entered: list[Tensor] = []
        for layer, loras, layer_past in zip(anatomy.layers, self._loras, past, strict=True):
            if again:
                entered.append(states)
            states, seen, tape = layer_forward(anatomy, layer, loras, states, stream, layer_past, keep=keep)
            kept.append(seen)
            tapes.append(tape)
        first = dict(zip(nodes, (segment.first for segment in segments), strict=True))
        labels = [label for number in nodes for label in work.labels.get(number, ())]
        places = torch.tensor([first[label.node] + label.place for label in labels], dtype=torch.long, device=self.device)
        return Run(stream, past, states, kept, tapes, entered, labels, places)

    def _head(self, run: Run, sending: Sending | None, *, back: bool) -> tuple[Tensor, Tensor | None]:
        """Nats of every label; with `back` also the gradient at the states before the final norm."""
        anatomy = self.anatomy
        entered = run.states[run.places]
        normed = self.kernels.norm_forward(anatomy.final_norm, entered)
        targets = torch.tensor([label.token_id for label in run.labels], dtype=torch.long, device=self.device)
        wanted = None
        if sending is not None and back:
            exact = torch.promote_types(anatomy.dtype, torch.float32)  # not every accelerator has fp64
            wanted = torch.tensor(list(sending.coefficients(run.labels)), dtype=exact, device=self.device)
        smoothing = 0.0 if sending is None else sending.smoothing
        nll, gradient = self.head.nll(normed, targets, wanted, smoothing=smoothing)
        if gradient is None:
            return nll, None
        at_states = torch.zeros_like(run.states)
        at_states.index_add_(0, run.places, self.kernels.norm_backward(anatomy.final_norm, gradient, entered))
        return nll, at_states

    def _backward(self, run: Run, gradient: Tensor, passed_on: Sequence[tuple[Tensor, Tensor]] | None) -> None:
        anatomy = self.anatomy
        for number in range(len(anatomy.layers) - 1, -1, -1):
            layer, loras, past = anatomy.layers[number], self._loras[number], run.past[number]
            tape, run.tapes[number] = run.tapes[number], None  # its memory is free for the layer below
            if run.entered:
                _, _, tape = layer_forward(anatomy, layer, loras, run.entered.pop(), run.stream, past, keep=True)
            assert tape is not None
            left = None if passed_on is None else passed_on[number]
            gradient = layer_backward(anatomy, layer, loras, tape, run.stream, past, gradient, left)


def _half(angles: Tensor, dtype: torch.dtype) -> Tensor:
    """Both halves of a rotary embedding turn by the same angles."""
    return angles[:, : angles.shape[1] // 2].to(dtype).contiguous()


def _longer(outer: Past | None, kept: tuple[Tensor, Tensor], trained: bool) -> Past:
    """The kept tokens before the passes below: those before the node, and its own."""
    keys, values = kept
    if outer is not None:
        keys, values = torch.cat([outer.keys, keys], dim=1), torch.cat([outer.values, values], dim=1)
    if not trained:
        return Past(keys, values)
    wide = torch.promote_types(keys.dtype, torch.float32)
    return Past(keys, values, torch.zeros_like(keys, dtype=wide), torch.zeros_like(values, dtype=wide))


def _hand_back(outer: Past | None, inner: Past) -> tuple[Tensor, Tensor]:
    """What the passes below left at the node's own keys and values; what lies before the node goes on to `outer`."""
    assert inner.keys_gradient is not None
    assert inner.values_gradient is not None
    before = 0
    if outer is not None and outer.keys_gradient is not None and outer.values_gradient is not None:
        before = outer.keys.shape[1]
        outer.keys_gradient.add_(inner.keys_gradient[:, :before])
        outer.values_gradient.add_(inner.values_gradient[:, :before])
    return inner.keys_gradient[:, before:], inner.values_gradient[:, before:]
