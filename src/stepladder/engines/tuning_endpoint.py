"""Any endpoint with OpenAI's fine-tuning API: rows are uploaded, a job is made and watched, and its model answers."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import openai

from stepladder import files
from stepladder.domain.errors import BudgetError, EngineError, ModelError, NotOffered
from stepladder.domain.hosted import HostedSettings, HostedTune
from stepladder.domain.protocols import Conversation, Engine, Progress
from stepladder.engines.address import OPENAI_URL, Address
from stepladder.engines.closing import no_new_jobs
from stepladder.engines.endpoint import EndpointEngine
from stepladder.engines.failures import hidden
from stepladder.engines.purse import Prices, Purse
from stepladder.engines.served import secret_of
from stepladder.engines.tuning_ticket import SUBMITTED, Ticket

TAG = "stepladder"
"""Key of the job's metadata by which a job is found again whose id was never written down."""
PATIENCE_SECONDS = 600.0
"""How long an endpoint may not answer while a job is watched."""
LOOKED_THROUGH = 100
ATTEMPTS = 3
FINAL = ("succeeded", "failed", "cancelled", "canceled")


def _as_it_is(engine: Engine) -> Engine:
    return engine


@dataclass(frozen=True)
class EndpointTuner:
    """Tunes at one endpoint.

    Attributes:
        purse: What training and answers draw on, where prices are known.
        record: What a new engine is wrapped in, so that its answers are written down.
        pause: Waits so many seconds.
    """

    address: Address
    settings: HostedSettings
    purse: Purse | None = None
    concurrency: int = 8
    timeout_seconds: float = 120.0
    record: Callable[[Engine], Engine] = _as_it_is
    pause: Callable[[float], None] = time.sleep

    @property
    def name(self) -> str:
        return self.address.name

    @property
    def closed(self) -> str | None:
        return no_new_jobs(datetime.now(UTC).date()) if self.address.url == OPENAI_URL else None

    def spoken_name(self, model: str) -> str:
        return replace(self.address, model=model).identity_name

    def answering(self, model: str) -> Engine:
        """An engine that asks `model`, recorded."""
        where = replace(self.address, model=model)
        prices = _answer_prices(self.settings)
        engine = EndpointEngine(
            where,
            api_key=where.api_key(),
            concurrency=self.concurrency,
            timeout_seconds=self.timeout_seconds,
            prices=prices,
            purse=None if prices is None else self.purse,
        )
        return self.record(engine)

    def tune(
        self,
        rows: Sequence[Conversation],
        held_out: Sequence[Conversation],
        *,
        folder: Path,
        seed: int,
        progress: Progress,
    ) -> HostedTune:
        """As `HostedTuner.tune`. A Ctrl-C while waiting leaves the job running there."""
        epochs = self.settings.epochs_for(len(rows))
        texts = {"training": rows_text(rows), "validation": rows_text(held_out)}
        ticket = Ticket.find(folder / SUBMITTED, files.hash_json([self.name, texts, epochs, self._hyperparameters(epochs), seed]))
        with openai.OpenAI(
            base_url=self.address.url,
            api_key=self.address.api_key(),
            timeout=self.timeout_seconds,
            max_retries=2,
            http_client=openai.DefaultHttpxClient(follow_redirects=False),  # as prompts, rows go nowhere else
        ) as client:
            desk = _Desk(client, self.name, PATIENCE_SECONDS, self.pause, self.settings.poll_seconds)
            if ticket.job is None:
                self._submit(desk, ticket, texts, epochs, seed)
            job = self._wait(desk, ticket, progress)
        return self._finished(ticket, job, epochs)

    def _hyperparameters(self, epochs: int) -> dict[str, Any]:
        wanted = {
            "n_epochs": epochs,
            "batch_size": self.settings.batch_size,
            "learning_rate_multiplier": self.settings.learning_rate_multiplier,
        }
        return {name: value for name, value in wanted.items() if value is not None}

    def _submit(self, desk: _Desk, ticket: Ticket, texts: Mapping[str, str], epochs: int, seed: int) -> None:
        """Set the money aside, send the files, make the job; each step is written down before the next."""
        desk.probe()
        found = desk.find(ticket.tag) if ticket.sent else None
        if found is not None:  # a kill came between the job and its id
            ticket.keep(job=found.id)
            return
        if ticket.reservation is None and self.purse is not None and self.settings.priced:
            most = self._training_usd(epochs * len(texts["training"].encode()))  # no tokenizer makes more tokens than bytes
            ticket.keep(reservation=self.purse.reserve(most), reserved_usd=most)
        try:
            for kind, text in texts.items():
                if kind not in ticket.files:
                    ticket.keep(files={**ticket.files, kind: desk.upload(f"{kind}.jsonl", text)})
            ticket.keep(sent=True)
            ticket.keep(job=self._create(desk, ticket, self._request(ticket, epochs, seed)))
        except EngineError as error:
            if not _passing(error.__cause__):  # else it may have been made, and is looked for next time
                self._settle(ticket, 0.0)
                ticket.forget()
            raise

    def _create(self, desk: _Desk, ticket: Ticket, request: Mapping[str, Any]) -> str:
        """Make the job. After an attempt whose answer was lost it is looked for, before another is made."""
        for left in reversed(range(ATTEMPTS)):
            try:
                return desk.create(request, ticket.tag)
            except EngineError as error:
                if not left or not _passing(error.__cause__):
                    raise
            self.pause(self.settings.poll_seconds)
            found = desk.find(ticket.tag)
            if found is not None:
                return str(found.id)
        raise AssertionError("the last attempt returns or raises")

    def _request(self, ticket: Ticket, epochs: int, seed: int) -> dict[str, Any]:
        suffix = {} if self.settings.suffix is None else {"suffix": self.settings.suffix}
        return {
            "model": self.address.model,
            "training_file": ticket.files["training"],
            "validation_file": ticket.files["validation"],
            "method": {"type": "supervised", "supervised": {"hyperparameters": self._hyperparameters(epochs)}},
            "seed": seed,
            "metadata": {TAG: ticket.tag},
            **suffix,
        }

    def _wait(self, desk: _Desk, ticket: Ticket, progress: Progress) -> Any:
        """The job, once it is over.

        Raises:
            BudgetError: It took too long, and was cancelled. KeyboardInterrupt: It goes on there.
        """
        assert ticket.job is not None
        progress.start(f"job {ticket.job} at {self.address.public_url}")
        until = time.monotonic() + 60 * self.settings.wait_minutes
        said = ""
        try:
            while (job := desk.retrieve(ticket.job)).status not in FINAL:
                if (newest := desk.newest_event(ticket.job)) != said:
                    said = newest
                    progress.advance(0, f"{job.status}: {said}")
                if time.monotonic() > until:
                    return self._give_up(desk, ticket)
                self.pause(self.settings.poll_seconds)
        except KeyboardInterrupt:
            progress.note(f"The job {ticket.job} goes on at {self.address.public_url}; climb again to go on waiting for it.")
            raise
        finally:
            progress.finish()
        return job

    def _give_up(self, desk: _Desk, ticket: Ticket) -> Any:
        """Cancel a job that takes too long; what it has trained may be charged, so all that was set aside counts as spent.

        Returns:
            The job, where it has succeeded at the last moment.
        Raises:
            BudgetError: It has not.
        """
        assert ticket.job is not None
        if (left := desk.cancel(ticket.job)).status == "succeeded":
            return left
        self._settle(ticket, ticket.reserved_usd)
        job = ticket.job
        ticket.forget()
        raise BudgetError(
            f"The job {job} at {self.address.public_url} was not done after {self.settings.wait_minutes:g} minutes "
            "and was cancelled.",
            "Raise `[rungs.hosted] wait_minutes` to wait longer.",
        )

    def _finished(self, ticket: Ticket, job: Any, epochs: int) -> HostedTune:
        if job.status != "succeeded" or not job.fine_tuned_model:
            self._settle(ticket, 0.0 if job.status == "failed" else ticket.reserved_usd)
            ticket.forget()
            said = getattr(job.error, "message", None)
            why = f": {hidden(str(said), secret_of(self.address.api_key()))}" if said else ""
            raise ModelError(
                f"The job {job.id} at {self.address.public_url} ended as '{job.status}'{why}.", "Climb again to submit a new one."
            )
        tokens = int(job.trained_tokens or 0)
        usd = self._training_usd(tokens) if self.settings.priced else None
        if usd is not None and ticket.reservation is not None and not 0 < usd <= ticket.reserved_usd:
            usd = ticket.reserved_usd  # no count, or one of more tokens than there are bytes: not believed
        self._settle(ticket, ticket.reserved_usd if usd is None else usd)
        seconds = float((job.finished_at or time.time()) - job.created_at)
        return HostedTune(str(job.fine_tuned_model), str(job.id), epochs, tokens, usd, max(0.0, seconds))

    def _training_usd(self, tokens: int) -> float:
        return tokens * (self.settings.usd_per_million_training_tokens or 0.0) / 1e6

    def _settle(self, ticket: Ticket, usd: float) -> None:
        if ticket.reservation is not None and self.purse is not None:
            self.purse.settle(ticket.reservation, usd)
            ticket.keep(reservation=None, reserved_usd=0.0)


