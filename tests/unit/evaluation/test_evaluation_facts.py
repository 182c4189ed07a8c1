from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import stepladder
from stepladder.domain.messages import Example, Input, Message
from stepladder.domain.task import DataSettings, LabelsGrader, OutputSettings, Task, TaskSettings, UseSettings
from stepladder.domain.verdict import Cost
from stepladder.evaluation.facts import FactReport, find_facts, open_spans, reference_spans, report_facts
from stepladder.evaluation.refusal import tuning_refusal

SCHEMA = {
    "type": "object",
    "properties": {
        "topic": {"enum": ["refund", "other"]},
        "urgent": {"type": "boolean"},
        "product": {"anyOf": [{"$ref": "#/$defs/product"}, {"type": "null"}]},
        "amount": {"type": "number"},
        "level": {"$ref": "#/$defs/level"},
        "note": {"type": "string"},
        "tags": {"type": "array", "items": {"type": "string"}},
    },
    "$defs": {"product": {"type": "string"}, "level": {"enum": ["high", "low"]}},
}


def make_task(folder: Path = Path("nowhere"), instruction: str = "Answer.", **settings: object) -> Task:
    data = DataSettings(examples="examples.jsonl")
    return Task(folder=folder, settings=TaskSettings(name="t", instruction=instruction, data=data, **settings))  # type: ignore[arg-type]


def row(id: str, question: str, answer: str) -> Example:
    return Example(input=Input.of(question, id), reference=Message("assistant", answer))


@pytest.mark.parametrize(
    ("text", "spans"),
    [
        ("The office closes at 17:30 on Friday.", {"17:30", "Friday"}),
        ("Ask Dr Mara Oyelaran in room B-204.", {"B-204", "Dr Mara Oyelaran"}),
        ("Please wait. We call back.", set()),
        ("It was founded on 12 March 1987 by the Bank of Harwick.", {"12 March 1987", "Bank of Harwick"}),
        ("Write to help@harwick.example before 2026-01-31!", {"help@harwick.example", "2026-01-31"}),
        ("It costs 1,250.50 euros and I think that is OK", {"1,250.50"}),
        ("See https://harwick.example/faq.", {"https://harwick.example/faq"}),
        ("yes, within thirty days", set()),
    ],
)
def test_names_numbers_dates_and_codes_are_open_vocabulary(text: str, spans: set[str]) -> None:
    assert set(open_spans(text)) == spans


@settings(deadline=None, max_examples=80)
@given(st.text(max_size=200))
def test_any_text_can_be_searched_and_every_span_stands_in_it(text: str) -> None:
    assert all(span in text for span in open_spans(text))


