"""Money and kill -9: whatever a provider may have billed is known to the next process, and never more than the budget."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from chat_server import ChatServer, Reply, chat_server, completion
from stepladder.engines.purse import Prices, Purse

PRICES = Prices(usd_per_million_prompt_tokens=1000.0, usd_per_million_completion_tokens=2000.0)
BUDGET_USD = 200.0  # of which 4.7 are set aside for a call
THOUGHTFUL = completion("x", prompt_tokens=100, completion_tokens=100)

SPENDING = """
import sys
from pathlib import Path
from stepladder.domain.errors import BudgetError, EngineError
from stepladder.domain.messages import Message
from stepladder.domain.protocols import Decoding, Prompt
from stepladder.engines.endpoint import EndpointEngine
from stepladder.engines.purse import Prices, Purse

url, ledger, budget, start = sys.argv[1:]
purse = Purse(float(budget))
purse.keep_in(Path(ledger))
prices = Prices(usd_per_million_prompt_tokens=1000.0, usd_per_million_completion_tokens=2000.0)
engine = EndpointEngine(url, "test", prices=prices, purse=purse, concurrency=4, first_pause_seconds=0.01, timeout_seconds=1.0)
print("ready", flush=True)
prompts = [Prompt("p", (Message("user", f"row {start} {number}"),)) for number in range(1000)]
try:
    engine.generate(prompts, Decoding(8))
except BudgetError:
    print("spent", flush=True)
"""


class Charging(ChatServer):
    """Charges for every request that arrives, answered or not, and now and then fails after having charged."""

    def __init__(self) -> None:
        super().__init__()
        self.bill_usd = 0.0
        self.dice = random.Random(7)
        self.delay_seconds = 0.004
        self.answer = lambda request: THOUGHTFUL

    def handle_chat(self, request: dict[str, Any]) -> Reply:
        usage = THOUGHTFUL["usage"]
        with self._guard:
            self.bill_usd += PRICES.cost_usd(usage["prompt_tokens"], usage["completion_tokens"])
            luck = self.dice.random()
        reply = super().handle_chat(request)
        return Reply(hang_up=True) if luck < 0.1 else Reply(502, "gone") if luck < 0.2 else reply


def spent_usd(ledger: Path) -> float:
    purse = Purse(BUDGET_USD)
    purse.keep_in(ledger)
    return purse.spent_usd


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(2, 8))])
def test_kills_at_any_moment_forget_no_call_and_never_overspend(tmp_path: Path, seed: int) -> None:
    dice, ledger = random.Random(seed), tmp_path / "money.jsonl"
    with chat_server(Charging) as server:
        assert isinstance(server, Charging)
        for start in range(3):
            process = spend(server, ledger, start)
            time.sleep(dice.uniform(0.0, 0.15))
            process.kill()  # kill -9
            process.communicate()
            time.sleep(0.05)  # what is still on its way to the server
            assert server.bill_usd <= spent_usd(ledger) + 1e-9 <= BUDGET_USD + 2e-9
        last = spend(server, ledger, 99)
        out, errors = last.communicate(timeout=60)
        assert (last.returncode, "spent" in out) == (0, True), errors
    assert 0 < server.bill_usd <= spent_usd(ledger) + 1e-9
    assert spent_usd(ledger) <= BUDGET_USD + 1e-9


def spend(server: ChatServer, ledger: Path, start: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SPENDING, server.url, str(ledger), str(BUDGET_USD), str(start)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process
