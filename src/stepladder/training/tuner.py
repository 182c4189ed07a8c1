"""The domain's `Tuner` over a model in memory: conversations in, an adapter folder out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from stepladder.domain.protocols import UNWATCHED, Conversation, Preference, Progress, TrainWatch, Tuned
from stepladder.domain.task import DpoSettings, LoraSettings
from stepladder.models.conversation import encode_conversation
from stepladder.models.loading import LoadedModel
from stepladder.models.prefix.rows import EncodedRow
from stepladder.training.finetune import Base, tune_rows
from stepladder.training.follow import SAVE_EVERY_SECONDS
from stepladder.training.preferring import tune_pairs
from stepladder.training.search import tune_searching


class LoraTuner:
    """Trains LoRA on a loaded model, which is exactly as before when the training ends."""

    def __init__(self, loaded: LoadedModel, *, save_every_seconds: float = SAVE_EVERY_SECONDS) -> None:
        self._loaded = loaded
        self._save_every_seconds = save_every_seconds

    def tune(
        self,
        rows: Sequence[Conversation],
        held_out: Sequence[Conversation],
        settings: LoraSettings,
        *,
        folder: Path,
        seed: int,
        progress: Progress,
        watch: TrainWatch = UNWATCHED,
        start: Path | None = None,
    ) -> Tuned:
        """Train on `rows`, stop by `held_out`, leave a PEFT folder at `folder`; see `finetune.tune_rows`.

        Args:
            watch: Told of every step; of a search for the learning rate, only asked whether it may go on.
            start: An adapter of this base to go on from.
        """
        learned, unseen = ([self.encode(row) for row in part] for part in (rows, held_out))
        train = tune_searching if settings.search_learning_rate else tune_rows
        return train(
            self._base,
            learned,
            unseen,
            settings,
            folder=folder,
            seed=seed,
            progress=progress,
            save_every_seconds=self._save_every_seconds,
            watch=watch,
            start=start,
        )

    def prefer(
        self,
        rows: Sequence[Preference],
        held_out: Sequence[Preference],
        settings: DpoSettings,
        *,
        start: Path,
        folder: Path,
        seed: int,
        progress: Progress,
        watch: TrainWatch = UNWATCHED,
    ) -> Tuned:
        """Train the adapter of `start` on by preferences; see `preferring.tune_pairs`."""
        learned, unseen = ([side for row in part for side in self.encode_pair(row)] for part in (rows, held_out))
        return tune_pairs(
            self._base,
            learned,
            unseen,
            settings,
            start=start,
            folder=folder,
            seed=seed,
            progress=progress,
            save_every_seconds=self._save_every_seconds,
            watch=watch,
        )

    @property
    def _base(self) -> Base:
        loaded = self._loaded
        return Base(
            model=loaded.model,
            identity=loaded.identity,
            decode=partial(loaded.tokenizer.decode, keep_control_tokens=True),
            stop_ids=frozenset(loaded.stop_ids),
            tokenizer_folder=loaded.folder,
        )

    def encode_pair(self, row: Preference) -> tuple[EncodedRow, EncodedRow]:
        """Both answers as the trainer sees them, the better one first."""
        return self.encode(row.chosen), replace(self.encode(row.rejected), id=f"{row.rejected.id} (rejected)")

    def encode(self, row: Conversation) -> EncodedRow:
        """A conversation as the trainer sees it.

        Raises:
            ModelError: Nothing in the row is to be learned, or the template cannot render it; named.
        """
        encoded = encode_conversation(self._loaded.template, self._loaded.tokenizer, row)
        return EncodedRow(encoded.id, encoded.token_ids, tuple(map(float, encoded.learned)), encoded.excluded)
