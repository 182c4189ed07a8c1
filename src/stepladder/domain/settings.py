"""What every table of `task.toml` has in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """A table of `task.toml`: frozen, and a key nobody knows is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)
