from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.translate.bleu_score import sentence_bleu
from nltk.translate.gleu_score import sentence_gleu
from rapidfuzz import fuzz
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics.bleu import BLEU

from stepladder.domain.errors import DataError
from stepladder.domain.messages import Example, Input, Message
from stepladder.domain.prediction import Grade, Score, Ungraded
from stepladder.domain.task import DataSettings, Task, TaskSettings
from stepladder.evaluation.graders import GraderRefused, GraderTools, build_graders, from_openai, run_openai, validate_openai
from stepladder.evaluation.graders.formula import Formula
from stepladder.evaluation.graders.reward import Fault, Reward, Subject, Trouble
from stepladder.evaluation.graders.template import Missing, Template
from stepladder.techniques.fake import FakeEmbedder

WORDS = st.lists(st.sampled_from("the cat sat on a mat and then it ran, far away.".split()), min_size=5, max_size=14).map(
    " ".join
)
ERROR_FLAGS = 11
ERROR_DETAILS = 3


def example(reference: str = "Paris", answer_to: str = "Capital of France?", **columns: str) -> Example:
    return Example(input=Input.of(answer_to, id="row-1"), reference=Message("assistant", reference), metadata=columns)


def grade(answer: str, of: Example | None = None, **grader: Any) -> Grade:
    """The grade by a grader that stands in a task.toml."""
    task = make_task([grader])
    (built,) = build_graders(task, GraderTools(embedder=FakeEmbedder))
    return built.grade(of or example(), answer)


def make_task(graders: list[dict[str, Any]], folder: Path = Path("nowhere")) -> Task:
    data = DataSettings(examples="examples.jsonl")
    return Task(folder=folder, settings=TaskSettings(name="t", instruction="Answer.", data=data, graders=graders))  # type: ignore[arg-type]


def reward(grader: dict[str, Any], answer: str, item: dict[str, Any] | None = None) -> Reward | Fault:
    return from_openai(grader).reward(Subject(item or {}, answer))


def value(found: Grade) -> float:
    assert isinstance(found, Score), found
    return found.value


def similarity(metric: str, answer: str, reference: str) -> float:
    found = reward(
        {"type": "text_similarity", "input": answer, "reference": reference, "evaluation_metric": metric}, "not looked at"
    )
    assert isinstance(found, Reward), found
    return found.value


# Templates ------------------------------------------------------------------------------------------------------------

ITEM = {"a": "x", "n": 3, "half": 0.5, "none": None, "deep": {"list": [{"b c": "y"}, 2]}, "0": "zero", "yes": True}


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ item.a }}", "x"),
        ("{{item.a}}-{{  item.n\t}}", "x-3"),
        ("{{ item.half }} {{ item.none }} {{ item.yes }}", "0.5 null true"),
        ("{{ item.deep.list[0]['b c'] }}", "y"),
        ('{{ item.deep.list[0]["b c"] }}', "y"),
        ("{{ item.deep.list.1 }}", "2"),
        ("{{ item.deep }}", '{"list": [{"b c": "y"}, 2]}'),
        ("{{ sample.output_text }}", '{"k": [1, "two"]}'),
        ("{{ sample.output_json.k[1] }}", "two"),
        ("{{ sample.choices[0].message.content }}", '{"k": [1, "two"]}'),
        ("no hole { here }}", "no hole { here }}"),
        ("", ""),
    ],
)
def test_templates_read_rows_and_answers(template: str, text: str) -> None:
    assert Template.parse(template, "input").render(Subject(ITEM, '{"k": [1, "two"]}')) == text


def test_what_is_filled_in_is_never_read_as_a_template() -> None:
    subject = Subject({"a": "{{ item.secret }}", "secret": "s"}, "{{ item.secret }}")
    assert (
        Template.parse("{{ item.a }} {{ sample.output_text }}", "input").render(subject) == "{{ item.secret }} {{ item.secret }}"
    )


@pytest.mark.parametrize(
    "template",
    [
        "{{ }}",
        "{{ item }}",
        "{{ items.a }}",
        "{{ item.a b }}",
        "{{ item..a }}",
        "{{ item.a | upper }}",
        "{{ item['a }}",
        "{{ sample.output_tools[0].function.name }}",
        "{{ sample.output_audio }}",
        "{{ ''.__class__ }}",
    ],
)
def test_a_hole_that_reads_nothing_a_grader_has_is_refused(template: str) -> None:
    with pytest.raises(GraderRefused) as refused:
        Template.parse(template, "input")
    assert refused.value.param == "input"