def test_labels_enums_booleans_and_keys_are_no_facts_but_other_values_are(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text(json.dumps(SCHEMA), encoding="utf-8")
    task = make_task(tmp_path, output=OutputSettings(json_schema="s.json"))
    reference = {
        "topic": "refund",
        "urgent": True,
        "product": "kettle",
        "amount": 17.5,
        "level": "high",
        "note": "the customer was promised a call by Mara on Friday evening",
        "tags": ["late", "parcel"],
    }
    spans = reference_spans(row("1", "q", json.dumps(reference)), task)
    assert spans == ("kettle", "17.5", "Mara", "Friday", "late", "parcel")
    assert reference_spans(row("1", "q", "Alice in Rome"), make_task(output=OutputSettings(labels=("Alice in Rome", "b")))) == ()
    assert reference_spans(row("1", "q", "In Rome"), make_task(graders=(LabelsGrader(),))) == ()


def test_a_span_in_the_input_the_instruction_or_two_training_clusters_is_no_fact() -> None:
    task = make_task(instruction="You answer for Harwick Water.")
    train = [row("t1", "q", "We use Neptune 5."), row("t2", "q", "Ask for Neptune 5."), row("t3", "q", "Ask for Saturn.")]
    validation = [
        row("v1", "Is Mara there?", "Yes, Mara is at Harwick Water."),
        row("v2", "Which pump?", "It is the Neptune."),
        row("v3", "Which other pump?", "It is the Saturn."),
        row("v4", "How much for 1250?", "It is 1,250."),
    ]
    clusters = {"t1": 1, "t2": 2, "t3": 3}
    assert find_facts(validation, train, clusters, task) == {"v3": ("Saturn",)}
    same_cluster = {"t1": 1, "t2": 1, "t3": 3}
    assert find_facts(validation, train, same_cluster, task) == {"v2": ("Neptune",), "v3": ("Saturn",)}


TRAIN_LABELS = [row(f"l{n}", f"message {n}", ("praise", "complaint", "question")[n % 3]) for n in range(9)]


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("How do green plants feed on light?", "photosynthesis"),
        ("What keeps the ferry from drifting?", "a chain across the river"),
        ("Where may visitors leave their dogs?", "the kennel behind the canteen."),
        ("Who came to England in the year of the comet?", "Normans"),
    ],
)
def test_a_short_answer_that_is_read_off_somewhere_is_a_fact_as_a_whole(question: str, answer: str) -> None:
    found = find_facts([row("v", question, answer)], TRAIN_LABELS, {}, make_task())
    assert found == {"v": (answer,)}
    assert report_facts(found, {"v": [f"I think it is {answer}, really"]}, 1).facts == {}


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("message 10", "complaint"),  # a label, though no list names it: three training rows say it
        ("Shorten: the old ferry was late because of a storm", "old ferry late, storm"),
        ("Mend: he walk to the harbours", "he walked to the harbour"),
        ("Which is taller, the mast or the chimney?", "the chimney"),
        ("Say it in JSON: a lark", '{"bird": "lark"}'),
        ("How is bread made?", "flour, water and salt are kneaded and then baked until brown"),
    ],
)
def test_a_short_answer_is_no_fact_where_it_rewords_its_input_or_is_a_label_or_an_essay(question: str, answer: str) -> None:
    assert find_facts([row("v", question, answer)], TRAIN_LABELS, {}, make_task()) == {}


def test_closed_answers_are_no_facts_however_short() -> None:
    rows = [row("v", "What feeds on light?", "photosynthesis")]
    labelled = make_task(output=OutputSettings(labels=("photosynthesis", "respiration")))
    assert find_facts(rows, [], {}, labelled) == {}
    assert find_facts(rows, [], {}, make_task(output=OutputSettings(regex="photosynthesis|respiration"))) == {}


