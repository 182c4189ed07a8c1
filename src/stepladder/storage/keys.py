"""Projects and their keys. A key is shown once; what is stored cannot be turned back into it."""

from __future__ import annotations

import hashlib
import hmac
import secrets

from stepladder.domain.errors import UsageError
from stepladder.domain.jobs import ApiKey, Project
from stepladder.storage.database import Database, Row
from stepladder.storage.ids import new_id

PREFIX = "sk-"
ID_LENGTH = 12


class Keys:
    """Who may come in. A key reads `sk-ID-SECRET`: the id finds its row, the secret is compared in constant time."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create_project(self, name: str) -> Project:
        project = Project(new_id("proj_"), name, self._database.now())
        with self._database.write() as connection:
            connection.execute("INSERT INTO projects VALUES (?, ?, ?)", (project.id, project.name, project.created_at))
        return project

    def projects(self) -> list[Project]:
        """All projects, oldest first."""
        return [Project(**row) for row in self._database.read("SELECT id, name, created_at FROM projects ORDER BY rowid")]

    def create(self, project: str, name: str, *, admin: bool = False) -> tuple[ApiKey, str]:
        """A new key, and its text, which nothing can show again.

        Raises:
            UsageError: There is no such project.
        """
        if project not in {known.id for known in self.projects()}:
            raise UsageError(f"There is no project '{project}'.", "List them first, or create it.")
        key = ApiKey(new_id("", ID_LENGTH), project, name, admin, self._database.now())
        secret, salt = secrets.token_hex(32), secrets.token_bytes(16)
        with self._database.write() as connection:
            connection.execute(
                "INSERT INTO keys (id, project, name, admin, salt, digest, created_at) VALUES (?, ?, ?, ?, ?, ?, ?)",
                (key.id, project, name, int(admin), salt, _digest(salt, secret), key.created_at),
            )
        return key, f"{PREFIX}{key.id}-{secret}"

    def find(self, text: str) -> ApiKey | None:
        """The key that `text` is; None when it is none, whatever is wrong with it."""
        name, _, secret = text.removeprefix(PREFIX).partition("-")
        if not text.startswith(PREFIX) or not (name.isascii() and secret.isascii()):
            return None
        rows = self._database.read("SELECT * FROM keys WHERE id = ?", (name,))
        salt, digest = (rows[0]["salt"], rows[0]["digest"]) if rows else (b"", b"")
        fits = hmac.compare_digest(_digest(salt, secret), digest)  # also without a row, so that both take as long
        return _key(rows[0]) if rows and fits else None

    def list(self, project: str | None = None) -> list[ApiKey]:
        """The keys of a project, or of all, oldest first."""
        rows = self._database.read("SELECT * FROM keys WHERE ?1 IS NULL OR project = ?1 ORDER BY rowid", (project,))
        return [_key(row) for row in rows]

    def revoke(self, key: str) -> bool:
        """Forget a key; whether there was one of this id."""
        with self._database.write() as connection:
            connection.execute("DELETE FROM keys WHERE id = ?", (key,))
            return connection.changes() > 0


def _digest(salt: bytes, secret: str) -> bytes:
    return hashlib.sha256(salt + secret.encode("ascii")).digest()


def _key(row: Row) -> ApiKey:
    return ApiKey(row["id"], row["project"], row["name"], bool(row["admin"]), row["created_at"])
