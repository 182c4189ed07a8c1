"""The trials of learning curves, few and on a bundled task: what they compare is what they say."""

from dataclasses import replace
from pathlib import Path

import pytest
from curve_trials import ROWS, RememberingEmbedder, Trial, load_pool, run_trial, summarise

import stepladder
from stepladder.techniques.fake import FakeEmbedder


@pytest.fixture(scope="module")
def repairs():
    return load_pool(
        "repairs", Path(stepladder.__file__).parent / "data" / "bundled" / "repairs", RememberingEmbedder(FakeEmbedder())
    )


def test_a_trial_is_repeatable_and_its_interval_is_one_of_scores(repairs):
    trial = run_trial(repairs, "nearest", 3)
    assert trial == run_trial(repairs, "nearest", 3)
    assert 0 <= trial.low <= trial.high <= 1
    scored = ROWS["repairs"][1]
    assert trial.seen * scored == pytest.approx(round(trial.seen * scored))


def test_intervals_hold_the_doubled_score_of_the_nearest_answer_in_at_least_70_percent(repairs):
    assert sum(run_trial(repairs, "nearest", seed).held for seed in range(30)) >= 21


def test_the_summary_counts_promises_that_were_broken():
    held = Trial(0.5, 0.7, 0.6, 0.59, 0.01, 0.05)
    trials = [held, replace(held, seen=0.8), replace(held, probability_minimum=0.5)]
    summary = summarise(trials, 0.03)
    assert summary["held"] == 2
    assert summary["said_unlikely_to_help"] == 2
    assert summary["of_these_gained_the_minimum"] == 1
    assert summary["mean_width"] == pytest.approx(0.2)
