"""What is known of a submission to a fine-tuning endpoint, on disk, so that nothing is ever submitted or paid twice."""

from __future__ import annotations

import json
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Any

from stepladder import files

SUBMITTED = "job.json"
"""In the rung's folder, as long as a job may be under way or has succeeded: what was sent, and which job came of it."""


class Ticket:
    """What is known of a submission, kept in a file so that it outlives this process."""

    def __init__(self, path: Path, known: dict[str, Any]) -> None:
        self._path = path
        self._known = known

    @classmethod
    def find(cls, path: Path, key: str) -> Ticket:
        """The ticket of these very rows and settings, or a new one. Another's is replaced: its job is no use here."""
        with suppress(ValueError, OSError):
            known = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(known, dict) and known.get("key") == key:
                return cls(path, known)
        return cls(path, {"key": key, "tag": secrets.token_hex(12)})

    @property
    def tag(self) -> str:
        return str(self._known["tag"])

    @property
    def files(self) -> dict[str, str]:
        """Ids of the uploaded files, by "training" and "validation"."""
        return dict(self._known.get("files", {}))

    @property
    def sent(self) -> bool:
        """Whether a job may have been made."""
        return bool(self._known.get("sent"))

    @property
    def job(self) -> str | None:
        return self._known.get("job")

    @property
    def reservation(self) -> int | None:
        """Number of the purse's open reservation."""
        return self._known.get("reservation")

    @property
    def reserved_usd(self) -> float:
        return float(self._known.get("reserved_usd", 0.0))

    def keep(self, **found: Any) -> None:
        """Write down what is newly known."""
        self._known = {**self._known, **found}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        files.write_text(self._path, json.dumps(self._known, indent=2) + "\n")

    def forget(self) -> None:
        """Let the next attempt begin anew."""
        self._path.unlink(missing_ok=True)
