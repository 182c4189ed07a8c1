"""The pure parts of the training comparison: rows, useful work, settings, results, the table, the plan."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

import bench_train
from stepladder.domain.errors import DataError, EngineError
from stepladder.models.prefix.rows import EncodedRow
from stepladder.models.prefix.trie import build_trie
from training.compare import run_child
from training.environments import ENVIRONMENTS, interpreter, prepare, refuse_cuda
from training.flops import Shape, Work, useful_flops, work_of_rows, work_of_stretches
from training.gpu import DRY, REAL, job_hours, measurements
from training.results import RATIO, Results, medians
from training.systems import SYSTEMS, Setting, further_variants, largest_fitting, search_ends_by
from training.table import training_table
from training.workloads import WORKLOADS, in_micro_batches, log_normal_lengths, typical, uniform, workload_of

SMOLLM2 = Shape(layers=30, hidden=576, intermediate=1536, heads=9, key_heads=3, head_size=64, vocabulary=49_152)
GIB = 2**30


def row(workload="A", system="stepladder", speed=4.0, number=1, **changes):
    base = {
        "workload": workload,
        "system": system,
        "setting": f"as {system} does",
        "dtype": "bfloat16",
        "examples_per_second": speed,
        "nominal_tokens_per_second": 672 * speed,
        "computed_tokens_per_second": 200 * speed,
        "useful_tflops": 0.1 * speed,
        "fraction_of_gemm_ceiling": 0.1 * speed,
        "peak_memory_bytes": 2_400_000_000,
        RATIO: None,
        "round": number,
        "versions": {"torch": "2.13.0"},
        "machine": {"cpu": "Abacus", "cores": 2, "system": "Linux", "date": "2026-11-22"},
        "commit": "abc",
    }
    return {**base, **changes}


def content(*rows):
    return {"rows": list(rows), "left_out": []}


def test_the_workloads_are_the_four_that_were_agreed():
    assert {name: workload.rounds for name, workload in WORKLOADS.items()} == {"A": 3, "B": 3, "C": 1, "D": 1}
    assert {name: len(workload.own) for name, workload in WORKLOADS.items()} == dict.fromkeys("ABCD", 32)
    assert set(WORKLOADS["A"].lengths) == {672}
    assert set(WORKLOADS["C"].lengths) == {1660}
    assert set(WORKLOADS["D"].lengths) == {1024}
    assert min(WORKLOADS["B"].lengths) >= 64
    assert max(WORKLOADS["B"].lengths) <= 512
    assert all(learned == length // 3 for learned, length in zip(WORKLOADS["B"].learned, WORKLOADS["B"].lengths, strict=True))


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_workload_gives_the_same_rows_every_time_and_shares_what_it_says(name):
    workload = WORKLOADS[name]
    rows = workload.rows(vocabulary=49_152)
    assert rows == workload.rows(vocabulary=49_152)
    assert [len(one.token_ids) for one in rows] == workload.lengths
    assert len({one.token_ids[: workload.shared] for one in rows}) == 1
    assert len({one.token_ids[: workload.shared + 2] for one in rows}) == len(rows)
    assert all(len(one.labels) - one.labels.count(-100) == one.learned for one in rows)


@pytest.mark.parametrize("name", WORKLOADS)
def test_the_small_cut_still_has_something_to_learn_and_to_share(name):
    cut = WORKLOADS[name].cut()
    assert len(cut.own) == 4
    assert max(cut.lengths) <= max(WORKLOADS[name].lengths) // 8 + 2
    assert (cut.shared > 0) == (WORKLOADS[name].shared > 0)
    assert all(0 < learned < length for learned, length in zip(cut.learned, cut.lengths, strict=True))


def test_a_described_workload_comes_out_of_an_order_as_it_went_in():
    from dataclasses import asdict

    sent = json.loads(json.dumps({"workload": asdict(uniform(32, 2))}))
    assert workload_of(sent).lengths == [32, 32]
    assert workload_of({"workload": "A"}) is WORKLOADS["A"]


def test_log_normal_lengths_lie_about_the_geometric_middle():
    lengths = log_normal_lengths(2000, 64, 512, seed=1)
    below = sum(length < 181 for length in lengths) / len(lengths)  # √(64 · 512)
    assert 0.45 < below < 0.55
    assert sum(lengths) / len(lengths) > 181  # skewed to the long side


@given(st.sampled_from("ABCD"), st.sampled_from((1, 2, 4, 8, 16, 32)), st.booleans())
def test_an_order_of_micro_batches_holds_every_row_once(name, size, by_length):
    rows = WORKLOADS[name].rows(vocabulary=400)
    ordered = in_micro_batches(rows, size, by_length=by_length)
    assert sorted(one.token_ids for one in ordered) == sorted(one.token_ids for one in rows)


def test_rows_by_length_need_less_padding_but_do_not_begin_with_all_the_long_ones():
    rows = WORKLOADS["B"].rows(vocabulary=400)

    def padded(ordered):
        return sum(4 * max(len(one.token_ids) for one in ordered[first : first + 4]) for first in range(0, 32, 4))

    ordered = in_micro_batches(rows, 4, by_length=True)
    assert padded(ordered) < 0.9 * padded(rows)
    heads = [len(one.token_ids) for one in ordered[::4]]
    assert heads not in (sorted(heads), sorted(heads, reverse=True))


def test_typical_rows_are_neither_the_shortest_nor_the_longest():
    lengths = sorted(WORKLOADS["B"].lengths)
    picked = [len(one.token_ids) for one in typical(WORKLOADS["B"].rows(vocabulary=400), 2)]
    assert lengths[0] < picked[0] < lengths[16] <= picked[1] < lengths[-1]


def test_the_starter_model_has_the_linear_weights_that_are_known_of_it():
    assert SMOLLM2.linear_weights == 106_168_320


def test_a_shape_is_read_from_a_configuration():
    config = {
        "num_hidden_layers": 30, "hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9,
        "num_key_value_heads": 3, "vocab_size": 49_152,
    }  # fmt: skip
    assert Shape.of_config(config) == SMOLLM2


def test_a_token_sees_itself_and_all_before_it():
    assert work_of_rows([(3, 1), (2, 1)]) == Work(tokens=5, keys=1 + 2 + 3 + 1 + 2, labels=2)
    assert work_of_stretches([(3, 2)], 1) == Work(tokens=2, keys=4 + 5, labels=1)


@given(st.integers(0, 40), st.lists(st.integers(1, 30), min_size=1, max_size=5))
def test_a_shared_prefix_saves_tokens_and_no_attention_of_the_own_ones(shared, own):
    whole = work_of_rows((shared + length, 1) for length in own)
    together = work_of_stretches([(0, shared), *((shared, length) for length in own)], len(own))
    assert whole.tokens - together.tokens == shared * (len(own) - 1)
    assert whole.keys - together.keys == (len(own) - 1) * shared * (shared + 1) // 2


def test_the_trie_of_workload_a_is_the_prefix_once_and_every_rest():
    rows = WORKLOADS["A"].rows(vocabulary=49_152)
    encoded = [
        EncodedRow(str(number), one.token_ids, tuple(float(label != -100) for label in one.labels))
        for number, one in enumerate(rows)
    ]
    trie = build_trie(encoded)
    assert work_of_stretches([(node.start, len(node.token_ids)) for node in trie], 0).tokens == 512 + 32 * 160


def test_useful_flops_are_those_of_matrix_products_counted_by_torch():
    torch = pytest.importorskip("torch")
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=50, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        attn_implementation="eager",
    )  # fmt: skip
    model, tokens = LlamaForCausalLM(config), 7
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.arange(tokens)[None])
    square = work_of_stretches([(0, tokens)], tokens)
    full = Work(tokens, tokens * tokens, tokens)  # the stock model computes the whole square of scores
    shape = Shape.of_config(config.to_dict())
    assert useful_flops(shape, square) < useful_flops(shape, full)
    backward = 2 * shape.linear_weights * tokens + 8 * shape.layers * 16 * full.keys + 2 * 50 * 16 * tokens
    rotary = counter.get_total_flops() - (useful_flops(shape, full) - backward)
    assert 0 <= rotary <= 2 * tokens * 4  # the outer product of positions and frequencies


def test_a_larger_micro_batch_is_trusted_with_a_tenth_to_spare():
    assert largest_fitting({1: 2 * GIB, 2: 3 * GIB}) == 16  # 17 GiB foretold; 32 would need 33
    assert largest_fitting({1: 2 * GIB, 2: 3 * GIB}, limit=18 * GIB) == 8
    assert largest_fitting({1: 2 * GIB, 2: 2 * GIB}) == 32
    assert largest_fitting({1: 30 * GIB, 2: 60 * GIB}) == 1


def test_a_search_ends_by_memory_or_by_time_but_never_after_one_size():
    limits = {"limit": 20 * GIB, "allowed": 40.0}
    slow = {1: 5.0}
    assert search_ends_by({1: 2 * GIB}, slow, spent=39.0, took=39.0, **limits) == ""  # nothing is known of two rows yet
    assert search_ends_by({1: 11 * GIB}, slow, spent=5.0, took=5.0, **limits) == "memory"
    two = {1: 2 * GIB, 2: 3 * GIB}
    assert search_ends_by(two, {1: 5.0, 2: 5.0}, spent=15.0, took=10.0, **limits) == "time"  # no faster: 30 s more are too many
    assert search_ends_by(two, {1: 5.0, 2: 4.0}, spent=13.0, took=8.0, **limits) == ""
    assert search_ends_by(two, {1: 5.0, 2: 4.0}, spent=100.0, took=8.0, **limits) == "time"


def test_rows_of_another_processor_are_not_mixed_with_this_ones(tmp_path):
    path = tmp_path / "training.json"
    results = Results(path)
    results.refuse_other_processor("Slide rule")
    results.add("rows", row())
    results.refuse_other_processor("Abacus")
    with pytest.raises(DataError, match=r"another processor \(Abacus; here it is Slide rule\).*--anew"):
        results.refuse_other_processor("Slide rule")


def test_packing_is_only_tried_where_lengths_differ_and_compiling_only_with_unsloth():
    tuned, best = SYSTEMS["trl-tuned"], SYSTEMS["unsloth-best"]
    assert further_variants(tuned, tuned.start, [5, 5]) == []
    assert [one.padding_free for one in further_variants(tuned, tuned.start, [5, 6])] == [True]
    assert [one.compiled for one in further_variants(best, best.start, [5, 6])] == [True]


def test_defaults_are_said_in_words():
    assert Setting(micro_batch=8).words() == "gradient checkpointing, bf16 autocast, sdpa, padded, micro-batch 8"


def test_rounds_are_interleaved_with_ours_first():
    plan = bench_train.plan(["A", "C"], ["trl-tuned", "stepladder"], None)
    assert plan[:4] == [(1, "A", "stepladder"), (1, "A", "trl-tuned"), (1, "C", "stepladder"), (1, "C", "trl-tuned")]
    assert plan[4:] == [(number, "A", system) for number in (2, 3) for system in ("stepladder", "trl-tuned")]


def test_an_unknown_workload_is_refused_by_name(capsys):
    with pytest.raises(SystemExit):
        bench_train.parse(["--workloads", "A,Z"])
    assert "'Z' is none of A, B, C, D" in capsys.readouterr().err


def test_a_trial_run_cannot_write_into_the_committed_results(capsys, tmp_path):
    for trial in (["--no-search"], ["--rows-per-step", "8"]):
        with pytest.raises(SystemExit):
            bench_train.parse(trial)
        assert "name another file with --results" in capsys.readouterr().err
        assert bench_train.parse([*trial, "--results", str(tmp_path / "trial.json")]).workloads == list("ABCD")


def test_every_entry_is_on_disk_at_once_and_ratios_follow_within_a_round(tmp_path):
    path = tmp_path / "training.json"
    results = Results(path)
    results.add("rows", row(system="trl-defaults", speed=0.5))
    assert json.loads(path.read_text())["rows"][0][RATIO] is None
    results.add("rows", row(speed=4.0))
    results.add("rows", row(speed=8.0, number=2))
    results.add("rows", row(system="trl-defaults", speed=0.5, number=2))
    again = Results(path)
    assert again.find("rows", system="trl-defaults", round=1)[RATIO] == 8.0
    assert again.find("rows", system="trl-defaults", round=2)[RATIO] == 16.0
    assert medians(again.rows, "A", "trl-defaults")[RATIO] == 12.0
    assert medians(again.rows, "B", "trl-defaults") is None


def test_a_file_that_holds_something_else_is_not_overwritten(tmp_path):
    path = tmp_path / "training.json"
    path.write_text("[1, 2]")
    with pytest.raises(DataError, match="no results of this benchmark"):
        Results(path)
    assert path.read_text() == "[1, 2]"


def test_there_is_no_table_of_a_alone():
    assert training_table(content(row())) == ""
    assert training_table(content()) == ""


def test_the_table_has_every_workload_and_system_with_medians_and_settings():
    rows = [row(), row(speed=6.0, number=2), row("B"), row("B", "trl-defaults", speed=1.0, **{RATIO: 4.0})]
    table = training_table(content(*rows))
    assert "| A | stepladder | 5.00 | 3,360 | 1,000 | 0.500 | 50% | 2.4 GB | – |" in table
    assert "| B | trl-defaults | 1.00 | 672 | 200 | 0.100 | 10% | 2.4 GB | 4.0 |" in table
    assert "- trl-defaults: B: as trl-defaults does" in table
    assert "Medians of 2 (A), 1 (B) rounds; 2 cores of Abacus" in table


def test_what_was_left_out_is_in_the_table_with_its_reason():
    held = {**content(row("B")), "left_out": [{"workload": "B", "system": "unsloth-best", "reason": "no\nparity"}]}
    assert "- B unsloth-best left out: no parity" in training_table(held)


def test_a_cuda_build_of_torch_is_refused_before_it_is_downloaded():
    refuse_cuda({"install": [{"metadata": {"name": "torch"}}]})
    with pytest.raises(EngineError, match="CUDA build of torch"):
        refuse_cuda({"install": [{"metadata": {"name": "torch"}}, {"metadata": {"name": "nvidia-cublas"}}]})


def test_a_child_that_ends_without_an_answer_is_named_with_its_last_words(tmp_path):
    import sys

    with pytest.raises(EngineError, match=r"a rival: ended with exit code 3: out of luck"):
        run_child(
            [sys.executable, "-c", "import sys; print('out of luck'); sys.exit(3)"], tmp_path / "answer", 30, what="a rival"
        )
    answered = tmp_path / "answer"
    code = f"import json; open({str(answered)!r}, 'w').write(json.dumps({{'seconds': 2}}))"
    assert run_child([sys.executable, "-c", code], answered, 30, what="a rival") == {"seconds": 2}


def test_an_environment_that_stands_is_not_made_again(tmp_path):
    wanted = ENVIRONMENTS["trl"]
    stamp = json.dumps({"packages": wanted.packages, "alone": wanted.alone, "gpu": False})
    (tmp_path / "trl").mkdir()
    (tmp_path / "trl" / "installed.json").write_text(stamp)
    assert prepare("trl", folder=tmp_path) == interpreter("trl", folder=tmp_path)
    assert [path.name for path in (tmp_path / "trl").iterdir()] == ["installed.json"]


def test_every_package_of_a_rival_is_pinned_and_found_by_name():
    for environment in ENVIRONMENTS.values():
        assert all(
            "/" not in package and ("==" in package or "<" in package) for package in (*environment.packages, *environment.alone)
        )


def test_a_gpu_is_measured_with_all_systems_side_by_side_in_every_cell():
    cells = list(measurements(REAL, ("stepladder", "trl")))
    assert [(one.system, one.length) for one in cells[:4]] == [
        ("stepladder", 2048),
        ("trl", 2048),
        ("stepladder", 4096),
        ("trl", 4096),
    ]
    assert [one.quantised for one in cells] == [False] * 4 + [True] * 4
    assert 6.4e9 < REAL.shape.linear_weights < 6.6e9
    assert DRY.shape.linear_weights < 1e6


def test_hours_of_the_job_follow_from_tokens_a_second():
    assert job_hours(10_000 * 512 * 3 / 3600) == pytest.approx(1.0)
