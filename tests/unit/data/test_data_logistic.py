"""Logistic regression against scikit-learn, on dense and on sparse features."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse
from sklearn.linear_model import LogisticRegression as Oracle

from stepladder.data.logistic import LogisticRegression


@pytest.mark.parametrize("strength", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("shape", [np.asarray, sparse.csr_array])
def test_logistic_regression_agrees_with_scikit_learn(strength: float, shape: type) -> None:
    generator = np.random.default_rng(0)
    features = generator.normal(size=(90, 6))
    classes = (features[:, :3] + 0.5 * generator.normal(size=(90, 3))).argmax(axis=1)
    ours = LogisticRegression.fit(shape(features), classes, 3, strength)
    oracle = Oracle(C=strength, tol=1e-8, max_iter=5000).fit(features, classes)
    np.testing.assert_allclose(ours.probabilities(shape(features)), oracle.predict_proba(features), atol=1e-4)
