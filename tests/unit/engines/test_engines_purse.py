"""Money: never exceeded by threads, never forgotten by a kill."""

from __future__ import annotations

import json
import random
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepladder.domain.errors import BudgetError
from stepladder.engines.purse import Purse


def kept(ledger: Path, budget_usd: float = 10.0) -> Purse:
    purse = Purse(budget_usd)
    purse.keep_in(ledger)
    return purse


def test_a_reservation_waits_for_money_that_comes_back() -> None:
    purse = Purse(1.0)
    first = purse.reserve(0.8)
    timer = threading.Timer(0.1, lambda: purse.settle(first, 0.1))
    timer.start()
    started = time.monotonic()
    purse.reserve(0.8)
    assert time.monotonic() - started >= 0.09
    timer.join()


def test_what_is_set_aside_comes_back_to_the_last_cent() -> None:
    purse = Purse(1.0)
    for call in [purse.reserve(0.1) for _ in range(9)]:
        purse.settle(call, 0.0)
    purse.settle(purse.reserve(1.0), 1.0)
    with pytest.raises(BudgetError, match="Raise"):
        purse.reserve(0.0001)


def test_a_ledger_remembers_what_was_settled(tmp_path: Path) -> None:
    purse = kept(tmp_path / "money.jsonl")
    purse.settle(purse.reserve(3.0), 0.5)
    purse.settle(purse.reserve(3.0), 0.25)
    assert kept(tmp_path / "money.jsonl").spent_usd == 0.75


def test_a_reservation_of_a_killed_process_counts_in_full(tmp_path: Path) -> None:
    purse = kept(tmp_path / "money.jsonl")
    purse.settle(purse.reserve(3.0), 0.5)
    purse.reserve(2.0)  # the process ends here
    again = kept(tmp_path / "money.jsonl")
    assert again.spent_usd == 2.5
    again.settle(again.reserve(1.0), 1.0)
    assert kept(tmp_path / "money.jsonl").spent_usd == 3.5  # the old reservation is not settled by the new call


def test_a_later_process_settles_what_an_earlier_one_set_aside(tmp_path: Path) -> None:
    call = kept(tmp_path / "money.jsonl").reserve(2.0)  # for a job that goes on elsewhere when this process ends
    later = kept(tmp_path / "money.jsonl")
    assert later.spent_usd == 2.0
    later.settle(call, 0.5)
    assert later.spent_usd == 0.5
    assert kept(tmp_path / "money.jsonl").spent_usd == 0.5


def test_a_spent_purse_stays_spent_and_more_money_opens_it(tmp_path: Path) -> None:
    purse = kept(tmp_path / "money.jsonl", 1.0)
    purse.settle(purse.reserve(1.0), 1.0)
    with pytest.raises(BudgetError, match="1.0000 of 1 USD are spent"):
        kept(tmp_path / "money.jsonl", 1.0).reserve(0.1)
    kept(tmp_path / "money.jsonl", 2.0).reserve(0.1)


@settings(deadline=None, max_examples=40)  # each movement waits for the disk
@given(st.lists(st.floats(0.01, 1.0), min_size=1, max_size=6), st.integers(0, 400))
def test_wherever_a_kill_tears_the_ledger_no_call_that_was_sent_is_forgotten(
    tmp_path_factory: pytest.TempPathFactory, amounts: list[float], cut: int
) -> None:
    ledger = tmp_path_factory.mktemp("purse") / "money.jsonl"
    purse = kept(ledger, 100.0)
    for amount in amounts:
        purse.settle(purse.reserve(amount), amount / 2)
    whole = ledger.read_bytes()
    torn = whole[: len(whole) - min(cut, len(whole))]
    ledger.write_bytes(torn)
    lines = [json.loads(line) for line in torn.decode().splitlines(keepends=True) if line.endswith("\n")]
    sent = [line["call"] for line in lines if "reserved_usd" in line]  # a call is sent when its line is whole
    again = kept(ledger, 100.0)
    assert again.spent_usd >= sum(amounts[call - 1] / 2 for call in sent) - 1e-9
    again.settle(again.reserve(1.0), 1.0)
    assert kept(ledger, 100.0).spent_usd == pytest.approx(again.spent_usd)  # what follows a torn line is read


def test_many_threads_never_exceed_it_and_the_ledger_agrees(tmp_path: Path) -> None:
    purse = kept(tmp_path / "money.jsonl", 5.0)
    most_at_once: list[float] = []
    held = 0.0
    guard = threading.Lock()

    def spend(seed: int) -> None:
        nonlocal held
        dice = random.Random(seed)
        for _ in range(20):
            most = dice.uniform(0.01, 0.4)
            try:
                call = purse.reserve(most)
            except BudgetError:
                return
            real = most * dice.random()
            with guard:
                held += most
                most_at_once.append(held)
            time.sleep(0.0005)
            with guard:
                held -= most - real
            purse.settle(call, real)

    threads = [threading.Thread(target=spend, args=(seed,)) for seed in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most_at_once) <= 5.0 + 1e-9
    assert 4.0 < purse.spent_usd <= 5.0
    assert kept(tmp_path / "money.jsonl", 5.0).spent_usd == pytest.approx(purse.spent_usd)
