from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from stepladder.domain import errors
from stepladder.domain.errors import DataError
from stepladder.domain.output import canonical_text, dump_json
from stepladder.domain.prediction import Score
from stepladder.domain.task import JsonFieldsGrader, Settings, Task, TaskSettings, UseSettings

GOOD = 'name = "t"\ninstruction = "Do it."\n[data]\nexamples = "e.jsonl"\n'


def load(folder: Path, toml: str) -> Task:
    (folder / "task.toml").write_text(toml, encoding="utf-8")
    return Task.load(folder)


def test_a_task_needs_only_name_instruction_and_data(tmp_path: Path) -> None:
    task = load(tmp_path, GOOD)
    assert task.settings.minimum_gain == 0.03
    assert [grader.type for grader in task.settings.decided_graders()] == ["chrf"]


@pytest.mark.parametrize(
    ("toml", "says"),
    [
        ("name = ", "not TOML"),
        (GOOD.replace("name", "nmae"), "unknown key 'nmae'|'name' is missing"),
        (GOOD + '[output]\nschema = "s.json"\nlabels = ["a"]\n', "one of `schema`"),
        (GOOD + '[output]\nschema = "missing.json"\n', "cannot be read"),
        (GOOD + "[use]\ncalls_total = 1\ncalls_per_month = 2\n", "calls_per_month"),
        (GOOD.replace("[data]", "target = 1.5\n[data]"), "'target'"),
        (GOOD.replace("Do it.", " \\n"), "'instruction': nothing but white space"),
        (GOOD.replace('"t"', '" "'), "'name': nothing but white space"),
        (GOOD.replace('examples = "e.jsonl"', ""), "either `examples` or `train`"),
        (GOOD.replace('examples = "e.jsonl"', 'train = "t.jsonl"'), "`train` and `test`"),
        (GOOD + '[[graders]]\ntype = "magic"\n', "graders"),
    ],
)
def test_a_faulty_setting_is_named_with_its_file(tmp_path: Path, toml: str, says: str) -> None:
    with pytest.raises(DataError, match=says) as caught:
        load(tmp_path, toml)
    assert str(tmp_path / "task.toml") in str(caught.value) or "missing.json" in str(caught.value)


def test_a_missing_task_and_a_wrong_encoding_are_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no task.toml"):
        Task.load(tmp_path)
    (tmp_path / "task.toml").write_bytes('# two\nname = "ä"'.encode("latin-1"))
    with pytest.raises(DataError, match=r"task.toml:2: not UTF-8: byte 0xe4 at byte 14 .*Save the file as UTF-8"):
        Task.load(tmp_path)
    (tmp_path / "task.toml").write_text(GOOD, encoding="utf-16")
    with pytest.raises(DataError, match=r"task.toml:1: not UTF-8"):
        Task.load(tmp_path)


def test_a_byte_order_mark_before_the_settings_or_a_schema_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text("{}", encoding="utf-8-sig")
    with pytest.raises(DataError, match=r"s.json:1: the file begins with a byte order mark"):
        load(tmp_path, GOOD + '[output]\nschema = "s.json"\n')
    (tmp_path / "task.toml").write_text(GOOD, encoding="utf-8-sig")
    with pytest.raises(DataError, match=r"task.toml:1: the file begins with a byte order mark .*without it"):
        Task.load(tmp_path)


def test_every_setting_has_a_description_and_is_frozen() -> None:
    def walk(model: type[Settings]) -> None:
        assert model.model_config["frozen"]
        assert model.model_config["extra"] == "forbid"
        for name, field in model.model_fields.items():
            assert field.description or name == "type", f"{model.__name__}.{name}"
            if isinstance(field.annotation, type) and issubclass(field.annotation, Settings):
                walk(field.annotation)

    walk(TaskSettings)


def test_a_schema_decides_the_grader_and_gives_key_order(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text('{"properties": {"b": {}, "a": {}}}', encoding="utf-8")
    task = load(tmp_path, GOOD + '[output]\nschema = "s.json"\n')
    assert task.settings.decided_graders() == (JsonFieldsGrader(),)
    assert canonical_text(' {"a":1,"c":[{"x":1}],"b":2}', task.output_schema) == '{"b": 2, "a": 1, "c": [{"x": 1}]}'
    assert canonical_text(" no json ", task.output_schema) == "no json"
    assert dump_json({"ä": None}) == '{"ä": null}'


def test_calls_and_retrainings_follow_from_use() -> None:
    assert UseSettings(calls_per_month=100, horizon_months=6).calls == 600
    assert UseSettings(facts_change="weekly").retrainings == 52
    assert UseSettings(calls_total=7, facts_change="daily").retrainings == 0


def test_scores_outside_zero_and_one_do_not_exist() -> None:
    with pytest.raises(ValueError, match="lies in"):
        Score(1.1)


@pytest.mark.parametrize(
    "error",
    [
        DataError("f.jsonl", 3, "it is broken.", "Mend it."),
        errors.MissingExtra("train", "torch"),
        *(
            kind("a problem.", "A hint.")
            for kind in vars(errors).values()
            if isinstance(kind, type)
            and issubclass(kind, errors.StepladderError)
            and kind not in (DataError, errors.MissingExtra)
        ),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_survive_pickling_and_say_what_to_do(error: errors.StepladderError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error)
    assert error.hint in str(error)
    assert error.hint
