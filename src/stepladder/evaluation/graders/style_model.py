"""What tells one way of writing from another: character sequences and common words, weighed by a logistic regression."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.special import expit
from scipy.stats import rankdata

from stepladder.data.logistic import LogisticRegression
from stepladder.domain.errors import RunError

Floats = NDArray[np.float64]

FORMAT = 1
GRAMS = (2, 3, 4)  # characters
MOST_GRAMS = 3000
COMMON_WORDS = 100
LEAST_TEXTS = 3  # that must hold a gram or word
STRENGTH = 10.0  # inverse of the L2 penalty
FOLDS = 5
LEAST_AUC = 0.8
DECIMALS = 6  # of saved weights; the model in memory has no more, so that a saved one gives the same scores

_WORD = re.compile(r"[^\W\d_]+")


@dataclass(frozen=True)
class Features:
    """Texts to vectors of two parts, each of length 1: character sequences within words, and the commonest words.

    Sequences keep their letter case and punctuation; their counts are damped (1 + ln) and weighed by rarity (tf-idf). The
    commonest words stand for function words in any language.

    Source:
        Stamatatos (2009), A survey of modern authorship attribution methods, JASIST 60; Burrows (2002), 'Delta', LLC 17.
    """

    grams: tuple[str, ...]
    rarity: Floats  # idf of each gram
    words: tuple[str, ...]

    @classmethod
    def learn(cls, texts: Sequence[str]) -> Features:
        """The sequences and words that most of the texts hold."""
        grams = _most_common([character_grams(text) for text in texts], MOST_GRAMS)
        words = _most_common([common_words(text) for text in texts], COMMON_WORDS)
        rarity: Floats = 1 + np.log((1 + len(texts)) / (1 + np.asarray(list(grams.values()), dtype=np.float64)))
        return cls(tuple(grams), np.asarray(np.round(rarity, DECIMALS), dtype=np.float64), tuple(words))

    def matrix(self, texts: Sequence[str]) -> Any:
        """Shape (texts, grams + words), scipy sparse."""
        grams = _damped([character_grams(text) for text in texts], self._gram_places).multiply(self.rarity[None, :])
        words = _damped([common_words(text) for text in texts], self._word_places)
        grams, words = _unit_rows(grams), _unit_rows(words)
        return sparse.hstack([grams, words], format="csr")

    @cached_property
    def _gram_places(self) -> dict[str, int]:
        return {gram: column for column, gram in enumerate(self.grams)}

    @cached_property
    def _word_places(self) -> dict[str, int]:
        return {word: column for column, word in enumerate(self.words)}


def character_grams(text: str) -> Counter[str]:
    """Sequences of two to four characters within words, a space at either end; a word too short for one counts whole, once."""
    found: Counter[str] = Counter()
    for word in text.split():
        padded = f" {word} "
        for size in GRAMS:
            found.update(padded[at : at + size] for at in range(max(1, len(padded) - size + 1)))
            if len(padded) <= size:
                break
    return found


def common_words(text: str) -> Counter[str]:
    """Words without letter case."""
    return Counter(_WORD.findall(text.lower()))


def _most_common(counted: Sequence[Counter[str]], most: int) -> dict[str, int]:
    """Item -> number of texts that hold it, the commonest first; equals by name, so that the order is always the same."""
    texts = Counter(item for counts in counted for item in counts)
    ordered = sorted(texts.items(), key=lambda pair: (-pair[1], pair[0]))
    return {item: count for item, count in ordered[:most] if count >= LEAST_TEXTS}


def _damped(counted: Sequence[Counter[str]], place: Mapping[str, int]) -> Any:
    """1 + ln(count), shape (texts, items)."""
    cells = [(row, place[item], count) for row, counts in enumerate(counted) for item, count in counts.items() if item in place]
    table = np.asarray(cells, dtype=np.int64).reshape(-1, 3)
    values = 1 + np.log(table[:, 2])
    return sparse.csr_array((values, (table[:, 0], table[:, 1])), shape=(len(counted), len(place)))


def _unit_rows(table: Any) -> Any:
    lengths = np.sqrt(np.asarray(table.multiply(table).sum(axis=1)).reshape(-1))
    scale = np.divide(1.0, lengths, out=np.zeros_like(lengths), where=lengths > 0)
    return sparse.csr_array(table.multiply(scale[:, None]))


@dataclass(frozen=True)
class Pair:
    """A training row: the style that is wanted, and what the untuned model wrote for the same input."""

    id: str
    cluster: int
    reference: str
    output: str


@dataclass(frozen=True)
class StyleModel:
    """P(target style) of a text. A text that answers a training row is judged by a model that saw nothing of its cluster.

    Args:
        weights: Shape (1 + folds, features + 1): the model of all pairs first, then those without one fold; intercepts last.
        fold_of: Fold of each training row, from 1.
        auc: Cross-validated over clusters; nan when too few clusters were there to tell.
    """

    features: Features
    weights: Floats
    fold_of: Mapping[str, int]
    auc: float
    pairs: int

    @classmethod
    def fit(cls, pairs: Sequence[Pair], *, seed: int) -> StyleModel:
        """Learn references from outputs. Blank outputs teach nothing about style and are left out."""
        pairs = [pair for pair in pairs if pair.output.strip()]
        texts = [pair.reference for pair in pairs] + [pair.output for pair in pairs]
        features = Features.learn(texts)
        folds = _deal([pair.cluster for pair in pairs], seed)
        count = max(folds, default=0)
        matrix, of_texts = features.matrix(texts), np.asarray([*folds, *folds], dtype=np.int64)
        wanted = np.repeat([1, 0], len(pairs))
        weights = [_weights(matrix, wanted)] if pairs else [np.zeros(matrix.shape[1] + 1)]
        weights += [_weights(matrix[of_texts != fold], wanted[of_texts != fold]) for fold in range(1, count + 1) if count > 1]
        groups = [_halves(_probabilities(matrix[of_texts == fold], weights[fold])) for fold in range(1, count + 1) if count > 1]
        auc = separation(groups) if groups else float("nan")
        fold_of = {pair.id: fold for pair, fold in zip(pairs, folds, strict=True)} if count > 1 else {}
        return cls(features, np.stack(weights), fold_of, auc, len(pairs))

    @property
    def refusal(self) -> str | None:
        """Why this model must not grade, in a sentence; None when it may."""
        if np.isnan(self.auc):
            return f"{self.pairs} pairs of a reference and an untuned answer are too few to learn a style from"
        if self.auc < LEAST_AUC:
            return (
                f"references and untuned answers read too much alike: cross-validated AUC {self.auc:.2f} "
                f"over {self.pairs} pairs, below {LEAST_AUC:g}"
            )
        return None

    def probabilities(self, texts: Sequence[str], ids: Sequence[str]) -> Floats:
        """P(target style) of each text, shape (texts,); `ids` name the rows that the texts answer."""
        matrix = self.features.matrix(texts)
        chosen = self.weights[[self.fold_of.get(id, 0) for id in ids]]
        logits = np.asarray(matrix.multiply(chosen[:, :-1]).sum(axis=1)).reshape(-1) + chosen[:, -1]
        return np.asarray(expit(logits), dtype=np.float64)

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "pairs": self.pairs,
            "auc": None if np.isnan(self.auc) else self.auc,
            "grams": list(self.features.grams),
            "rarity": self.features.rarity.tolist(),
            "words": list(self.features.words),
            "weights": self.weights.tolist(),
            "fold_of": dict(self.fold_of),
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> StyleModel:
        """Raises: RunError: The record is broken, or of a newer version."""
        try:
            if record["format"] != FORMAT:
                raise ValueError(f"format {record['format']}")
            features = Features(tuple(record["grams"]), np.asarray(record["rarity"], np.float64), tuple(record["words"]))
            weights = np.asarray(record["weights"], dtype=np.float64)
            if weights.shape[1] != len(features.grams) + len(features.words) + 1:
                raise ValueError("weights and features do not belong together")
            auc = float("nan") if record["auc"] is None else float(record["auc"])
            return cls(features, weights, dict(record["fold_of"]), auc, int(record["pairs"]))
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise RunError(f"the recorded style grader cannot be read: {error}.", "Restore the run, or climb again.") from error


def _deal(clusters: Sequence[int], seed: int) -> list[int]:
    """A fold from 1 for each row; rows of one cluster stay together."""
    names = list(dict.fromkeys(clusters))
    order = np.random.default_rng(seed).permutation(len(names))
    count = min(FOLDS, len(names))
    fold_of = {names[index]: 1 + place % count for place, index in enumerate(order)}
    return [fold_of[cluster] for cluster in clusters]


def _weights(matrix: Any, wanted: NDArray[np.int64]) -> Floats:
    """Weights of the log-odds, the intercept last."""
    # Each of the two classes carries half of the weight, so ½‖W‖² is ¼‖w‖²: half the strength makes up for it.
    both = LogisticRegression.fit(matrix, wanted, 2, STRENGTH / 2).weights
    return np.round(both[:, 1] - both[:, 0], DECIMALS)


def _probabilities(matrix: Any, weights: Floats) -> Floats:
    return np.asarray(expit(matrix @ weights[:-1] + weights[-1]), dtype=np.float64)


def _halves(values: Floats) -> tuple[Floats, Floats]:
    """References stand first, then the outputs of the same rows."""
    return values[: len(values) // 2], values[len(values) // 2 :]


Groups = Sequence[tuple[Floats, Floats]]
"""P(target style) of references and of outputs, shape (rows,) each, row by row; one group for each fitted model."""


def separation(groups: Groups) -> float:
    """AUC: the chance that a reference reads more like the target than an output of the same group; ½ = cannot be told apart.

    Source:
        Hanley & McNeil (1982), The meaning and use of the area under a ROC curve, Radiology 143.
    """
    wins = sum(float(_wins(_ranks(references, outputs)[0])) for references, outputs in groups)
    return wins / _pairs(groups)


def permutation_p(groups: Groups, *, draws: int = 2000, seed: int = 0) -> float:
    """P that an AUC lies as far from ½ when reference and output of each row are swapped by the toss of a coin.

    Source:
        Phipson & Smyth (2010), Permutation p-values should never be zero, SAGMB 9: the observed one counts as a draw.
    """
    rng = np.random.default_rng(seed)
    found = np.zeros(draws)
    for references, outputs in groups:
        own, others = _ranks(references, outputs)
        swapped = rng.random((draws, len(own))) < 0.5
        found += _wins(np.where(swapped, others, own))
    distance = abs(separation(groups) - 0.5)
    return float((1 + (np.abs(found / _pairs(groups) - 0.5) >= distance - 1e-12).sum()) / (1 + draws))


def _ranks(references: Floats, outputs: Floats) -> tuple[Floats, Floats]:
    """Ranks among both together."""
    return _halves(np.asarray(rankdata(np.concatenate([references, outputs])), dtype=np.float64))


def _wins(ranks: Floats) -> Floats:
    """Pairs that the ranked side wins (a tie is half a win), over the last axis."""
    rows = ranks.shape[-1]
    return np.asarray(ranks.sum(axis=-1) - rows * (rows + 1) / 2, dtype=np.float64)


def _pairs(groups: Groups) -> int:
    return sum(len(references) * len(outputs) for references, outputs in groups)
