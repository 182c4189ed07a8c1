"""Learning curves of the fine-tune: which task is climbed for them, and what is kept. The climb itself is a stand-in here."""

import json
import sys

import lora_curves
import pytest

from stepladder.domain.errors import EngineError
from stepladder.domain.task import Task
from stepladder.evaluation.learning_curve import doubling

CURVE = {"rung": "lora", "rows": 91, "scored_rows": 18, "points": [], "minimum_gain": 0.03, "doubling": None, "seconds": 60.0}


@pytest.mark.parametrize("name", ["repairs", "tickets"])
def test_only_the_fine_tune_and_what_it_stands_on_is_climbed(tmp_path, name):
    task = Task.load(lora_curves.build(name, tmp_path, tmp_path))
    assert task.settings.rungs.learning_curve == ("lora",)
    assert not set(lora_curves.CLIMBED) & set(task.settings.rungs.skip)
    assert {"nearest", "lora+nearest", "dpo"} <= set(task.settings.rungs.skip)
    assert Task.load(lora_curves.build(name, tmp_path, tmp_path)) == task


def test_a_climb_without_the_curve_is_an_error_that_names_the_budget():
    assert lora_curves.curve_of({"curves": [{**CURVE, "rung": "nearest"}, CURVE]}, "boats") == {"set": "boats", **CURVE}
    with pytest.raises(EngineError, match="raise --minutes"):
        lora_curves.curve_of({"curves": []}, "boats")


def test_the_curves_that_could_be_had_are_written(tmp_path, capsys):
    stand_in = f"import json, sys; print(json.dumps({{'curves': [{CURVE!r}] if 'repairs' in sys.argv[2] else []}}))"
    result, command = tmp_path / "curve-lora.json", [sys.executable, "-c", stand_in]
    assert lora_curves.main(["--minutes", "1"], work=tmp_path, result=result, command=command) == 4
    assert "tickets: the climb drew no learning curve" in capsys.readouterr().err
    written = json.loads(result.read_text(encoding="utf-8"))
    assert [curve["set"] for curve in written["curves"]] == ["repairs"]


def test_a_forecast_made_again_comes_from_the_same_points(tmp_path):
    points = [{"rows": rows, "draw": draw, "score": rows / 100} for rows in (24, 48, 84) for draw in range(3)]
    curves = [{**CURVE, "set": "boats", "points": points, "doubling": {"score": "of older code"}}, {**CURVE, "set": "ships"}]
    result = tmp_path / "curve-lora.json"
    result.write_text(json.dumps({"curves": curves, "machine": {"commit": "older"}}), encoding="utf-8")
    assert lora_curves.main(["--forecast-again"], work=tmp_path, result=result) == 0
    written = json.loads(result.read_text(encoding="utf-8"))
    boats, ships = written["curves"]
    assert (boats["points"], ships, written["machine"]) == (points, curves[1], {"commit": "older"})
    columns = ([point[key] for point in points] for key in ("rows", "score", "draw"))
    expected = doubling(*columns, all_rows=CURVE["rows"], scored_rows=CURVE["scored_rows"], minimum_gain=CURVE["minimum_gain"])
    assert boats["doubling"]["score"]["value"] == expected.score.value
