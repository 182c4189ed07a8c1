"""Removing contents that no row names any more.

Always after the commit that stopped naming them, and under the write lock: killed in between, garbage is left for the sweep at
the next start, and nothing that a row names is ever missing.
"""

from __future__ import annotations

from collections.abc import Iterable

import apsw

from stepladder.storage.blobs import Blobs
from stepladder.storage.database import Database


def is_named(connection: apsw.Connection, project: str, digest: str) -> bool:
    """Whether a row of the project names this content."""
    rows = connection.execute(
        "SELECT EXISTS (SELECT 1 FROM files WHERE project = :project AND sha256 = :digest) "
        "OR EXISTS (SELECT 1 FROM upload_parts WHERE project = :project AND sha256 = :digest) "
        "OR EXISTS (SELECT 1 FROM models WHERE project = :project AND adapter = :digest) AS named",
        {"project": project, "digest": digest},
    )
    return bool(next(rows)["named"])


def discard(database: Database, blobs: Blobs, project: str, digests: Iterable[str]) -> None:
    """Remove those of `digests` that nothing names, after the commit that forgot them."""
    for digest in digests:
        with database.write() as connection:
            if not is_named(connection, project, digest):
                blobs.remove(project, digest)


def sweep(database: Database, blobs: Blobs) -> int:
    """Remove everything that no row names; how many files and folders that was."""
    with database.write() as connection:
        return blobs.sweep(lambda project, digest: is_named(connection, project, digest))