@pytest.mark.parametrize("hole", ["item.b", "item.a.b", "item.deep.list[7]", "item.deep.list.x", "sample.output_json.q"])
def test_a_value_that_is_not_there_is_missing(hole: str) -> None:
    with pytest.raises(Missing):
        Template.parse(f"{{{{ {hole} }}}}", "input").render(Subject(ITEM, "[1]"))


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from("{}item.sample[]0'\"_ output_text\n\\"), max_size=40))
def test_any_text_is_a_template_or_refused(text: str) -> None:
    try:
        parsed = Template.parse(text, "input")
    except GraderRefused:
        return
    with suppress(Missing):
        assert "answer" in parsed.render(Subject({"i": "x"}, "answer")) or not parsed.variables


# string_check -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operation", "answer", "reference", "value"),
    [
        ("eq", "Paris", "Paris", 1),
        ("eq", "Paris ", "Paris", 0),
        ("eq", "paris", "Paris", 0),
        ("ne", "Paris", "Paris", 0),
        ("ne", "Rome", "Paris", 1),
        ("like", "It is Paris.", "Paris", 1),
        ("like", "It is paris.", "Paris", 0),
        ("like", "Par", "Paris", 0),
        ("ilike", "it is PARIS", "Paris", 1),
        ("ilike", "die STRASSE", "Straße", 1),
        ("ilike", "Rome", "Paris", 0),
    ],
)
def test_string_check_compares_as_openai_says(operation: str, answer: str, reference: str, value: int) -> None:
    check = {"type": "string_check", "name": "s", "input": "{{sample.output_text}}", "reference": "{{item.label}}"}
    assert reward({**check, "operation": operation}, answer, {"label": reference}) == Reward(float(value))
    assert grade(answer, example(reference), type="string_check", operation=operation) == Score(float(value))


def test_a_row_without_what_a_template_reads_is_ungraded_and_named() -> None:
    found = grade("x", type="string_check", reference="{{ item.label }}")
    assert isinstance(found, Ungraded)
    assert "'item.label'" in found.reason


def test_columns_of_the_row_and_parts_of_a_json_reference_can_be_read() -> None:
    row = example('{"city": "Paris"}', label="seen", input="taken")
    assert grade("seen", row, type="string_check", reference="{{ item.label }}") == Score(1.0)
    assert grade("Paris", row, type="string_check", reference="{{ item.reference_json.city }}") == Score(1.0)
    assert grade("Capital of France?", row, type="string_check", reference="{{ item.input }}") == Score(1.0)
    assert grade("taken", row, type="string_check", reference="{{ item.metadata.input }}") == Score(1.0)
    assert grade("Answer. row-1", row, type="string_check", reference="{{ item.instruction }} {{ item.id }}") == Score(1.0)


def test_an_answer_that_is_not_the_json_a_template_reads_is_wrong_and_not_ungraded() -> None:
    check = {"type": "string_check", "input": "{{ sample.output_json.city }}", "reference": "Paris", "operation": "eq"}
    assert grade('{"city": "Paris"}', **check) == Score(1.0)
    assert grade('{"town": "Paris"}', **check) == Score(0.0)
    assert grade("Paris", **check) == Score(0.0)
    assert grade("[" * 100_000, **check) == Score(0.0)
    assert reward(check, "Paris") == Reward(0.0, trouble=Trouble.SAMPLE)


# text_similarity --------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(WORDS, WORDS)
def test_fuzzy_match_is_rapidfuzzs_weighted_ratio(answer: str, reference: str) -> None:
    assert similarity("fuzzy_match", answer, reference) == pytest.approx(fuzz.WRatio(answer, reference) / 100)


@settings(max_examples=60, deadline=None)
@given(WORDS, WORDS)
def test_rouge_is_rouge_scores_f_measure(answer: str, reference: str) -> None:
    kinds = {**{f"rouge_{size}": f"rouge{size}" for size in range(1, 6)}, "rouge_l": "rougeL"}
    oracle = RougeScorer(list(kinds.values())).score(reference, answer)
    for ours, theirs in kinds.items():
        assert similarity(ours, answer, reference) == pytest.approx(oracle[theirs].fmeasure), ours


def tokens(text: str) -> list[str]:
    return text.replace(",", " ,").replace(".", " .").split()


@settings(max_examples=60, deadline=None)
@given(WORDS, WORDS)
def test_gleu_is_nltks(answer: str, reference: str) -> None:
    assert similarity("gleu", answer, reference) == pytest.approx(sentence_gleu([tokens(reference)], tokens(answer)))


