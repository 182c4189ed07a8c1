"""The style grader: its features, its model and its aggregates against scikit-learn; what it refuses; what it never does."""

from __future__ import annotations

import json
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression as Oracle
from sklearn.metrics import roc_auc_score

from stepladder.domain.errors import RunError
from stepladder.domain.messages import Example, Input, Message
from stepladder.domain.prediction import Score, Ungraded
from stepladder.evaluation.graders.style import Style, lost_spans, style_metrics
from stepladder.evaluation.graders.style_model import (
    STRENGTH,
    Features,
    Pair,
    StyleModel,
    character_grams,
    permutation_p,
    separation,
)

THINGS = "kettle teapot lantern garden window ladder harbour bakery orchard meadow bridge station".split()
any_text = st.text(alphabet=st.characters(exclude_categories=[]))


def plain(number: int) -> str:
    thing = THINGS[number % 12]
    return f"We regret to inform you that the {thing} with order number {4000 + number} has unfortunately been delayed!"


def warm(number: int) -> str:
    thing = THINGS[number % 12]
    return f"Your {thing} is late. It's order {4000 + number}. You'll hear from us, and we're sorry about the wait."


def pairs(count: int, *, alike: bool = False, per_cluster: int = 1) -> list[Pair]:
    return [
        Pair(f"r{number}", number // per_cluster, warm(number), warm(number + 7) if alike else plain(number))
        for number in range(count)
    ]


@cache
def model() -> StyleModel:
    return StyleModel.fit(pairs(40), seed=0)


def example(number: int, reference: str | None = None) -> Example:
    return Example(
        Input.of(plain(number), f"new{number}"), Message("assistant", warm(number) if reference is None else reference)
    )


@settings(max_examples=60, deadline=None)
@given(st.text(st.sampled_from("ab .,'é日"), max_size=25))
def test_character_sequences_are_those_of_scikit_learn(text: str) -> None:
    analyse = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), lowercase=False).build_analyzer()
    assert sorted(character_grams(text).elements()) == sorted(analyse(text))


def test_features_are_the_tf_idf_vectors_of_scikit_learn() -> None:
    texts = [warm(number) for number in range(20)] + [plain(number) for number in range(20)]
    ours = Features.learn(texts)
    grams = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), lowercase=False, sublinear_tf=True, vocabulary=ours.grams)
    words = TfidfVectorizer(token_pattern=r"[^\W\d_]+", sublinear_tf=True, use_idf=False, vocabulary=ours.words)
    oracle = np.hstack([grams.fit_transform(texts).toarray(), words.fit_transform(texts).toarray()])
    np.testing.assert_allclose(ours.matrix(texts).toarray(), oracle, atol=1e-5)


def test_probabilities_are_those_of_scikit_learn() -> None:
    rows = pairs(40)
    texts = [pair.reference for pair in rows] + [pair.output for pair in rows]
    matrix = model().features.matrix(texts).toarray()
    oracle = Oracle(C=STRENGTH, tol=1e-9, max_iter=5000).fit(matrix, np.repeat([1, 0], len(rows)))
    fresh = [f"unseen {number}" for number in range(len(texts))]
    np.testing.assert_allclose(model().probabilities(texts, fresh), oracle.predict_proba(matrix)[:, 1], atol=1e-3)


def test_the_target_style_scores_high_and_the_untuned_style_low() -> None:
    grader = Style(model())
    high, low = grader.grade(example(50), warm(50)), grader.grade(example(50), plain(50))
    assert isinstance(high, Score)
    assert isinstance(low, Score)
    assert high.value > 0.8
    assert low.value < 0.2


def test_an_answer_to_a_training_row_is_judged_without_its_cluster() -> None:
    odd = [*pairs(40), Pair("odd", 99, "Zyx! Zyx! Zyx zyx qqq zyx.", "Brr vvv brr vvv brr kkk.")]
    odd += [Pair(f"odd{number}", 99, "Zyx! Zyx! Zyx zyx qqq zyx.", "Brr vvv brr vvv brr kkk.") for number in range(3)]
    fitted = StyleModel.fit(odd, seed=0)
    [seen, foreign] = fitted.probabilities(["Zyx! Zyx! Zyx zyx qqq zyx."] * 2, ["odd", "somebody else"])
    assert foreign > seen  # the model of all rows knows the text by heart, the one without the cluster has never met it
    folds = {fitted.fold_of[name] for name in ("odd", "odd0", "odd1", "odd2")}
    assert len(folds) == 1


@pytest.mark.parametrize("drop", ["4050", "Pellwren"])
def test_a_lost_number_or_name_is_a_zero(drop: str) -> None:
    row = Example(
        Input.of("We write from Pellwren about order 4050."),
        Message("assistant", "Your order 4050 at Pellwren is late. You'll hear."),
    )
    whole = "Your order 4050 at Pellwren is late. You'll hear from us."
    kept = Style(model()).grade(row, whole)
    assert isinstance(kept, Score)
    assert kept.value > 0
    assert Style(model()).grade(row, whole.replace(drop, "it")) == Score(0.0)
    assert lost_spans(row, whole.replace(drop, "it")) == (drop,)


