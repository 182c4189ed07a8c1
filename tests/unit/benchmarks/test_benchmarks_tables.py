"""Stored climbs → Markdown tables in marked regions."""

import json

import pytest

import tables
from stepladder.domain.errors import DataError


def rung(name, status="ran", **changes):
    cost = {"prompt_tokens_per_call": 80.4, "completion_tokens_per_call": 12.0, "seconds_per_call": 0.25, "seconds_once": 61.0}
    base = {
        "name": name,
        "status": status,
        "reason": "",
        "role": "",
        "validation": None,
        "test": None,
        "metrics": {},
        "cost": cost,
        "tuned": "lora" in name,
        "cut_share": 0.125,
    }
    return {**base, **changes}


def interval(value):
    return {"value": value, "low": value - 0.1, "high": value + 0.1}


BOATS = {
    "name": "boats",
    "grader": "json_fields",
    "regime": "medium",
    "split_sizes": {"train": 12, "test": 8},
    "target": None,
    "minimum_gain": 0.03,
    "fixed": 3,
    "broken": 1,
    "seconds": 540.0,
    "model": {"name": "tiny", "dtype": "bfloat16"},
    "verdict": {"outcome": "sufficient", "rung": "few-shot", "confidence": "confirmed", "sentence": "Use few-shot."},
    "machine": {
        "commit": "abc123",
        "dirty": True,
        "date": "2026-01-02",
        "cores": 2,
        "cpu": "CPU X",
        "versions": {"torch": "2.13"},
    },
    "rungs": [
        rung("prompt", validation=interval(0.2), test=interval(0.25), role="zero-shot", metrics={"test/parses": 0.5}),
        rung("few-shot", validation=interval(0.7), test=interval(0.72), role="nominee", metrics={"test/parses": 1.0}),
        rung("nearest", validation=interval(0.6), metrics={"validation/parses": 0.9}),
        rung("rag", "not applicable", reason="no documents"),
    ],
}
PROVENANCE = "tiny (bfloat16), commit abc123 with local changes, 2026-01-02, 9 min on 2 cores of CPU X; torch 2.13."
OVERVIEW = f"""\
| rung | boats (json_fields) |
| :-- | --: |
| `prompt` | 0.25 [0.15, 0.35] |
| `few-shot` | **0.72 [0.62, 0.82]** |
| `nearest` | *0.60* |
| `rag` | not applicable |

Test score [95 % interval]; *validation score* where a rung was no contender; **bold**: the verdict's rung.

- **boats**: Use few-shot.

boats: {PROVENANCE}"""
TASK_TABLE = f"""\
| rung | validation | test | parses | cut answers | prompt + answer tokens | s per 1,000 calls | s once | remark |
| :-- | --: | --: | --: | --: | --: | --: | --: | :-- |
| `prompt` | 0.20 [0.10, 0.30] | 0.25 [0.15, 0.35] | 0.50 | 12% | 80 + 12 | 250 | 61 | zero-shot |
| `few-shot` | 0.70 [0.60, 0.80] | 0.72 [0.62, 0.82] | 1.00 | 12% | 80 + 12 | 250 | 61 | nominee |
| `nearest` | 0.60 [0.50, 0.70] | – | *0.90* | 12% | 80 + 12 | 250 | 61 |  |
| `rag` | – | – | – | – | – | – | – | not applicable; no documents |

**sufficient** (confirmed): Use few-shot.

Rows: train 12, test 8 (medium). Grader json_fields; best value, minimum gain 0.03.

Test rows that `few-shot` fixed and broke against `prompt`: 3 and 1.

{PROVENANCE}"""


def test_the_overview_is_this_table():
    assert tables.overview([BOATS]) == OVERVIEW


def test_the_table_of_one_task_is_this():
    assert tables.task_table(BOATS) == TASK_TABLE


def test_rows_fixed_and_broken_name_the_two_rungs_they_compare_whichever_of_them_won():
    tuned = rung("lora", test=interval(0.6), role="tuned champion")
    assert "that `lora` fixed and broke against `few-shot`: 3 and 1." in tables.task_table(
        {**BOATS, "rungs": [*BOATS["rungs"], tuned]}
    )
    alone = {**BOATS, "rungs": [rung("prompt", test=interval(0.2), role="zero-shot, best untuned")]}
    assert "fixed and broke" not in tables.task_table(alone)


def test_rows_fixed_and_broken_are_those_the_verdict_counts_where_it_names_the_same_step():
    tuned = rung("lora", test=interval(0.6), role="tuned champion")
    sentence = "lora is worth its price: 9.2 points more than few-shot (57 rows fixed, 31 broken); it costs nothing."
    verdict = {**BOATS["verdict"], "rung": "lora", "sentence": sentence}
    result = {**BOATS, "rungs": [*BOATS["rungs"], tuned], "verdict": verdict}
    assert "that `lora` fixed and broke against `few-shot`: 57 and 31." in tables.task_table(result)
    other = {**verdict, "sentence": sentence.replace("few-shot", "prompt")}
    assert "against `few-shot`: 3 and 1." in tables.task_table({**result, "verdict": other})