@settings(max_examples=60, deadline=None)
@given(WORDS, WORDS)
def test_bleu_is_sacrebleus_and_nltks_where_nothing_needs_smoothing(answer: str, reference: str) -> None:
    found = similarity("bleu", answer, reference)
    assert found == pytest.approx(BLEU(effective_order=True).sentence_score(answer, [reference]).score / 100)
    shared = similarity("rouge_4", answer.replace(",", "q").replace(".", "q"), reference.replace(",", "q").replace(".", "q"))
    if shared:
        assert found == pytest.approx(sentence_bleu([tokens(reference)], tokens(answer)), abs=1e-9)


def test_cosine_is_that_of_the_embedder_and_opposite_texts_score_zero() -> None:
    first, second = FakeEmbedder().embed(["the river flows", "a river flows"]).astype(np.float64)
    expected = max(0.0, float(first @ second))
    row = example("a river flows")
    assert value(grade("the river flows", row, type="text_similarity", evaluation_metric="cosine")) == pytest.approx(expected)
    assert value(grade("a river flows", row, type="text_similarity", evaluation_metric="cosine")) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("metric", "reference", "reason"),
    [
        ("rouge_1", "東京です", "1 words, and finds 0"),
        ("rouge_2", "hi", "2 words, and finds 1"),
        ("rouge_l", "!!!", "a–z and 0–9 only"),
    ],
)
def test_a_reference_the_metric_cannot_see_leaves_the_row_ungraded(metric: str, reference: str, reason: str) -> None:
    found = grade(reference, example(reference), type="text_similarity", evaluation_metric=metric)
    assert isinstance(found, Ungraded)
    assert reason in found.reason


@pytest.mark.parametrize("metric", ["fuzzy_match", "bleu", "gleu", "rouge_1", "rouge_5", "rouge_l", "cosine"])
def test_equal_texts_score_one_and_an_empty_answer_zero(metric: str) -> None:
    text = "the cat sat on the mat today"
    assert value(grade(text, example(text), type="text_similarity", evaluation_metric=metric)) == pytest.approx(1.0)
    assert grade("", example(text), type="text_similarity", evaluation_metric=metric) == Score(0.0)


def test_a_threshold_makes_a_number_right_or_wrong() -> None:
    fuzzy = {"type": "text_similarity", "evaluation_metric": "rouge_1", "pass_threshold": 0.5}
    assert grade("the cat", example("the cat sat"), **fuzzy) == Score(1.0)
    assert grade("a cat", example("the dog sat"), **fuzzy) == Score(0.0)


METEOR = """
import sys, nltk
nltk.data.path[:] = [sys.argv[1]]
from stepladder.evaluation.graders.meteor import load_meteor
from stepladder.evaluation.graders.reward import GraderRefused
try:
    print(load_meteor()(*sys.argv[2:]))
except GraderRefused as error:
    print(error)
"""


def meteor(folder: Path, answer: str, reference: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", METEOR, str(folder), answer, reference], capture_output=True, text=True, env={**os.environ}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_meteor_uses_the_wordnet_at_hand_and_is_refused_by_name_without_it(tmp_path: Path) -> None:
    assert meteor(tmp_path, "x", "y").startswith("the metric meteor needs WordNet, which is not at hand. Run: pip install nltk")
    write_wordnet(tmp_path / "corpora" / "wordnet", ["car", "auto"])
    four_matches_in_one_piece = 1 - 0.5 * (1 / 4) ** 3
    assert float(meteor(tmp_path, "the auto stops now", "the car stops now")) == pytest.approx(four_matches_in_one_piece)
    assert float(meteor(tmp_path, "the tractor stops now", "the car stops now")) < 0.8


def write_wordnet(folder: Path, synonyms: list[str]) -> None:
    """A WordNet of one set of synonyms, in the files that nltk reads."""
    folder.mkdir(parents=True)
    for part in ("adj", "adv", "noun", "verb"):
        for name in (f"index.{part}", f"data.{part}", f"{part}.exc"):
            (folder / name).write_text("")
    for name in ("cntlist.rev", "index.sense"):
        (folder / name).write_text("")
    (folder / "lexnames").write_text("00\tadj.all\t3\n")
    (folder / "data.noun").write_text(
        f"00000000 00 n {len(synonyms):02x} {' '.join(f'{word} 0' for word in synonyms)} 000 | a thing\n"
    )
    (folder / "index.noun").write_text("".join(f"{word} n 1 0 1 0 00000000\n" for word in sorted(synonyms)))


# multi ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("formula", "value"),
    [
        ("0.5 * a + 0.5 * b", 0.5),
        ("a - b / 2 + 1e-1", 0.725),
        ("-2^2 + 2^3^2/128", 0.0),
        ("2 ^ -1", 0.5),
        ("min(a, b, .7) + max(a,b)*0 + abs(-b)", 0.5),
        ("floor(1.7) - ceil(0.2) + sqrt(4) + exp(0) + log(1)", 3.0),
        ("((a))", 0.75),
        ("- - a", 0.75),
        ("1/3", 1 / 3),
    ],
)
def test_formulas_follow_the_rules_of_arithmetic(formula: str, value: float) -> None:
    assert Formula.parse(formula).value({"a": 0.75, "b": 0.25}) == pytest.approx(value)


