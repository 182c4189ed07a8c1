from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stepladder.engines.transformers import grouping
from stepladder.engines.transformers.grouping import prefix_groups


def test_prompts_that_share_much_more_than_all_do_are_a_group_of_their_own() -> None:
    shown, swapped = [1] * 100 + [2] * 600, [1] * 100 + [3] * 600
    prompts = [[*shown, number] for number in range(10, 60)]
    prompts[7] = [*swapped, 7]
    groups = prefix_groups(prompts)
    assert sorted(map(len, groups)) == [1, 49]


def test_prompts_with_one_instruction_and_nothing_more_in_common_stay_together() -> None:
    assert len(prefix_groups([[1] * 200 + [number] * 300 for number in range(50)])) == 1
    assert prefix_groups([]) == []
    assert prefix_groups([[1, 2]]) == [[0]]


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=12), max_size=30), st.integers(0, 12))
def test_every_prompt_stands_in_exactly_one_group(prompts: list[list[int]], cost: int) -> None:
    before, grouping.GROUP_TOKENS = grouping.GROUP_TOKENS, cost
    try:
        places = [place for group in prefix_groups(prompts) for place in group]
    finally:
        grouping.GROUP_TOKENS = before
    assert sorted(places) == list(range(len(prompts)))
