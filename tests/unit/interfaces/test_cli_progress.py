"""Time left on a progress line: told at the pace of the work, not of what came before it."""

import io

import pytest
from rich.console import Console

from stepladder.interfaces.cli import progress
from stepladder.interfaces.cli.progress import Stage, TerminalProgress


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass only when told."""

    class Clock:
        now = 1000.0

        def monotonic(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def after(clock, stage, *parts):
    for seconds, count in parts:
        clock.now += seconds
        stage.advance(count, "")
    return stage.seconds_left()


def test_a_slow_first_answer_says_nothing_of_those_that_follow(clock):
    stage = Stage("answers", 150, started=clock.now)
    assert stage.seconds_left() is None
    assert after(clock, stage, (50.0, 1)) is None
    assert after(clock, stage, *[(1.0, 1)] * 7) is None  # fewer than a twentieth
    assert after(clock, stage, (1.0, 1)) == pytest.approx(141.0)


def test_what_an_earlier_run_did_is_no_pace(clock):
    stage = Stage("training", 100, started=clock.now)
    assert after(clock, stage, (0.0, 60)) is None
    assert after(clock, stage, *[(2.0, 1)] * 5) == pytest.approx(70.0)


def test_of_few_parts_the_first_one_tells_until_there_is_a_second(clock):
    stage = Stage("folds", 5, started=clock.now)
    assert after(clock, stage, (30.0, 1)) == pytest.approx(120.0)
    assert after(clock, stage, (10.0, 1)) == pytest.approx(30.0)


def test_a_detail_that_names_the_time_left_is_not_said_twice(clock):
    stage = Stage("training", 10, started=clock.now)
    clock.now += 5.0
    stage.advance(1, "loss 1.250, at most 40 s left")
    assert stage.text() == "training 1/10 loss 1.250, at most 40 s left"
    stage.advance(1, "loss 1.250")
    assert stage.text().startswith("training 2/10 loss 1.250")


def test_a_pipe_gets_whole_lines_now_and_then(clock, capsys):
    shown = TerminalProgress(Console(file=io.StringIO()))
    shown.start("test", 4)
    clock.now += 20.0
    shown.advance(2)
    clock.now += 1.0
    shown.advance()
    assert capsys.readouterr().err.splitlines() == ["  test 2/4 20 s left"]
