"""Asking a person in a terminal: one key, one line, one choice. Everything is said on stderr; stdout is for results."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from stepladder.domain.errors import UsageError
from stepladder.interfaces.cli.keyboard import Keyboard, open_keyboard
from stepladder.interfaces.cli.line_editor import Line
from stepladder.service.figures import one_line, visible

CHOICE_KEYS = "123456789abcdefghijklmnoprtvwxyz"
"""Keys that choose; s (skip), u (undo) and q (stop) always keep their meaning."""

ENTER, ESCAPE = "enter", "escape"


class Dialogue:
    """A terminal that shows and asks."""

    def __init__(self, console: Console, keyboard: Keyboard) -> None:
        self.console = console
        self.keyboard = keyboard

    def say(self, text: str = "", style: str = "") -> None:
        """A line or several; signs that could steer the terminal are made visible."""
        self.console.print(Text(visible(text), style=style), soft_wrap=True)

    def rule(self, title: str) -> None:
        """The head of a question."""
        self.keyboard.forget()
        self.console.print()
        self.console.rule(Text(one_line(title)), align="left", style="dim")

    def key(self, *wanted: str) -> str:
        """The next key among `wanted` (letters, or names such as "enter"); others are passed over."""
        while True:
            pressed = self.keyboard.read()
            name = pressed.text if pressed.name == "char" else pressed.name
            if name in wanted or (name := name.lower()) in wanted:
                return name
            if pressed.name == "end-of-input":
                raise KeyboardInterrupt

    def line(self, prompt: str, text: str = "") -> str | None:
        """A line edited by the person, `text` at first; None when they left it by Esc."""
        line = Line(text, len(text))
        while True:
            self._draw(prompt, line)
            pressed = self.keyboard.read()
            if pressed.name in (ENTER, ESCAPE):
                self._write("\n")
                return line.text if pressed.name == ENTER else None
            if pressed.name == "end-of-input" and not line.text:
                raise KeyboardInterrupt
            line = line.press(pressed)

    def choose(self, prompt: str, options: Sequence[str], *, default: int | None = None, extra: Sequence[str] = ()) -> int | str:
        """The place of the option chosen, or the key of `extra` pressed; Enter takes the default where there is one.

        More options than keys are chosen by writing the beginning of one.
        """
        if len(options) > len(CHOICE_KEYS):
            return self._choose_by_name(prompt, options, default)
        keys = dict(zip(CHOICE_KEYS, range(len(options)), strict=False))
        shown = "   ".join(f"{key} {one_line(options[index])}" for key, index in keys.items())
        self.say(f"{prompt}{shown}")
        pressed = self.key(*keys, *extra, *((ENTER,) if default is not None else ()))
        if pressed == ENTER and default is not None:
            return default
        return keys.get(pressed, pressed)

    def _choose_by_name(self, prompt: str, options: Sequence[str], default: int | None) -> int | str:
        begun = "" if default is None else options[default]
        while True:
            written = self.line(f"{prompt}(type the beginning) ", begun)
            if written is None:
                return ESCAPE
            found = match_beginning(written, options)
            if len(found) == 1:
                return found[0]
            some = ", ".join(options[index] for index in (found or range(len(options)))[:12])
            self.say(f"{'Several begin so' if found else 'None begins so'}: {some} …")
            begun = written

    def open_editor(self, text: str) -> str:
        """The text after the person's own editor ($VISUAL or $EDITOR) had it; as it was when the editor failed."""
        with tempfile.TemporaryDirectory(prefix="stepladder-") as folder:
            path = Path(folder) / "answer.txt"
            path.write_text(text, encoding="utf-8")
            with self.keyboard.released():
                try:
                    failed = subprocess.run([*shlex.split(own_editor()), str(path)], check=False).returncode
                except OSError as error:
                    self.say(f"{own_editor()} cannot be started: {error.strerror}.", "red")
                    return text
            return text if failed else path.read_text(encoding="utf-8").rstrip("\n")

    def _draw(self, prompt: str, line: Line) -> None:
        taken = cell_len(prompt)
        shown, before = line.shown(max(10, self.console.width - taken))
        right = f"\x1b[{taken + before}C" if taken + before else ""
        self._write(f"\r{prompt}{shown}\x1b[K\r{right}")

    def _write(self, text: str) -> None:
        self.console.file.write(text)
        self.console.file.flush()


def match_beginning(written: str, options: Sequence[str]) -> list[int]:
    """Places of the options that begin as written, letter case aside; a whole one alone, if there is."""
    wanted = written.strip().casefold()
    whole = [index for index, option in enumerate(options) if option.casefold() == wanted]
    return whole or [index for index, option in enumerate(options) if wanted and option.casefold().startswith(wanted)]


def has_person() -> bool:
    """Whether somebody can see what is asked and press keys."""
    return sys.stdin.isatty() and sys.stderr.isatty()


@contextmanager
def open_dialogue(command: str, otherwise: str) -> Iterator[Dialogue]:
    """A dialogue in this terminal.

    Raises:
        UsageError: There is no terminal.
    """
    if not has_person():
        raise UsageError(f"`stepladder {command}` asks a person, and this is no terminal.", otherwise)
    with open_keyboard() as keyboard:
        yield Dialogue(Console(stderr=True, highlight=False), keyboard)


def own_editor() -> str:
    """The editor that the person has named; "" without one."""
    return os.environ.get("VISUAL") or os.environ.get("EDITOR") or ""