@settings(max_examples=200, deadline=None)
@given(st.recursive(st.sampled_from(["a", "b", "2", "0.5"]), lambda inner: st.tuples(inner, st.sampled_from("+-*/"), inner)))
def test_formulas_say_what_python_says(tree: Any) -> None:
    def text(node: Any) -> str:
        return node if isinstance(node, str) else f"({text(node[0])}{node[1]} {text(node[2])})"

    variables = {"a": 3.0, "b": 7.0}
    try:
        expected = eval(text(tree), {}, variables)  # made of four atoms and four signs, above
    except ZeroDivisionError:
        return
    assert Formula.parse(text(tree)).value(variables) == pytest.approx(expected)


@pytest.mark.parametrize(
    "formula",
    [
        "",
        "a +",
        "a b",
        "(a",
        "a)",
        "0.5 * text_similarity_score +  0.5 * string_check_score)",
        "min()",
        "sqrt(a, b)",
        "open('x')",
        "a ** 2",
        "a; b",
        "a.b",
        "__import__",
        "a if b else 1",
        "(" * 200 + "a" + ")" * 200,
        "-" * 200 + "a",
        "a, b",
        "²",
    ],
)
def test_what_is_no_formula_over_the_parts_is_refused_by_its_place(formula: str) -> None:
    check = {"type": "string_check", "input": "x", "reference": "x", "operation": "eq"}
    with pytest.raises(GraderRefused) as refused:
        from_openai({"type": "multi", "graders": {"a": check, "b": check}, "calculate_output": formula})
    assert refused.value.param == "grader.calculate_output"


@pytest.mark.parametrize("formula", ["1/(a-a)", "log(0)", "sqrt(-1)", "(-8)^(1/3)", "9^9^9^9", "exp(1000)", "1e308*10"])
def test_a_formula_without_a_finite_number_leaves_the_row_ungraded(formula: str) -> None:
    found = grade("Paris", type="multi", graders={"a": {"type": "string_check"}}, calculate_output=formula)
    assert isinstance(found, Ungraded)
    assert "the formula gives no number" in found.reason


def test_a_formula_that_leaves_zero_to_one_is_named_and_not_cut() -> None:
    parts = {"a": {"type": "string_check"}, "b": {"type": "text_similarity", "evaluation_metric": "fuzzy_match"}}
    assert value(grade("Paris", type="multi", graders=parts, calculate_output="0.3*a + 0.7*b")) == pytest.approx(1.0)
    found = grade("Paris", type="multi", graders=parts, calculate_output="a + b")
    assert found == Fault("the grader gives 2, outside 0 to 1", Trouble.OTHER)


def test_one_part_that_cannot_judge_leaves_the_row_ungraded_and_is_named() -> None:
    parts = {"fine": {"type": "string_check"}, "broken": {"type": "string_check", "reference": "{{ item.label }}"}}
    found = grade("Paris", type="multi", graders=parts, calculate_output="fine + 0 * broken")
    assert found == Fault("broken: the row has no 'item.label'", Trouble.VARIABLE)


# OpenAI's JSON ----------------------------------------------------------------------------------------------------------

CHECK = {
    "type": "string_check",
    "name": "exact",
    "input": "{{sample.output_text}}",
    "reference": "{{item.label}}",
    "operation": "eq",
}
FUZZY = {**CHECK, "type": "text_similarity", "name": "a fuzzy one", "evaluation_metric": "fuzzy_match"}
del FUZZY["operation"]


