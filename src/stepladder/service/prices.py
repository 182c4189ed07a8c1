"""What each model of a task charges: as task.toml says, else as the price list that ships with the package does."""

from __future__ import annotations

from collections.abc import Iterator

from stepladder.domain.task import TaskSettings, UseSettings
from stepladder.engines.prices import listed_prices
from stepladder.engines.purse import Prices


def use_of(settings: TaskSettings, model: str) -> UseSettings:
    """`[use]` with the prices of one model, the user's own before listed ones; without any where neither knows."""
    use = settings.use_of(model)
    if use.usd_per_million_prompt_tokens is not None:
        return use
    listed = listed_prices(model)
    if listed is None:
        return use
    return use.model_copy(
        update={
            "usd_per_million_prompt_tokens": listed.prices.usd_per_million_prompt_tokens,
            "usd_per_million_completion_tokens": listed.prices.usd_per_million_completion_tokens,
        }
    )


def tuned_use(settings: TaskSettings) -> UseSettings:
    """`[use]` with the prices of the model that `[rungs.hosted]` tunes, which are not those of its base."""
    hosted = settings.rungs.hosted
    keys = ("usd_per_million_prompt_tokens", "usd_per_million_completion_tokens")
    return settings.use.model_copy(update={key: getattr(hosted, key) for key in keys})


def prices_of(settings: TaskSettings, model: str) -> Prices | None:
    """Both prices of a model, the user's own for prompts of any length; None where they are not known."""
    use = settings.use_of(model)
    if use.usd_per_million_prompt_tokens is None or use.usd_per_million_completion_tokens is None:
        listed = listed_prices(model)
        return None if listed is None else listed.prices
    return Prices(use.usd_per_million_prompt_tokens, use.usd_per_million_completion_tokens)


def price_lines(settings: TaskSettings) -> Iterator[str]:
    """Of every model whose prices come from the list: what they are, how old, and how to say otherwise."""
    for model in (settings.model.base, *settings.model.compare):
        listed = listed_prices(model)
        if listed is None or settings.use_of(model).usd_per_million_prompt_tokens is not None:
            continue
        prices = listed.prices
        yield (
            f"Prices of {model}: ${prices.usd_per_million_prompt_tokens:g} a million tokens in and "
            f"${prices.usd_per_million_completion_tokens:g} out{_longer(prices)}, from the list of {listed.date}; "
            f"`{price_table(settings, model)}` in task.toml comes before it."
        )


def _longer(prices: Prices) -> str:
    if prices.longer is None:
        return ""
    above, more = prices.longer
    charged = f"${more.usd_per_million_prompt_tokens:g} and ${more.usd_per_million_completion_tokens:g}"
    return f" ({charged} where the prompt has more than {above:,})"


def price_table(settings: TaskSettings, model: str) -> str:
    """Where in task.toml the user gives a model's prices."""
    return "[use]" if model == settings.model.base else f'[model.prices."{model}"]'
