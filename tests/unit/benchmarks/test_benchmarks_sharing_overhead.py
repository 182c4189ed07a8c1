"""The comparison of a step with and without looking for a shared prefix: what is compared computes the same."""

from unittest.mock import patch

import pytest

import sharing_overhead
from stepladder.models.prefix import fused
from stepladder.models.prefix.trie import build_trie
from training.ours_child import encode
from training.workloads import WORKLOADS


def test_no_batch_has_anything_to_share():
    found = sharing_overhead.batches(vocabulary=49_152)
    assert [len(rows) for rows in found.values()] == [8, 1, 1]
    for rows in found.values():
        assert len(build_trie(rows)) == len(rows)


@pytest.mark.parametrize("workload", ["A", "B"])
def test_rows_taken_apart_are_spelled_whole_and_share_nothing(workload):
    rows = encode(WORKLOADS[workload].first(4).rows(vocabulary=1000))
    with patch.object(fused, "build_trie", sharing_overhead.apart):
        work = fused.Work.of(rows, tokens_per_pass=2000)
    assert [node.token_ids for node in work.trie] == [row.token_ids for row in rows]
    assert work.computed_tokens == sum(map(len, rows))
