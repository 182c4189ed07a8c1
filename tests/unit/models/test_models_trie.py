from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from stepladder.models.prefix.rows import EncodedRow
from stepladder.models.prefix.trie import ROOT, Kept, Node, Pass, build_trie, cut_into_passes, label_places, subtree_tokens

token_rows = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=12), min_size=1, max_size=12)


def encode(lists: list[list[int]], weights: float = 1.0) -> list[EncodedRow]:
    return [
        EncodedRow(str(number), tuple(tokens), (0.0,) + (weights,) * (len(tokens) - 1)) for number, tokens in enumerate(lists)
    ]


def spell(trie: tuple[Node, ...], row: int) -> tuple[int, ...]:
    return tuple(token for node in trie if row in node.rows for token in node.token_ids)


@given(token_rows, st.integers(1, 20))
def test_every_row_is_spelled_by_one_path(lists: list[list[int]], worthwhile: int) -> None:
    trie = build_trie(encode(lists), worthwhile=worthwhile)
    for row, tokens in enumerate(lists):
        assert spell(trie, row) == tuple(tokens)
        path = [number for number, node in enumerate(trie) if row in node.rows]
        assert [trie[number].parent for number in path] == [ROOT, *path[:-1]]
        assert all(trie[one].stop == trie[two].start for one, two in pairwise(path))


@given(token_rows)
def test_what_pays_is_computed_once_and_the_rest_by_each_row(lists: list[list[int]]) -> None:
    everything = {tuple(tokens[: end + 1]) for tokens in lists for end in range(len(tokens))}
    assert sum(len(node.token_ids) for node in build_trie(encode(lists), worthwhile=1)) == len(everything)
    alone = build_trie(encode(lists), worthwhile=10_000)
    assert sum(len(node.token_ids) for node in alone) == sum(map(len, lists))


@given(token_rows)
def test_every_label_is_predicted_from_the_token_before_it(lists: list[list[int]]) -> None:
    rows = encode(lists)
    trie = build_trie(rows, worthwhile=1)
    found = sorted((label.row, trie[label.node].start + label.place + 1) for label in label_places(rows, trie))
    assert found == [(row, place) for row, tokens in enumerate(lists) for place in range(1, len(tokens))]
    for label in label_places(rows, trie):
        place = trie[label.node].start + label.place
        assert label.token_id == lists[label.row][place + 1]
        assert trie[label.node].token_ids[label.place] == lists[label.row][place]


def nodes_of(steps: tuple[Pass | Kept, ...]) -> list[int]:
    found: list[int] = []
    for step in steps:
        found += step.nodes if isinstance(step, Pass) else [step.node, *nodes_of(step.below)]
    return found


@given(token_rows, st.integers(1, 40))
def test_passes_hold_every_node_once_and_keep_to_their_size(lists: list[list[int]], tokens_per_pass: int) -> None:
    trie = build_trie(encode(lists), worthwhile=1)
    steps = cut_into_passes(trie, tokens_per_pass)
    assert sorted(nodes_of(steps)) == list(range(len(trie)))

    def check(steps: tuple[Pass | Kept, ...], above: int) -> None:
        for step in steps:
            if isinstance(step, Kept):
                assert trie[step.node].parent == above
                check(step.below, step.node)
                continue
            assert sum(len(trie[node].token_ids) for node in step.nodes) <= tokens_per_pass or len(step.nodes) == 1
            tops = [node for node in step.nodes if trie[node].parent not in step.nodes]
            assert {trie[node].parent for node in tops} == {above}

    check(steps, ROOT)


def test_a_stretch_that_saves_too_little_is_not_shared() -> None:
    rows = encode([[1, 2, 3, 4], [1, 2, 5, 6], [1, 2, 7, 8]])
    assert [node.token_ids for node in build_trie(rows, worthwhile=4)] == [(1, 2), (3, 4), (5, 6), (7, 8)]
    assert [node.token_ids for node in build_trie(rows, worthwhile=5)] == [(1, 2, 3, 4), (1, 2, 5, 6), (1, 2, 7, 8)]


def test_passes_of_one_level_are_of_similar_size() -> None:
    rows = encode([[1, *[number] * 9] for number in range(2, 12)])
    steps = cut_into_passes(build_trie(rows, worthwhile=100), 40)
    assert [len(step.nodes) for step in steps if isinstance(step, Pass)] == [4, 4, 2]
    steps = cut_into_passes(build_trie(rows, worthwhile=100), 60)
    assert [len(step.nodes) for step in steps if isinstance(step, Pass)] == [5, 5]


def test_a_subtree_counts_all_below_it() -> None:
    trie = build_trie(encode([[1, 2, 3], [1, 2, 4], [1, 5]]), worthwhile=1)
    assert subtree_tokens(trie, 0) == 5


@given(token_rows, st.integers(1, 40), st.integers(1, 20), st.integers(2, 3))
def test_what_a_group_does_not_share_stays_in_one_pass(
    lists: list[list[int]], tokens_per_pass: int, worthwhile: int, together: int
) -> None:
    lists = lists * together
    trie = build_trie(encode(lists), worthwhile=worthwhile)
    steps = cut_into_passes(trie, tokens_per_pass, together=together)
    assert sorted(nodes_of(steps)) == list(range(len(trie)))

    def passes_of(steps: tuple[Pass | Kept, ...]) -> list[Pass]:
        return [one for step in steps for one in ([step] if isinstance(step, Pass) else passes_of(step.below))]

    for first in range(0, len(lists), together):
        group = range(first, first + together)
        ends = [{row for number in one.nodes for row in trie[number].rows} & set(group) for one in passes_of(steps)]
        assert sum(map(bool, ends)) <= 1
