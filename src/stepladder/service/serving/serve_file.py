"""`serve.toml`: what an operator would otherwise say on the command line at every start."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from stepladder.domain.errors import DataError
from stepladder.domain.settings import Settings, read_settings

SERVE_FILE = "serve.toml"


class ServeSettings(Settings):
    """`serve.toml`: what `stepladder serve` does. It lies in the service's folder, or where `--config` says; an option of the
    command line counts instead of the file's."""

    models: tuple[str, ...] = Field(
        (), description="Base models to serve, each as `--model` takes it; the starter when none is given."
    )
    aliases: dict[str, str] = Field(
        default_factory=dict, description="Other names for base models; `*` stands for anything. The first name that fits counts."
    )
    runs: tuple[str, ...] = Field(
        (), description="Run or task folders, relative to this file, whose rungs every project may ask as `rung:RUN/NAME`."
    )
    host: str = Field("127.0.0.1", description="Address to listen on; any but this machine's own needs a key first.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 for any that is free.")
    allow_hosts: tuple[str, ...] = Field((), description="Further host names under which the server may be addressed.")
    memory_gigabytes: float | None = Field(
        None, ge=0.1, description="For the weights of loaded base models; by default most of what is free."
    )
    plain_results: bool = Field(False, description="Give result files as plain CSV instead of base64, as OpenAI does.")


def load_serve_settings(config: Path | None, folder: Path) -> ServeSettings:
    """The settings of `config`, else of `serve.toml` in the service's folder, else the defaults.

    Raises:
        DataError: `config` is not there, or the file cannot be followed.
    """
    path = config or folder / SERVE_FILE
    if not path.is_file():
        if config is not None:
            raise DataError(path, None, "there is no such file.", "Give --config a TOML file.")
        return ServeSettings()
    found = read_settings(path, ServeSettings)
    runs = tuple(str(path.parent / Path(run).expanduser()) for run in found.runs)
    return found.model_copy(update={"runs": runs})
