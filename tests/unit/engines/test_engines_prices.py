"""The price list that ships with the package: dated, with its source, and never more certain than it is."""

from __future__ import annotations

import tomllib
from datetime import date
from importlib.resources import files

import pytest

from chat_server import Reply, chat_server, completion
from stepladder.domain.messages import Message
from stepladder.domain.protocols import Decoding, Prompt
from stepladder.domain.task import DataSettings, ModelSettings, PriceSettings, TaskSettings, UseSettings
from stepladder.engines.endpoint import EndpointEngine
from stepladder.engines.prices import listed_prices
from stepladder.engines.purse import Prices, Purse
from stepladder.service.prices import price_lines, prices_of


@pytest.fixture(autouse=True)
def usual_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.delenv("ANTHROPIC_BASE_URL", raising=False)


def settings(model: dict[str, object] | None = None, **use: object) -> TaskSettings:
    return TaskSettings(
        name="t",
        instruction="Do it.",
        data=DataSettings(examples="e"),
        model=ModelSettings.model_validate(model or {}),
        use=UseSettings.model_validate(use),
    )


def test_every_entry_is_a_price_and_the_list_says_when_and_where_it_was_taken() -> None:
    table = tomllib.loads(files("stepladder.engines").joinpath("prices.toml").read_text(encoding="utf-8"))
    assert isinstance(table["date"], date)
    assert table["source"]
    entries = [*table["openai"].items(), *table["anthropic"].items()]
    assert len(entries) > 30
    for name, (prompt, answer, *longer) in entries:
        assert 0 < prompt <= answer, name
        if longer:
            above, more_prompt, more_answer = longer
            assert above >= 100_000, name
            assert more_prompt >= prompt, name
            assert more_answer >= answer, name


def test_a_model_is_found_by_its_name_and_a_dated_one_without_its_date() -> None:
    found = listed_prices("openai:gpt-4o-mini")
    assert found is not None
    assert found.prices == Prices(0.15, 0.6)
    assert found.date >= date(2026, 1, 1)
    for name in ("openai:gpt-4o-mini-2024-07-18", "anthropic:claude-3-5-haiku-20241022", "anthropic:claude-3-5-haiku-latest"):
        assert listed_prices(name) is not None, name
    dated, plain = listed_prices("openai:gpt-4o-2024-05-13"), listed_prices("openai:gpt-4o")
    assert dated is not None
    assert plain is not None
    assert dated.prices != plain.prices  # an entry of its own comes first


@pytest.mark.parametrize(
    "name",
    [
        "openai:gpt-of-tomorrow",
        "openai:gpt-4o-mini-tuned",
        "openai:claude-3-5-haiku",
        "http://localhost/v1 gpt-4o-mini",
        "gpt-4o-mini",
    ],
)
def test_what_is_not_listed_has_no_price(name: str) -> None:
    assert listed_prices(name) is None


def test_a_provider_that_was_moved_elsewhere_has_no_listed_price(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "https://proxy.example/v1")
    assert listed_prices("openai:gpt-4o-mini") is None


def test_the_users_own_prices_come_first() -> None:
    name = "openai:gpt-4o-mini"
    own = PriceSettings(usd_per_million_prompt_tokens=1, usd_per_million_completion_tokens=2)
    compared = settings({"compare": [name], "prices": {name: own}})
    assert prices_of(compared, name) == Prices(1, 2)
    assert list(price_lines(compared)) == []
    base = settings({"base": name}, usd_per_million_prompt_tokens=3, usd_per_million_completion_tokens=4)
    assert prices_of(base, name) == Prices(3, 4)


def test_listed_prices_are_said_with_their_date_and_with_what_overrides_them() -> None:
    name = "anthropic:claude-3-5-haiku"
    [line] = price_lines(settings({"compare": [name, "openai:gpt-of-tomorrow"]}))
    assert f"Prices of {name}: $0.8 a million tokens in and $4 out, from the list of 20" in line
    assert f'`[model.prices."{name}"]` in task.toml' in line
    [longer] = price_lines(settings({"base": "anthropic:claude-sonnet-4-5"}))
    assert "$15 out ($6 and $22.5 where the prompt has more than 200,000), from the list" in longer
    [line] = price_lines(settings({"base": name}))
    assert "`[use]` in task.toml" in line
    assert prices_of(settings({"compare": ["openai:gpt-of-tomorrow"]}), "openai:gpt-of-tomorrow") is None


def test_a_call_with_a_long_prompt_is_charged_as_a_whole_at_the_rate_for_such() -> None:
    name = "anthropic:claude-sonnet-4-5"
    listed = prices_of(settings({"base": name}), name)
    assert listed == Prices(3, 15, (200_000, Prices(6, 22.5)))
    assert listed.cost_usd(200_000, 1000) == pytest.approx(0.6 + 0.015)
    assert listed.cost_usd(200_001, 1000) == pytest.approx(1.200006 + 0.0225)
    own = settings({"base": name}, usd_per_million_prompt_tokens=3, usd_per_million_completion_tokens=15)
    assert prices_of(own, name) == Prices(3, 15)


def test_a_prompt_that_may_be_long_is_set_aside_at_the_higher_rate_and_billed_by_its_length() -> None:
    prices = Prices(1.0, 1.0, (10_000, Prices(100.0, 100.0)))
    for tokens, spent in ((6000, 0.006), (11_000, 1.1)):
        with chat_server() as server:
            server.script = [Reply(body=completion("a", prompt_tokens=tokens, completion_tokens=1))]
            purse = Watched(10.0)
            engine = EndpointEngine(server.url, "test", prices=prices, purse=purse)
            engine.generate([Prompt("row", (Message("user", "word " * 2000),))], Decoding(max_new_tokens=1))
            engine.close()
        assert purse.reserved[0] > 1.4  # its bytes and the template may be so many tokens
        assert purse.spent_usd == pytest.approx(spent, abs=2e-4)


class Watched(Purse):
    """Notes what is set aside."""

    def __init__(self, budget_usd: float) -> None:
        super().__init__(budget_usd)
        self.reserved: list[float] = []

    def reserve(self, usd: float) -> int:
        self.reserved.append(usd)
        return super().reserve(usd)