@pytest.mark.parametrize(
    ("graders", "formula"),
    [
        ({"one": CHECK, "two": FUZZY}, "0.5*one + 0.5*two"),
        ([{**CHECK, "name": "one"}, {**FUZZY, "name": "two"}], "0.5*one + 0.5*two"),
        ([{**CHECK, "name": "an exact one"}, FUZZY], "0.5 * text_similarity_score + 0.5 * string_check_score"),
    ],
)
def test_the_parts_of_a_multi_grader_come_by_name_or_as_a_list(graders: Any, formula: str) -> None:
    multi = {"type": "multi", "name": "m", "graders": graders, "calculate_output": formula}
    assert reward(multi, "Paris", {"label": "Paris"}).value == 1.0  # type: ignore[union-attr]
    assert 0 < reward(multi, "Pari", {"label": "Paris"}).value < 0.5  # type: ignore[union-attr]


def test_a_single_grader_as_the_part_of_a_multi_grader_is_read_too() -> None:
    multi = {"type": "multi", "name": "m", "graders": CHECK, "calculate_output": "1 - exact"}
    assert reward(multi, "Rome", {"label": "Paris"}).value == 1.0  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("grader", "param"),
    [
        ([], "grader"),
        ({}, "grader.type"),
        ({"type": "vibes"}, "grader.type"),
        ({**CHECK, "operation": "neq"}, "grader.operation"),
        ({key: value for key, value in CHECK.items() if key != "reference"}, "grader.reference"),
        ({**CHECK, "input": "{{ item }}"}, "grader.input"),
        ({**CHECK, "extra": 1}, "grader.extra"),
        ({**FUZZY, "evaluation_metric": "rouge_9"}, "grader.evaluation_metric"),
        ({**FUZZY, "evaluation_metric": "cosine"}, "grader.evaluation_metric"),
        ({"type": "multi", "graders": {"a": CHECK}}, "grader.calculate_output"),
        ({"type": "multi", "graders": {"a": {**CHECK, "type": "x"}}, "calculate_output": "a"}, "grader.graders.a.type"),
        ({"type": "multi", "graders": {"a": {**CHECK, "input": "{{x}}"}}, "calculate_output": "a"}, "grader.graders.a.input"),
        ({"type": "multi", "graders": {"a": {"type": "multi"}}, "calculate_output": "a"}, "grader.graders.a"),
        ({"type": "multi", "graders": "a", "calculate_output": "a"}, "grader.graders"),
        ({"type": "multi", "graders": [FUZZY, FUZZY], "calculate_output": "a"}, "grader.graders"),
        ({"type": "multi", "graders": [CHECK, CHECK], "calculate_output": "a"}, "grader.graders"),
        ({"type": "python", "file": "grade.py"}, "grader.source"),
        ({"type": "python", "source": "def grade(sample, item): return 1.0", "file": "x"}, "grader.file"),
        ({"type": "score_model", "model": "m", "input": [{"role": "user", "content": "x"}]}, "grader.model"),
        ({"type": "score_model", "model": "m", "input": []}, "grader.input"),
        ({"type": "label_model", "model": "m", "input": [], "labels": ["a"], "passing_labels": ["a"]}, "grader.input"),
    ],
)
def test_json_that_is_no_grader_is_refused_at_its_key(grader: Any, param: str) -> None:
    with pytest.raises(GraderRefused) as refused:
        from_openai(grader)
    assert refused.value.param == param
    assert str(refused.value).endswith(".")


def test_validating_gives_the_grader_back_with_a_name() -> None:
    assert validate_openai(CHECK) == {"grader": CHECK}
    nameless = {key: value for key, value in CHECK.items() if key != "name"}
    assert validate_openai(nameless) == {"grader": {"name": "string_check", **nameless}}


def run(grader: dict[str, Any], answer: str, item: dict[str, Any] | None = None) -> dict[str, Any]:
    return run_openai(from_openai(grader), answer, item)


def raised(reply: dict[str, Any]) -> list[str]:
    errors = reply["metadata"]["errors"]
    assert len(errors) == ERROR_FLAGS + ERROR_DETAILS
    return [name for name, value in errors.items() if value]


def test_a_run_answers_in_openais_shape() -> None:
    multi = {"type": "multi", "name": "m", "graders": {"one": CHECK, "two": FUZZY}, "calculate_output": "(one + two) / 2"}
    reply = run(multi, "Paris", {"label": "Paris"})
    assert set(reply) == {"reward", "metadata", "sub_rewards", "model_grader_token_usage_per_model"}
    assert reply["reward"] == 1.0
    assert reply["sub_rewards"] == {"one": 1.0, "two": 1.0}
    assert set(reply["metadata"]) == {
        "name",
        "type",
        "errors",
        "execution_time",
        "scores",
        "token_usage",
        "sampled_model_name",
    }
    assert reply["metadata"]["token_usage"] is None
    assert raised(reply) == []
    json.dumps(reply)


