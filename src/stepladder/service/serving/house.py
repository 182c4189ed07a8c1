"""Everything a server draws on, in one place: what it keeps, which models it knows, and the thread that asks them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from stepladder.domain.jobs import Job, JobStatus, NewEvent
from stepladder.domain.plain import PlainTexts
from stepladder.domain.protocols import Embedder, ServingEngine
from stepladder.service.serving.asking import AskingThread
from stepladder.service.serving.names import ModelNames
from stepladder.service.serving.news import News
from stepladder.service.spending import ServedPurses
from stepladder.storage.blobs import Blobs
from stepladder.storage.jobs import Jobs, append_events
from stepladder.storage.store import Store
from stepladder.storage.stored_files import StoredFiles
from stepladder.storage.tuned_models import TunedModels


@dataclass(frozen=True, slots=True)
class HouseSettings:
    """What an operator chooses.

    Attributes:
        results_as_base64: Give result files as OpenAI's API does, so that scripts written for it can read them.
        organization: What `organization_id` of a job says; clients want a text there.
    """

    results_as_base64: bool = True
    organization: str = "org-local"


@dataclass(frozen=True)
class House:
    """One server's belongings.

    Attributes:
        embedder: Loads what embeds, at the first call. `embedder_name` and patterns of other names are what it answers to.
        purses: What the hosted models below served rungs draw on.
        plain_texts: Makes what `plain` gives, of the model's engine.
    """

    store: Store
    names: ModelNames
    asking: AskingThread
    news: News
    embedder: Callable[[], Embedder]
    plain_texts: Callable[[ServingEngine], PlainTexts]
    embedder_name: str = "wordllama"
    embedder_aliases: tuple[str, ...] = ()
    settings: HouseSettings = field(default_factory=HouseSettings)
    purses: ServedPurses = field(default_factory=ServedPurses)

    @property
    def blobs(self) -> Blobs:
        return self.store.blobs

    def files(self, project: str) -> StoredFiles:
        return self.store.files(project)

    def jobs(self, project: str) -> Jobs:
        return self.store.jobs(project)

    def tuned(self, project: str) -> TunedModels:
        return self.store.models(project)

    def plain(self, location: str) -> PlainTexts:
        """The model at a location for bare texts; its weights count among the loaded ones."""
        return self.plain_texts(self.names.bases.engine(location))

    def is_embedder(self, name: str) -> bool:
        return name == self.embedder_name or any(fnmatchcase(name, pattern) for pattern in self.embedder_aliases)

    def open_jobs(self, project: str) -> int:
        """Jobs of a project that are not over."""
        return self.jobs(project).count(*(status for status in JobStatus if not status.final))

    def note(self, job: Job, events: Sequence[NewEvent]) -> None:
        """Add events to a job that no worker has written."""
        if events:
            with self.store.database.write() as connection:
                append_events(connection, self.store.database, job.project, job.id, [*events])

    def close(self) -> None:
        self.news.close()
        self.asking.close()
        self.purses.close()
        self.store.close()