def test_a_name_that_the_reference_drops_may_go() -> None:
    row = Example(Input.of("We told Madam Oakes that order 4050 is late."), Message("assistant", "Your order 4050 is late."))
    assert lost_spans(row, "Order 4050 is late. Sorry.") == ()


@pytest.mark.parametrize(("length", "graded"), [(49, False), (50, True), (200, True), (201, False)])
def test_the_length_must_lie_between_half_and_twice_the_references(length: int, graded: bool) -> None:
    row = example(1, reference="x" * 100)
    grade = Style(model()).grade(Example(Input.of("nothing"), row.reference), "a" * length)
    assert isinstance(grade, Score)
    assert (grade.value > 0) == graded


def test_styles_that_cannot_be_told_apart_leave_every_row_ungraded_with_the_reason() -> None:
    alike = StyleModel.fit(pairs(40, alike=True), seed=0)
    grade = Style(alike).grade(example(3), warm(3))
    assert isinstance(grade, Ungraded)
    assert "cross-validated AUC" in grade.reason
    assert "below 0.8" in grade.reason


@pytest.mark.parametrize("rows", [[], pairs(1), [Pair("a", 1, "x", " "), Pair("b", 2, "y", "")], pairs(6, per_cluster=6)])
def test_too_few_rows_or_clusters_leave_every_row_ungraded(rows: list[Pair]) -> None:
    grade = Style(StyleModel.fit(rows, seed=0)).grade(example(3), warm(3))
    assert isinstance(grade, Ungraded)
    assert "too few" in grade.reason


def test_before_it_has_learned_nothing_is_graded() -> None:
    grade = Style().grade(example(3), warm(3))
    assert isinstance(grade, Ungraded)
    assert Style().metrics([example(3)], ["x"]) == {}
    assert isinstance(Style(model()).grade(example(3, reference=" "), "x"), Ungraded)


@settings(max_examples=60, deadline=None)
@given(question=any_text, reference=any_text, answer=any_text)
def test_any_text_gets_the_same_grade_again_after_a_round_trip_through_json(question: str, reference: str, answer: str) -> None:
    again = Style(StyleModel.from_json(json.loads(json.dumps(model().to_json()))))
    row = Example(Input.of(question), Message("assistant", reference))
    grade = Style(model()).grade(row, answer)
    assert isinstance(grade, Score | Ungraded)
    assert again.grade(row, answer) == grade


def test_fitting_twice_gives_the_same_model() -> None:
    assert StyleModel.fit(pairs(40), seed=0).to_json() == model().to_json()


@pytest.mark.parametrize("harm", [{"format": 9}, {"weights": [[1.0]]}, {"grams": None}, {"auc": "much"}])
def test_a_broken_file_is_refused(harm: dict[str, object]) -> None:
    with pytest.raises(RunError, match="style grader cannot be read"):
        StyleModel.from_json({**model().to_json(), **harm})


scores = st.lists(st.tuples(st.sampled_from([0.0, 0.2, 0.5, 0.9]), st.floats(0, 1)), min_size=2, max_size=20)


@settings(max_examples=60, deadline=None)
@given(scores)
def test_the_auc_is_that_of_scikit_learn(rows: list[tuple[float, float]]) -> None:
    references, outputs = (np.asarray(side) for side in zip(*rows, strict=True))
    oracle = roc_auc_score(np.repeat([1, 0], len(rows)), np.concatenate([references, outputs]))
    assert separation([(references, outputs)]) == pytest.approx(oracle)


def test_groups_are_compared_within_themselves_only() -> None:
    rng = np.random.default_rng(1)
    groups = [(rng.random(8), rng.random(8)), (5 + rng.random(4), 5 + rng.random(4))]
    wins = sum(mannwhitneyu(references, outputs).statistic for references, outputs in groups)
    assert separation(groups) == pytest.approx(wins / (64 + 16))


def test_the_permutation_p_is_small_for_a_real_difference_and_uniform_without_one() -> None:
    rng = np.random.default_rng(2)
    assert permutation_p([(0.5 + rng.random(30), rng.random(30))]) < 0.005
    without = [permutation_p([(rng.random(20), rng.random(20))], draws=200) for _ in range(200)]
    assert 0.01 <= np.mean(np.asarray(without) <= 0.05) <= 0.1
    assert permutation_p([(np.full(5, 0.3), np.full(5, 0.3))]) == 1.0


def test_the_aggregates_tell_copies_of_the_references_from_untuned_answers() -> None:
    rows = [example(number) for number in range(50, 70)]
    same = style_metrics([(Style(model()), rows, [warm(number) for number in range(50, 70)])])
    far = style_metrics([(Style(model()), rows, [plain(number) for number in range(50, 70)])])
    assert same["style_auc"] == 0.5
    assert same["style_auc_p"] == 1.0
    assert far["style_auc"] == 1.0
    assert far["style_auc_p"] < 0.01
    assert far["style_cross_validated_auc"] == model().auc
    assert 0.8 < far["style_of_references"] < 1