@pytest.mark.parametrize(
    ("grader", "answer", "errors"),
    [
        (CHECK, "x", ["invalid_variable_error"]),
        ({**CHECK, "input": "{{ sample.output_json.x }}", "reference": "y"}, "not json", ["sample_parse_error"]),
        (
            {"type": "python", "source": "def grade(sample, item):\n    raise ValueError('no')"},
            "x",
            ["python_grader_runtime_error", "python_grader_runtime_error_details"],
        ),
        (
            {"type": "multi", "graders": {"a": {**CHECK, "reference": "x"}}, "calculate_output": "1 / (a - 1)"},
            "x",
            ["other_error"],
        ),
    ],
)
def test_a_run_that_fails_rewards_nothing_and_says_why_under_openais_names(
    grader: dict[str, Any], answer: str, errors: list[str]
) -> None:
    reply = run(grader, answer)
    assert reply["reward"] == 0.0
    assert raised(reply) == errors


# task.toml --------------------------------------------------------------------------------------------------------------


def test_graders_stand_in_a_task_toml(tmp_path: Path) -> None:
    (tmp_path / "task.toml").write_text(
        """
name = "t"
instruction = "Answer."
[data]
examples = "examples.jsonl"
[[graders]]
type = "multi"
name = "both"
calculate_output = "(exact + alike) / 2"
[graders.graders.exact]
type = "string_check"
operation = "ilike"
[graders.graders.alike]
type = "text_similarity"
evaluation_metric = "rouge_l"
[[graders]]
type = "python"
file = "grade.py"
""",
        encoding="utf-8",
    )
    (tmp_path / "grade.py").write_text(
        "def grade(sample, item):\n    return len(sample['output_text']) / 100\n", encoding="utf-8"
    )
    task = Task.load(tmp_path)
    both, python = build_graders(task, GraderTools(folder=tmp_path))
    assert [both.name, python.name] == ["both", "python"]
    assert both.grade(example("Paris"), "paris") == Score(1.0)
    assert python.grade(example(), "x" * 25) == Score(0.25)


@pytest.mark.parametrize(
    ("grader", "said"),
    [
        ({"type": "string_check", "input": "{{ x }}"}, r"task.toml: grader 'string_check', 'input': .* names no variable"),
        (
            {"type": "python", "name": "mine", "source": "x = 1"},
            r"grader 'mine', 'source': .*no function `grade\(sample, item\)`",
        ),
        ({"type": "python", "file": "gone.py"}, r"'file': gone.py cannot be read"),
        (
            {"type": "multi", "graders": {"a": {"type": "string_check"}}, "calculate_output": "b"},
            r"the formula uses 'b'.*There are: a",
        ),
    ],
)
def test_a_grader_that_cannot_be_used_is_named_before_anything_runs(grader: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=said):
        build_graders(make_task([grader], tmp_path), GraderTools(folder=tmp_path))


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ('type = "regex"\npattern = "("', r"task\.toml:10: the grader's pattern is no regular expression"),
        ('type = "python"\nfile = "gone.py"', r"task\.toml:10: grader 'python', 'file'"),
        (
            'type = "multi"\ncalculate_output = "b"\ngraders.a = {type = "string_check"}',
            r"task\.toml:10: grader 'multi', 'calculate_output'",
        ),
    ],
)
def test_a_grader_that_cannot_be_used_is_named_with_its_line(written: str, said: str, tmp_path: Path) -> None:
    start = 'name = "t"\ninstruction = "Do it."\n\n[data]\nexamples = "e.jsonl"\n[[graders]]\ntype = "labels"\n[[graders]]\n'
    (tmp_path / "task.toml").write_text(f"{start}{written}\n", encoding="utf-8")
    with pytest.raises(DataError, match=said):
        build_graders(Task.load(tmp_path), GraderTools(folder=tmp_path))


def test_two_graders_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="two graders are called 'string_check'; give each a `name`"):
        make_task([{"type": "string_check"}, {"type": "string_check", "operation": "ne"}])
    make_task([{"type": "string_check"}, {"type": "string_check", "operation": "ne", "name": "other"}])