def test_tasks_stand_side_by_side_and_a_rung_one_lacks_is_a_dash():
    other = {**BOATS, "name": "ferries", "rungs": [rung("prompt", test=interval(0.5)), rung("lora", "failed")]}
    lines = tables.overview([BOATS, other]).split("\n")
    assert lines[0] == "| rung | boats (json_fields) | ferries (json_fields) |"
    assert "| `few-shot` | **0.72 [0.62, 0.82]** | – |" in lines
    assert "| `lora` | – | failed |" in lines


def test_recall_and_the_controls_of_retrieval_stand_below_the_table():
    found = {"recall": {"1": 0.5, "3": 0.75}, "gold_rows": 8, "closed_book": 0.1, "retrieved": 0.4, "oracle_context": 0.625}
    told = tables.task_table({**BOATS, "rungs": [rung("rag", retrieval=found)]})
    assert (
        "`rag`, on the 8 validation rows with a gold passage: recall@1 0.50, recall@3 0.75; score as retrieved 0.40, "
        "gold passages alone 0.62; `prompt` without documents, on all rows, 0.10." in told
    )
    unknown = rung("rag", retrieval={**found, "recall": "not measurable"})
    assert "`rag`: recall not measurable." in tables.task_table({**BOATS, "rungs": [unknown]})


def bundled(name, *rungs, won, outcome="sufficient"):
    return {**BOATS, "name": name, "rungs": list(rungs), "verdict": {**BOATS["verdict"], "rung": won, "outcome": outcome}}


def test_what_won_on_each_bundled_task_is_one_row_in_their_own_order():
    zero = rung("prompt", test=interval(0.25), role="zero-shot")
    repairs = bundled("repairs", zero, rung("classifier", test=interval(0.9), role="nominee, best untuned"), won="classifier")
    voice = bundled("voice", zero, rung("few-shot", test=interval(0.5), role="best untuned"), won="lora")
    voice["rungs"].append(rung("lora", test=interval(0.75), role="tuned champion"))
    handbook = bundled("handbook", zero, rung("lora", "refused"), won=None, outcome="undecided")
    lines = tables.bundled_table([handbook, repairs, voice]).split("\n")
    assert [line.split(" | ")[0] for line in lines[2:5]] == ["| `handbook`", "| `voice`", "| `repairs`"]
    assert lines[3] == (
        "| `voice` | json_fields | 0.25 [0.15, 0.35] | `few-shot` 0.50 [0.40, 0.60] | `lora` 0.75 [0.65, 0.85] | `lora` |"
        " sufficient (confirmed) |"
    )
    assert lines[2].endswith("| 0.25 [0.15, 0.35] | ran | refused | – | undecided (confirmed) |")
    assert lines[4].endswith("| `classifier` 0.90 [0.80, 1.00] | – | `classifier` | sufficient (confirmed) |")


def test_a_bundled_task_is_not_shown_among_public_data(repository):
    store(repository)
    path = store(repository, bundled("voice", rung("prompt"), won="prompt"))
    log = repository / "docs" / "log.md"
    log.write_text(log.read_text(encoding="utf-8") + "<!-- table:real:voice -->\n<!-- /table:real:voice -->\n", encoding="utf-8")
    readme = repository / "README.md"
    readme.write_text(readme.read_text(encoding="utf-8") + "<!-- table:bundled -->\n<!-- /table:bundled -->\n", encoding="utf-8")
    assert tables.main([], repository=repository) == 0
    told, _, won = readme.read_text(encoding="utf-8").partition("<!-- table:bundled -->")
    assert OVERVIEW in told
    assert "| `voice` |" in won
    path.unlink()
    assert tables.main([], repository=repository) == 0
    assert "voice" not in readme.read_text(encoding="utf-8")


def test_a_reason_can_neither_break_the_table_nor_forge_a_marker():
    result = {**BOATS, "rungs": [rung("rag", "failed", reason="a | b\nc <!-- /table:real:boats -->")]}
    row = tables.task_table(result).split("\n")[2]
    assert row.endswith(r"| failed; a \| b c &lt;!-- /table:real:boats --> |")


