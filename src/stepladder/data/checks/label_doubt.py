"""Labels that all other rows speak against, judged by a classifier that has not seen the row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stepladder.data.checks.answer_fields import WHOLE, answer_fields
from stepladder.data.checks.context import CheckContext, finding, quote
from stepladder.data.checks.finding import Check, Finding, Severity

UNLIKELY = 0.5  # of the likeliest label's probability: less speaks against a row's own
INVERSE_PENALTY = 30.0  # the more, the closer the classifier keeps to the rows it learns from
FOLDS = 10
FEWEST_OF_A_LABEL = 3
FEWEST = 30
RUNS_OF_LETTERS = (3, 5)
LETTERS_WEIGH = 1.5  # beside an embedding
MOST_BY_LETTERS = 20_000  # rows · labels; beyond, runs of letters would take minutes, and embeddings stand alone


def find(context: CheckContext) -> list[Finding]:
    fields = [field for field in answer_fields(context) if field.path == WHOLE]
    if len(context.rows) < FEWEST or not fields or not (context.task.settings.output.labels or fields[0].is_label):
        return []
    labels = [row.reference.strip() for row in context.rows]
    marks = [
        context.rows[place].mark(f"{quote(labels[place])}, and by all other rows it would be {quote(label)}")
        for place, label in _contradicted(context, labels)
    ]
    return finding(
        "label-doubt",
        Severity.WARN,
        marks,
        "{rows} have another label than all other rows lead one to expect. Some are wrong, some only hard.",
        "Read them, and correct what is wrong.",
    )


def _contradicted(context: CheckContext, labels: Sequence[str]) -> list[tuple[int, str]]:
    """(place, likeliest label) of rows whose own label is far less likely, by a classifier of the other folds.

    Probabilities from outside the training rows are what confident learning judges labels by (Northcutt, Jiang & Chuang 2021).
    """
    judged = {name for name, count in Counter(labels).items() if count >= FEWEST_OF_A_LABEL}
    if len(judged) < 2:
        return []
    features, own, folds = _features(context, len(judged)), np.array(labels), _folds(context)
    found = []
    for fold in range(FOLDS):
        tested = np.flatnonzero((folds == fold) & np.isin(own, list(judged)))
        learned = np.flatnonzero(folds != fold)
        if not len(tested) or len(set(own[learned])) < 2:
            continue
        likely, names = _probabilities(features[learned], own[learned], features[tested])
        column = {name: number for number, name in enumerate(names)}
        for place, row in zip(tested.tolist(), likely, strict=True):
            best = int(row.argmax())
            of_own = row[column[labels[place]]] if labels[place] in column else row[best]
            if of_own < UNLIKELY * row[best]:
                found.append((place, names[best]))
    return sorted(found)


def _features(context: CheckContext, labels: int) -> Any:
    """What a row says (embedding) and how it is spelt (runs of letters), one beside the other."""
    from scipy.sparse import csr_matrix, hstack
    from sklearn.feature_extraction.text import TfidfVectorizer

    if len(context.rows) * labels > MOST_BY_LETTERS:
        return context.vectors
    spelling = TfidfVectorizer(sublinear_tf=True, analyzer="char_wb", ngram_range=RUNS_OF_LETTERS)
    letters = LETTERS_WEIGH * spelling.fit_transform(context.plain_inputs)
    return hstack([csr_matrix(context.vectors), letters]).tocsr()


def _folds(context: CheckContext) -> NDArray[np.int64]:
    """The fold of every row; near-duplicates share one, so that none vouches for its copy's label."""
    clusters = [context.clusters[row.id] for row in context.rows]
    names = sorted(set(clusters))
    order = np.random.default_rng(0).permutation(len(names))
    fold_of = {cluster: int(place) % FOLDS for cluster, place in zip(names, order, strict=True)}
    return np.array([fold_of[cluster] for cluster in clusters])


def _probabilities(learned: Any, labels: NDArray[np.str_], tested: Any) -> tuple[NDArray[np.float64], list[str]]:
    """Of every label for every tested row, and the labels' names."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=INVERSE_PENALTY, max_iter=500).fit(learned, labels)
    return model.predict_proba(tested), [str(name) for name in model.classes_]


CHECK = Check(
    "label-doubt",
    "Rows whose label is less than half as likely as another one, by a classifier that has learned from other rows only.",
    find,
    needs=("embedder",),
)
