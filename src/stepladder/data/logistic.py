"""Logistic regression, small and deterministic: the rung `classifier` and the grader `style` stand on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import minimize
from scipy.special import logsumexp


@dataclass(frozen=True, slots=True)
class LogisticRegression:
    """Multinomial logistic regression. `weights`: shape (features + 1, classes), the last row the intercepts."""

    weights: NDArray[np.float64]

    @classmethod
    def fit(cls, features: Any, classes: NDArray[np.int64], count: int, strength: float) -> LogisticRegression:
        """Minimise strength · Σ −log p(class) + ½‖W‖², intercepts unpenalised, by conjugate gradients.

        Args:
            features: Shape (rows, dimensions), dense or scipy sparse.
            classes: Shape (rows,), from 0 to `count` − 1.
        """
        inputs = _with_ones(features)
        targets = np.eye(count)[classes]
        penalised = np.ones((inputs.shape[1], 1))
        penalised[-1] = 0.0

        def loss(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            weights = flat.reshape(inputs.shape[1], count)
            logits = inputs @ weights
            log_p = logits - logsumexp(logits, axis=1, keepdims=True)
            value = -strength * float((targets * log_p).sum()) + 0.5 * float((penalised * weights**2).sum())
            gradient = strength * (inputs.T @ (np.exp(log_p) - targets)) + penalised * weights
            return value, gradient.ravel()

        # SciPy's L-BFGS-B starts BLAS threads for tiny matrices: twenty times slower on a busy two-core machine.
        start = np.zeros(inputs.shape[1] * count)
        found = minimize(loss, start, jac=True, method="CG", options={"maxiter": 1000, "gtol": 1e-4})
        return cls(found.x.reshape(inputs.shape[1], count))

    def probabilities(self, features: Any) -> NDArray[np.float64]:
        """Shape (rows, classes)."""
        logits = _with_ones(features) @ self.weights
        return np.asarray(np.exp(logits - logsumexp(logits, axis=1, keepdims=True)), dtype=np.float64)


def _with_ones(features: Any) -> Any:
    """The features with a column for the intercept."""
    ones = np.ones((features.shape[0], 1))
    return sparse.hstack([features, ones], format="csr") if sparse.issparse(features) else np.hstack([features, ones])
