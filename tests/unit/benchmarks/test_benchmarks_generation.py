"""The pure parts of the comparison of answering speed: results, the rule of same answers, the table, the plan."""

import copy
import json

import pytest
import torch

import bench_generate
from generation.child import ATTENTIONS, fine_logits, measure_generate, measure_ours, whole_answer
from generation.compare import RATIO, Results, odds_by_luck, same_text, with_ratios
from generation.rungs import Rung, read
from generation.systems import BATCHED, MUST_REACH, ONE_BY_ONE, OURS, RUNGS, SYSTEMS
from generation.table import generation_table
from stepladder.domain.errors import DataError
from stepladder.domain.messages import Message
from stepladder.domain.protocols import Prompt
from stepladder.models.loading import load
from tiny_model import build_tiny_model


def row(rung="zero-shot", system=OURS, speed=8.0, number=1, **changes):
    base = {
        "rung": rung,
        "system": system,
        "setting": f"as {system} does",
        "dtype": "bfloat16",
        "examples": 105,
        "examples_per_second": speed,
        "prefill_tokens": 7_000,
        "decode_tokens": 3_000,
        "peak_memory_bytes": 1_200_000_000,
        RATIO: None,
        "round": number,
        "versions": {"torch": "2.13.0"},
        "machine": {"cpu": "Abacus", "cores": 2, "system": "Linux", "date": "2026-11-22"},
        "commit": "abc",
    }
    return {**base, **changes}


SAME = {
    "rung": "zero-shot",
    "rows": 105,
    "ours_differ": 2,
    "batches_differ": 5,
    "odds_by_luck": 0.98,
    "largest_margin": 0.12,
    "largest_margin_of_batches": 0.2,
    "holds": True,
}


def test_every_wish_is_about_a_rung_and_a_system_that_are_measured():
    assert set(MUST_REACH) <= set(RUNGS)
    assert all(set(wanted) == {ONE_BY_ONE, BATCHED} for wanted in MUST_REACH.values())


def test_ratios_are_within_a_rung_and_a_round():
    rows = [row(), row(system=ONE_BY_ONE, speed=2.0), row("tuned", speed=6.0), row(system=BATCHED, speed=4.0, number=2)]
    with_ratios(rows)
    assert [one[RATIO] for one in rows] == [1.0, 4.0, 1.0, None]


def test_what_was_measured_is_on_disk_at_once_and_found_again(tmp_path):
    path = tmp_path / "generation.json"
    results = Results(path)
    results.add("rows", row())
    results.add("rows", row(system=ONE_BY_ONE, speed=1.0))
    again = Results(path)
    assert again.find("rows", rung="zero-shot", system=ONE_BY_ONE, round=1)[RATIO] == 8.0
    assert again.find("rows", rung="zero-shot", system=BATCHED, round=1) is None
    path.write_text("[1]")
    with pytest.raises(DataError, match="no results of this benchmark"):
        Results(path)


def test_an_answer_ends_before_its_first_stop_token():
    assert whole_answer([5, 6, 2, 7, 2], (2, 0)) == [5, 6]
    assert whole_answer([0], (2, 0)) == []
    assert whole_answer([5, 6], (2, 0)) == [5, 6]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return load(str(build_tiny_model(tmp_path_factory.mktemp("model") / "tiny")), device="cpu", dtype="float32")


def test_all_systems_are_measured_on_the_same_prompts_and_in_fp32_give_the_same_answers(tiny):
    prompts = tuple(Prompt(f"row-{number}", (Message("user", "where is it " * number),)) for number in range(1, 5))
    rung = Rung("zero-shot", prompts, 6)
    ours, alone, batched = measure_ours(tiny, rung), measure_generate(tiny, rung, 1), measure_generate(tiny, rung, 3)
    assert ours["answers"] == alone["answers"] == batched["answers"]
    assert ours["prefill_tokens"] < alone["prefill_tokens"] < batched["prefill_tokens"]
    assert all(found["seconds"] > 0 for found in (ours, alone, batched))
    assert alone["setting"] in {f"{name} attention" for name in ATTENTIONS}
    assert tiny.model.config._attn_implementation in ATTENTIONS


def test_a_rung_comes_back_from_its_file(tmp_path):
    rung = Rung("tuned", (Prompt("row-0", (Message("system", "s"), Message("user", "ä"))),), 48, "adapter")
    (tmp_path / "rungs.json").write_text(json.dumps([rung.as_json()]), encoding="utf-8")
    assert read(tmp_path / "rungs.json", "tuned") == rung


def test_margins_are_those_of_the_model_with_its_head_in_fp32(tiny):
    ids = [1, 4, 9, 7]
    with torch.inference_mode():
        logits = tiny.model(torch.tensor([ids])).logits[0, -1]
    torch.testing.assert_close(fine_logits(tiny.model, ids), logits)
    rounded = copy.deepcopy(tiny.model).bfloat16()
    fine = fine_logits(rounded, ids)
    assert fine.dtype == torch.float32
    assert not torch.equal(fine, fine.bfloat16().float())


def test_luck_is_a_sign_test_over_the_rows_in_which_one_of_both_differs():
    assert odds_by_luck(0, 0) == 1.0
    assert odds_by_luck(3, 0) == pytest.approx(1 / 8)
    assert odds_by_luck(2, 1) == pytest.approx(1 / 2)


def test_the_rule_of_same_answers_is_said_in_words():
    assert "2 of 105 answers differ" in same_text(SAME)
    assert same_text(SAME).endswith("the same but for rounding.")
    assert "NOT the same" in same_text({**SAME, "holds": False})
    rounded = {**SAME, "head": "rounded"}
    assert "2 of our answers differ" in same_text(rounded)
    assert same_text(rounded).endswith("as the rule wants.")
    assert "does NOT hold" in same_text({**rounded, "holds": False})


def test_the_table_shows_medians_ratios_and_what_was_wanted():
    rows = [row(speed=speed, number=number) for number, speed in enumerate((8.0, 10.0, 90.0), start=1)]
    rows += [row(system=ONE_BY_ONE, speed=2.0, number=number) for number in (1, 2, 3)]
    with_ratios(rows)
    latency = {"rung": "zero-shot", "p50_seconds": 0.5, "p95_seconds": 0.9, "rows": 30}
    table = generation_table(
        {"rows": rows, "same_answers": [SAME], "latency": [latency], "grammar": [{"schema": "one", "cost": 0.04}]}
    )
    lines = table.splitlines()
    assert lines[2].startswith("| zero-shot | stepladder | 10.00 |")
    assert lines[3].endswith("| 5.0 | ≥ 4 |")
    assert "0.50 s (median of 30), 0.90 s" in table
    assert "adds 4% to a batch" in table
    assert "medians of 3 rounds" in table
    assert generation_table({"rows": [], "same_answers": [], "latency": [], "grammar": []}) == ""


def test_trial_runs_stay_out_of_the_committed_results(tmp_path, capsys):
    with pytest.raises(SystemExit):
        bench_generate.parse(["--rows", "4"])
    assert "--results" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        bench_generate.parse(["--rungs", "zero-shot,none"])
    options = bench_generate.parse(["--rows", "4", "--rungs", "tuned", "--results", str(tmp_path / "trial.json")])
    assert (options.rungs, options.rows, len(SYSTEMS)) == (["tuned"], 4, 3)
