"""Ways through a model for a step's rows: written out for decoders that can be read, else with the stock modules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from stepladder.models.prefix.anatomy import NotRead, read_anatomy
from stepladder.models.prefix.compiled import NotCompiled, compiled_kernels, provided_for
from stepladder.models.prefix.forward import backward_loss, row_nll
from stepladder.models.prefix.fused import FusedStep, Sending, Work
from stepladder.models.prefix.head import Head
from stepladder.models.prefix.losses import MEAN, Loss, Tally
from stepladder.models.prefix.rows import EncodedRow
from stepladder.models.prefix.trie import Label, most_tokens


class Path(Protocol):
    """Losses of rows and their gradients. Every path gives the same numbers; they differ in time and memory."""

    @property
    def name(self) -> str: ...

    def backward_loss(self, rows: Sequence[EncodedRow], *, tokens_per_pass: int, loss: Loss = MEAN) -> float:
        """Add the gradient of `loss` over all `rows` to the adapter; return that loss.

        Args:
            loss: By default Σ weight · nll / Σ weight, in nats. With groups, the rows of each stand side by side.
        """
        ...

    def row_nll(self, rows: Sequence[EncodedRow], *, tokens_per_pass: int) -> list[float]:
        """Mean nats per learned token of every row, weighted, in the order given."""
        ...


class FusedPath:
    """Our own passes over the trie of the rows; see `fused`."""

    def __init__(self, model: Any, head: Head | None = None, *, room: int | None = None) -> None:
        """
        Args:
            head: Instead of the one that trains.
            room: Tokens whose layers are computed once only; see `FusedStep`.
        Raises:
            NotRead: The decoder is of no class whose arithmetic is known.
        """
        self._step = FusedStep(read_anatomy(model), head, room=room)

    @property
    def name(self) -> str:
        return " ".join(filter(None, ("fused", self._step.kernels.name)))

    @property
    def may_compile(self) -> bool:
        """Whether `compile` is for this model, number format and device."""
        return provided_for(self._step.anatomy)

    def compile(self) -> None:
        """From now on, what stands between the products is compiled code, which rounds less often.

        Raises:
            NotCompiled: That cannot be had here; everything stays as it was.
        """
        self._step.kernels = compiled_kernels(self._step.anatomy)

    def lacks_room(self, rows: Sequence[EncodedRow], *, tokens_per_pass: int, together: int = 1) -> bool:
        """Whether some layers are computed twice in a step over `rows`."""
        room, work = self._step.room, Work.of(rows, tokens_per_pass=tokens_per_pass, together=together)
        return room is not None and any(most_tokens(work.trie, step) > room for step in work.steps)

    def backward_loss(self, rows: Sequence[EncodedRow], *, tokens_per_pass: int, loss: Loss = MEAN) -> float:
        work = Work.of(rows, tokens_per_pass=tokens_per_pass, together=loss.together)
        tally = Tally(rows, loss)

        def numbers(labels: Sequence[Label]) -> list[int]:
            return [tally.places[label.row, work.trie[label.node].start + label.place + 1] for label in labels]

        def coefficients(labels: Sequence[Label]) -> list[float]:
            return list(tally.coefficients()[numbers(labels)].tolist())

        for labels, nll in self._step.backward(work, Sending(coefficients, not loss.linear, loss.smoothing)):
            tally.put(numbers(labels), nll)
        return tally.value

    def row_nll(self, rows: Sequence[EncodedRow], *, tokens_per_pass: int) -> list[float]:
        sums = [0.0] * len(rows)
        for labels, nll in self._step.losses(Work.of(rows, tokens_per_pass=tokens_per_pass)):
            for label, nats in zip(labels, nll.tolist(), strict=True):
                sums[label.row] += label.weight * nats
        return [total / row.weight for total, row in zip(sums, rows, strict=True)]


class StockPath:
    """The model's own modules: rows continue from one common prefix (`share`), or each is computed whole."""

    def __init__(self, model: Any, *, share: bool) -> None:
        self._model, self._share = model, share

    @property
    def name(self) -> str:
        return "stock, shared prefix" if self._share else "stock"

    def backward_loss(self, rows: Sequence[EncodedRow], *, tokens_per_pass: int, loss: Loss = MEAN) -> float:
        return backward_loss(self._model, rows, share=self._share, tokens_per_pass=tokens_per_pass, loss=loss)

    def row_nll(self, rows: Sequence[EncodedRow], *, tokens_per_pass: int) -> list[float]:
        return row_nll(self._model, rows, share=self._share, tokens_per_pass=tokens_per_pass)


__all__ = ["FusedPath", "NotCompiled", "NotRead", "Path", "StockPath"]
