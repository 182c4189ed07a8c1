"""The price list that ships with the package: dated, with its source, and never more certain than it is."""

from __future__ import annotations

import tomllib
from datetime import date
from importlib.resources import files

import pytest

from stepladder.domain.task import DataSettings, ModelSettings, PriceSettings, TaskSettings, UseSettings
from stepladder.engines.prices import listed_prices
from stepladder.engines.purse import Prices
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
    for name, (prompt, completion) in entries:
        assert 0 < prompt <= completion, name


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
    [line] = price_lines(settings({"base": name}))
    assert "`[use]` in task.toml" in line
    assert prices_of(settings({"compare": ["openai:gpt-of-tomorrow"]}), "openai:gpt-of-tomorrow") is None
