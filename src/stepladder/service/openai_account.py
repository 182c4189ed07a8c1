"""Which models of an OpenAI account end, and when. Asked only when a user asks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date

from stepladder.domain.errors import EngineError, UsageError
from stepladder.engines.address import read_key
from stepladder.engines.closing import closing_dates, says_when
from stepladder.engines.failures import hidden
from stepladder.engines.served import secret_of


@dataclass(frozen=True, slots=True)
class EndingModel:
    """A fine-tune of the account, and its last day; `job` is the one that made it, where it is known."""

    name: str
    last_day: date | None
    job: str | None = None


def ending_models(today: date) -> list[EndingModel]:
    """The account's own fine-tuned models, those that end first at the top; those without a known day at the end.

    A day that the service itself gives (`shutdown_date`) comes before the one that ships with the package.

    Raises:
        UsageError: OPENAI_API_KEY is not set. EngineError: The service refuses.
    """
    key = read_key("OPENAI_API_KEY")
    if not key:
        raise UsageError("OPENAI_API_KEY is not set.", "Set it, or call doctor without --openai.")
    import openai  # takes long to import

    try:
        with openai.OpenAI(api_key=key) as client:
            jobs = {job.fine_tuned_model: job.id for job in client.fine_tuning.jobs.list(limit=100) if job.fine_tuned_model}
            said = {model.id: getattr(model, "shutdown_date", None) for model in client.models.list()}
    except openai.APIError as error:
        words = hidden(error.message, secret_of(key))
        raise EngineError(f"The account's models cannot be listed: {words}", "Check the key.") from error
    names = {name for name in (*said, *jobs) if name.startswith("ft:")}
    found = [EndingModel(name, _day(said.get(name)) or closing_dates().of(name), jobs.get(name)) for name in names]
    return sorted(found, key=lambda one: (one.last_day is None, one.last_day or today, one.name))


def ending_lines(found: Sequence[EndingModel], today: date) -> Iterator[str]:
    """What it means, model by model."""
    if not found:
        yield "The account has no fine-tuned models."
        return
    for one in found:
        if one.last_day is None:
            yield f"  {one.name}: no last day is known"
            continue
        when = says_when(one.last_day, today, past="stopped answering on", future="answers until")
        yield f"  {one.name}: {when}{f'; made by {one.job}' if one.job else ''}"
    known = next((one.job for one in found if one.job), "JOB")
    yield "While it answers, record what it says and train its successor:"
    yield f"  stepladder migrate-openai DIR {known} --record"


def _day(text: str | None) -> date | None:
    try:
        return None if text is None else date.fromisoformat(text)
    except ValueError:
        return None