@pytest.fixture
def repository(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text("# Boats\n<!-- table:real -->\n<!-- /table:real -->\nafter\n", encoding="utf-8")
    (tmp_path / "docs" / "log.md").write_text("<!-- table:real:boats -->\n\n<!-- /table:real:boats -->\n", encoding="utf-8")
    return tmp_path


def store(repository, result=BOATS):
    path = repository / "benchmarks" / "results" / "real" / f"{result['name']}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result), encoding="utf-8")
    return path


def test_tables_are_written_between_their_markers_and_then_up_to_date(repository):
    store(repository)
    assert tables.main([], repository=repository) == 0
    readme = (repository / "README.md").read_text(encoding="utf-8")
    assert readme == f"# Boats\n<!-- table:real -->\n\n{OVERVIEW}\n\n<!-- /table:real -->\nafter\n"
    log = (repository / "docs" / "log.md").read_text(encoding="utf-8")
    assert log == f"<!-- table:real:boats -->\n\n{TASK_TABLE}\n\n<!-- /table:real:boats -->\n"
    assert tables.main(["--check"], repository=repository) == 0


def test_check_says_what_is_out_of_date_and_writes_nothing(repository, capsys):
    store(repository)
    before = (repository / "README.md").read_bytes()
    assert tables.main(["--check"], repository=repository) == 1
    said = capsys.readouterr().out
    assert "README.md: out of date" in said
    assert "log.md: out of date" in said
    assert (repository / "README.md").read_bytes() == before


def test_without_results_and_with_empty_regions_there_is_nothing_to_do(repository):
    assert tables.main(["--check"], repository=repository) == 0
    assert tables.update(repository, check=False) == []


def test_without_results_markers_need_not_exist(tmp_path):
    assert tables.main(["--check"], repository=tmp_path) == 0
    (tmp_path / "README.md").write_text("no markers", encoding="utf-8")
    assert tables.main(["--check"], repository=tmp_path) == 0


def test_a_table_whose_result_is_gone_is_out_of_date(repository):
    path = store(repository)
    tables.main([], repository=repository)
    path.unlink()
    assert tables.main(["--check"], repository=repository) == 1
    tables.main([], repository=repository)
    assert "few-shot" not in (repository / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<!-- table:real -->",
        "<!-- /table:real --> <!-- table:real -->",
        "<!-- table:real --> <!-- table:real --> <!-- /table:real -->",
    ],
)
def test_a_missing_marker_is_a_clear_error(repository, text, capsys):
    store(repository)
    (repository / "README.md").write_text(text, encoding="utf-8")
    assert tables.main([], repository=repository) == 3
    assert "README.md: the table has no place of its own here: `<!-- table:real -->`" in capsys.readouterr().err


def test_a_file_to_write_into_must_exist(repository):
    store(repository)
    (repository / "docs" / "log.md").unlink()
    with pytest.raises(DataError, match=r"log\.md: there is no such file for the tables"):
        tables.update(repository, check=True)


def test_a_broken_result_is_named(repository, capsys):
    store(repository).write_text("{broken", encoding="utf-8")
    assert tables.main([], repository=repository) == 3
    assert "boats.json: not JSON" in capsys.readouterr().err


MACHINE = {"commit": "abc", "dirty": False, "date": "2026-01-02", "cores": 2, "cpu": "CPU X", "versions": {"scipy": "1.0"}}


def test_recall_of_planted_faults_stands_with_its_bound_or_with_the_reason_for_none():
    recall = [
        {"kind": "copied row", "codes": ["duplicate"], "planted": 12, "found": 12, "bound": 1.0, "why_no_bound": ""},
        {"kind": "wrong label", "codes": ["label-doubt"], "planted": 12, "found": 6, "bound": None, "why_no_bound": "a guess"},
    ]
    precision = [{"set": "boats", "rows": 90, "block": {}, "warn": {"echo": 2}, "note": {"learned-share": 0}}]
    text = tables.checks_table({"recall": recall, "precision": precision, "machine": MACHINE})
    assert "| copied row | `duplicate` | 12 of 12 | 100% | 100% |" in text
    assert "| wrong label | `label-doubt` | 6 of 12 | 50% | – |" in text
    assert "No bound for *wrong label*: a guess." in text
    assert "| boats (90 rows) | – | `echo` (2) | `learned-share` |" in text
    assert text.endswith("Commit abc, 2026-01-02, 2 cores of CPU X; scipy 1.0.")


def test_trials_of_learning_curves_say_how_many_intervals_held():
    row = {
        "rung": "classifier",
        "set": "boats",
        "rows": 40,
        "validation_rows": 70,
        "trials": 60,
        "held": 51,
        "mean_width": 0.1234,
    }
    row |= {"mean_gain": 0.05, "mean_forecast_gain": 0.04, "said_unlikely_to_help": 7, "of_these_gained_the_minimum": 1}
    text = tables.curve_table({"trials": [row], "held": {"classifier": 0.85}, "machine": MACHINE})
    assert "| `classifier` | boats | 40 → 80 | 51 of 60 | 0.123 | +0.050 | +0.040 | 1 of 7 |" in text
    assert "Held in all: `classifier` 85%." in text


def test_curves_of_the_fine_tune_show_every_size_and_the_forecast():
    points = [{"rows": rows, "draw": draw, "score": score} for rows, score in ((10, 0.4), (20, 0.5)) for draw in range(3)]
    twice = {"score": interval(0.6), "gain": interval(0.1), "probability_minimum": 0.875}
    curve = {"set": "boats", "rows": 24, "scored_rows": 30, "points": points, "doubling": twice, "seconds": 300.0}
    text = tables.lora_curves_table({"curves": [curve, {**curve, "doubling": None}], "machine": MACHINE})
    assert "| boats | 24 | 30 | 10: 0.40, 20: 0.50 | 0.60 [0.50, 0.70] | 0.10 [0.00, 0.20] | 88% | 5 |" in text
    assert "| boats | 24 | 30 | 10: 0.40, 20: 0.50 | – | – | – | 5 |" in text
