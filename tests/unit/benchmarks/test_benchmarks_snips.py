"""SNIPS' file form → a task folder. The sentences are made up here."""

import json

import jsonschema_rs
import pytest
import snips

from stepladder.domain.errors import DataError
from stepladder.domain.output import dump_json
from stepladder.domain.task import Task


def pieces(*parts):
    """("to ", None), ("Zürich", "city") → SNIPS' labelled pieces."""
    return {"data": [{"text": text} if entity is None else {"text": text, "entity": entity} for text, entity in parts]}


PLACES = ["Aarau", "Bergen", "Córdoba", "Dundee", "Evora", "Fargo", "Galway", "Hobart", "Izmir", "Jaipur", "Kobe", "Lima"]
DISHES = ["ramen", "goulash", "paella", "tagine", "poutine", "laksa", "pierogi", "ceviche", "rösti", "haggis", "mole", "borscht"]


def weather(place):
    return pieces((f"{place * 2} sky over ", None), (place, "city"), (" ?", None))


def table(dish):
    return pieces((f"{dish * 2} table with ", None), (dish, "served_dish"), (" for ", None), ("two", "party_size_number"))


@pytest.fixture
def datasets(tmp_path):
    folder = tmp_path / "datasets" / "snips_slots"
    folder.mkdir(parents=True)
    for part, cut in (("train", slice(0, 6)), ("validate", slice(6, 12))):
        rows = {"GetWeather": [weather(place) for place in PLACES[cut]], "BookRestaurant": [table(dish) for dish in DISHES[cut]]}
        for intent, content in rows.items():
            (folder / f"{part}_{intent}.json").write_text(json.dumps({intent: content}), encoding="utf-8")
    return tmp_path / "datasets"


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_folder_is_a_task_with_as_many_rows_of_each_intent(datasets, tmp_path):
    task = Task.load(snips.build(datasets, tmp_path / "task", train_rows=8, test_rows=6))
    for name, count in (("train.jsonl", 4), ("test.jsonl", 3)):
        intents = [json.loads(row["completion"])["intent"] for row in read(task.folder / name)]
        assert {intent: intents.count(intent) for intent in intents} == {"BookRestaurant": count, "GetWeather": count}
    assert "BookRestaurant, GetWeather." in task.settings.instruction


def test_every_reference_follows_the_schema_in_the_projects_one_form(datasets, tmp_path):
    task = Task.load(snips.build(datasets, tmp_path / "task", train_rows=8, test_rows=6))
    validator = jsonschema_rs.validator_for(task.output_schema)
    for row in read(task.folder / "train.jsonl") + read(task.folder / "test.jsonl"):
        answer = json.loads(row["completion"])
        assert validator.is_valid(answer)
        assert row["completion"] == dump_json(answer, task.output_schema)
        assert all(words in row["prompt"] for words in answer["slots"].values())
    assert not validator.is_valid({"intent": "GetWeather", "slots": {"colour": "red"}})


def test_the_same_data_draw_the_same_rows(datasets, tmp_path):
    folders = [snips.build(datasets, tmp_path / name, train_rows=8, test_rows=6) for name in ("one", "two")]
    for name in ("train.jsonl", "test.jsonl", "intent.schema.json"):
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()


def test_a_test_row_that_nearly_repeats_a_training_row_is_not_drawn(datasets, tmp_path):
    path = datasets / "snips_slots" / "validate_GetWeather.json"
    repeats = [weather(place.upper()) for place in PLACES[:6]]
    path.write_text(json.dumps({"GetWeather": [*repeats, weather("Lima")]}), encoding="utf-8")
    with pytest.raises(DataError, match=r"only 7 of 8 rows differ enough"):
        snips.build(datasets, tmp_path / "task", train_rows=12, test_rows=8)
    folder = snips.build(datasets, tmp_path / "task", train_rows=12, test_rows=7)
    assert [row["id"] for row in read(folder / "test.jsonl") if "Weather" in row["id"]] == ["validate-GetWeather-006"]


def test_a_sentence_that_names_a_slot_twice_is_left_out():
    row = pieces(("from ", None), ("Kobe", "city"), (" to ", None), ("Lima", "city"))
    assert snips.read_utterance("x", "GetWeather", row) is None


def test_white_space_is_single_in_sentence_and_slots():
    utterance = snips.read_utterance("x", "GetWeather", pieces(("  rain\n", None), ("in  a week ", "timeRange"), (" ?", None)))
    assert (utterance.text, utterance.slots) == ("rain in a week ?", {"timeRange": "in a week"})


def test_latin_1_files_are_read(datasets):
    path = datasets / "snips_slots" / "train_GetWeather.json"
    path.write_bytes(json.dumps({"GetWeather": [weather("Córdoba")]}, ensure_ascii=False).encode("latin-1"))
    assert snips.read_pool(path.parent, "train")["GetWeather"][0].slots == {"city": "Córdoba"}


@pytest.mark.parametrize("content", ["[1, 2]", "{not json", '{"GetWeather": [{"text": "no data key"}]}'])
def test_a_file_in_another_form_is_named(datasets, tmp_path, content):
    path = datasets / "snips_slots" / "train_GetWeather.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=r"train_GetWeather\.json: not in SNIPS' form"):
        snips.build(datasets, tmp_path / "task")


def test_absent_data_says_where_to_get_them_and_leaves_no_folder(tmp_path):
    with pytest.raises(DataError, match=r"snips_slots: this public data set is not here\. Get it from github\.com/sonos"):
        snips.build(tmp_path, tmp_path / "task")
    assert not (tmp_path / "task").exists()


def test_intents_must_be_the_same_on_both_sides(datasets, tmp_path):
    (datasets / "snips_slots" / "validate_GetWeather.json").unlink()
    with pytest.raises(DataError, match="must name the same intents"):
        snips.build(datasets, tmp_path / "task")