@dataclass(frozen=True)
class _Desk:
    """The endpoint's API with patience: what fails in passing is tried again, what is refused becomes an error for the user."""

    client: openai.OpenAI
    name: str
    patience_seconds: float
    pause: Callable[[float], None]
    poll_seconds: float

    def probe(self) -> None:
        """Whether there is a fine-tuning API and the key opens it, before any data is sent.

        Raises:
            NotOffered: There is none.
        """
        try:
            self.client.fine_tuning.jobs.list(limit=1)
        except openai.APIStatusError as error:
            if error.status_code in (404, 405, 501):
                raise NotOffered(
                    f"{self.name}: there is no fine-tuning API (status {error.status_code}).", "Name an endpoint that has one."
                ) from error
            raise self._as_engine_error(error, "Check the key and what it may use.") from error
        except openai.APIError as error:
            raise self._as_engine_error(error, "Is the endpoint running, and the URL right?") from error

    def upload(self, name: str, text: str) -> str:
        with self._refusals():
            return self.client.files.create(file=(name, text.encode()), purpose="fine-tune").id

    def create(self, request: Mapping[str, Any], tag: str) -> str:
        with self._refusals():
            once = self.client.with_options(max_retries=0)  # it would send again unseen
            return once.fine_tuning.jobs.create(**request, extra_headers={"Idempotency-Key": tag}).id

    def find(self, tag: str) -> Any:
        """The job with this tag among the newest ones; None when there is none."""
        with self._refusals():
            page = self.client.fine_tuning.jobs.list(limit=LOOKED_THROUGH)
            return next((job for job in page.data if (job.metadata or {}).get(TAG) == tag), None)

    def retrieve(self, job: str) -> Any:
        """The job as it stands. Passing failures are waited out, since the job goes on meanwhile."""
        until = time.monotonic() + self.patience_seconds
        while True:
            try:
                return self.client.fine_tuning.jobs.retrieve(job)
            except openai.APIError as error:
                if not _passing(error) or time.monotonic() > until:
                    raise self._as_engine_error(error, "The job goes on there: climb again to go on waiting.") from error
            self.pause(self.poll_seconds)

    def newest_event(self, job: str) -> str:
        """What the endpoint says of it; empty where it says nothing."""
        try:
            events = self.client.fine_tuning.jobs.list_events(job, limit=1).data
        except openai.APIError:
            return ""
        return hidden(str(events[0].message), self._secret) if events else ""

    def cancel(self, job: str) -> Any:
        """The job after it was told to stop; one that is over already stays as it is."""
        with suppress(openai.APIError):
            return self.client.fine_tuning.jobs.cancel(job)
        return self.retrieve(job)

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        try:
            yield
        except openai.APIError as error:
            raise self._as_engine_error(error, "Check the endpoint, the model's name and the key.") from error

    def _as_engine_error(self, error: openai.APIError, hint: str) -> EngineError:
        status = getattr(error, "status_code", None)
        words = hidden(error.message, self._secret)
        said = f"answered with status {status}: {words}" if status else f"cannot be reached ({words})"
        return EngineError(f"{self.name} {said.rstrip('.')}.", hint)

    @property
    def _secret(self) -> str:
        return secret_of(self.client.api_key)


def rows_text(rows: Sequence[Conversation]) -> str:
    """Conversations as lines of OpenAI's chat format; assistant turns that are not learned carry weight 0."""
    return "".join(json.dumps(_row(row), ensure_ascii=False) + "\n" for row in rows)


def _row(row: Conversation) -> dict[str, Any]:
    messages = []
    for turn in row.messages:
        unlearned = turn.role == "assistant" and turn.weight is not None and turn.weight == 0
        messages.append({**turn.as_chat(), **({"weight": 0} if unlearned else {})})
    return {"messages": messages, **({"tools": [dict(tool) for tool in row.tools]} if row.tools else {})}


def _answer_prices(settings: HostedSettings) -> Prices | None:
    prompt, completion = settings.usd_per_million_prompt_tokens, settings.usd_per_million_completion_tokens
    return None if prompt is None or completion is None else Prices(prompt, completion)


def _passing(error: BaseException | None) -> bool:
    """Whether it may go away by itself; the call may have reached its goal all the same."""
    status = getattr(error, "status_code", None)
    return status is None or status in (408, 409, 429) or status >= 500