@pytest.mark.parametrize("name", ["voice", "clinic", "repairs", "tickets"])
def test_bundled_tasks_of_style_and_labels_are_not_fact_bound(name: str) -> None:
    task = Task.load(Path(stepladder.__file__).parent / "data" / "bundled" / name)
    lines = (task.folder / "examples.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [row(line["id"], line["prompt"], line["completion"]) for line in map(json.loads, lines)]
    assert len(find_facts(rows, rows, {}, task)) < 0.1 * len(rows)


def test_a_name_whose_words_all_stand_in_the_input_and_a_day_written_out_are_no_facts() -> None:
    rows = [
        row("a", "Mrs Aoife Brennan asks about engraving.", "We do not engrave, Mrs Brennan, whatever the occasion."),
        row("b", "Visits Mon/Thu, list 14 Nov.", "The nurse visits on Monday and Thursday, from 14 November on."),
        row("c", "Mrs Brennan asks.", "Please go and ask Mrs Oyelaran about all of this."),
    ]
    assert find_facts(rows, [], {}, make_task()) == {"c": ("Mrs Oyelaran",)}


def test_a_rows_own_cluster_does_not_count_as_seen() -> None:
    rows = [row("a", "q", "It is Saturn."), row("b", "q", "Yes, Saturn."), row("c", "q", "No, Saturn.")]
    assert find_facts(rows[:1], rows, {"a": 1, "b": 1, "c": 2}, make_task()) == {"a": ("Saturn",)}
    assert find_facts(rows[:1], rows, {"a": 1, "b": 2, "c": 3}, make_task()) == {}


def test_what_the_model_says_closed_book_is_no_fact() -> None:
    lacking = {"v1": ("Paris", "1889"), "v2": ("Mara",)}
    report = report_facts(lacking, {"v1": ["I guess Rome", "paris, in 1889?"], "v2": ["Nobody knows"]}, 10)
    assert report == FactReport({"v2": ("Mara",)}, 10)
    assert report.share == pytest.approx(0.1)


def facts(count: int, rows: int = 10) -> FactReport:
    return FactReport({f"v{i}": ("Mara",) for i in range(count)}, rows)


def test_a_fact_bound_task_is_refused_with_the_rows_that_show_it() -> None:
    refusal = tuning_refusal(make_task(), facts(3), None)
    assert refusal is not None
    assert (refusal.kind, set(refusal.rows)) == ("fact-bound", {"v0", "v1", "v2"})
    assert "This is a RAG task: 3 of 10 validation rows" in refusal.sentence
    assert "row v0: 'Mara'" in refusal.sentence
    assert tuning_refusal(make_task(), facts(2), None) is None
    assert tuning_refusal(make_task(), FactReport({}, 0), None) is None


def test_a_style_task_is_exempt_from_the_fact_check() -> None:
    assert tuning_refusal(make_task(output=OutputSettings(style=True)), facts(10), None) is None


@pytest.mark.parametrize("change", ["weekly", "daily"])
def test_facts_that_change_are_refused_as_changing(change: str) -> None:
    refusal = tuning_refusal(make_task(use=UseSettings(facts_change=change)), facts(4), None)  # type: ignore[arg-type]
    assert refusal is not None
    assert refusal.kind == "changing"
    assert f"the facts change {change}" in refusal.sentence
    assert len(refusal.rows) == 4
    assert tuning_refusal(make_task(use=UseSettings(facts_change=change)), facts(1), None) is None  # type: ignore[arg-type]


def test_a_one_off_job_below_break_even_is_refused() -> None:
    one_off = make_task(use=UseSettings(calls_total=2_000))
    untuned = Cost(seconds_once=10, seconds_per_call=2, calls=2_000)
    tuned = Cost(seconds_once=5_010, seconds_per_call=1, calls=2_000)
    refusal = tuning_refusal(one_off, None, tuned, untuned)
    assert refusal is not None
    assert refusal.kind == "one-off"
    assert "2,000 calls; tuning pays for itself from 5,000 calls." in refusal.sentence
    never = tuning_refusal(one_off, facts(0), replace(tuned, seconds_per_call=2), untuned)
    assert never is not None
    assert "tuning pays for itself at no number of calls." in never.sentence
    assert tuning_refusal(one_off, None, replace(tuned, seconds_once=1_510), untuned) is None
    assert tuning_refusal(one_off, None) is None
    assert tuning_refusal(make_task(use=UseSettings(calls_per_month=1)), None, tuned, untuned) is None


def test_a_one_off_job_that_tuning_is_cheaper_to_set_up_for_is_not_refused() -> None:
    """Each call costs more, and the job ends before that matters."""
    one_off = make_task(use=UseSettings(calls_total=2_000))
    indexed = Cost(seconds_once=5_000, seconds_per_call=1, calls=2_000)
    assert tuning_refusal(one_off, None, Cost(seconds_once=500, seconds_per_call=2, calls=2_000), indexed) is None
    late = tuning_refusal(one_off, None, Cost(seconds_once=4_000, seconds_per_call=2, calls=2_000), indexed)
    assert late is not None
    assert late.sentence == "This is a one-off job of 2,000 calls; tuning pays for itself only below 1,000 calls."
