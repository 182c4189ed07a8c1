"""Single keys from a terminal, the same on Linux, macOS and Windows."""

from __future__ import annotations

import codecs
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol

ESCAPE_SECONDS = 0.05
"""What follows an escape sign within this time belongs to it; a person's next key comes later."""

_NAMES = {
    "\r": "enter",
    "\n": "enter",
    "\x7f": "backspace",
    "\x08": "backspace",
    "\x01": "home",
    "\x05": "end",
    "\x15": "kill-left",
    "\x0b": "kill-right",
    "\x17": "kill-word",
    "\x04": "end-of-input",
    "\t": "tab",
}
_SEQUENCES = {
    "[A": "up", "[B": "down", "[C": "right", "[D": "left", "[H": "home", "[F": "end", "OA": "up", "OB": "down",
    "OC": "right", "OD": "left", "OH": "home", "OF": "end", "[1~": "home", "[4~": "end", "[7~": "home", "[8~": "end",
    "[3~": "delete", "\r": "newline", "\n": "newline",
}  # fmt: skip
_WINDOWS = {"H": "up", "P": "down", "M": "right", "K": "left", "G": "home", "O": "end", "S": "delete"}
_PASTE_BEGINS, _PASTE_ENDS = "[200~", "\x1b[201~"


@dataclass(frozen=True)
class Key:
    """A key press. `name` is "char" for a letter or sign, "paste" for pasted text (both in `text`), else what the key does."""

    name: str
    text: str = ""


class Keyboard(Protocol):
    """Where keys come from; a context manager that leaves the terminal as it was."""

    def __enter__(self) -> Keyboard: ...
    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...

    def read(self) -> Key:
        """The next key; waits for it.

        Raises:
            KeyboardInterrupt: Ctrl-C, or the terminal was closed.
        """
        ...

    def forget(self) -> None:
        """Drop keys pressed before now: they were meant for what stood on the screen then."""
        ...

    def released(self) -> Any:
        """Context in which another program has the terminal."""
        ...


def open_keyboard() -> Keyboard:
    """The keyboard of this system's terminal; stdin must be one."""
    return WindowsKeyboard() if os.name == "nt" else PosixKeyboard()


class PosixKeyboard:
    """Keys through termios: no echo, no waiting for Enter; Ctrl-C and Ctrl-Z keep their meaning."""

    def __init__(self) -> None:
        self._handle = sys.stdin.fileno()
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._waiting = ""  # decoded, not yet read

    def __enter__(self) -> PosixKeyboard:
        import signal
        import termios

        self._before = termios.tcgetattr(self._handle)
        self._take()
        self._continued = signal.signal(signal.SIGCONT, lambda number, frame: self._take())  # the shell has changed the modes
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        import signal

        signal.signal(signal.SIGCONT, self._continued)
        self._give_back()

    @contextmanager
    def released(self) -> Iterator[None]:
        self._give_back()
        try:
            yield
        finally:
            self._take()

    def read(self) -> Key:
        letter = self._next()
        if letter != "\x1b":
            return _plain(letter)
        sequence = self._sequence()
        if sequence == _PASTE_BEGINS:
            return Key("paste", self._pasted())
        return Key(_SEQUENCES.get(sequence, "escape" if not sequence else "unknown"))

    def forget(self) -> None:
        import termios

        self._waiting = ""
        termios.tcflush(self._handle, termios.TCIFLUSH)

    def _take(self) -> None:
        import termios

        modes = termios.tcgetattr(self._handle)
        modes[0] &= ~termios.ICRNL
        modes[3] &= ~(termios.ECHO | termios.ICANON)
        termios.tcsetattr(self._handle, termios.TCSADRAIN, modes)
        _say("\x1b[?2004h")  # pasted text comes marked, so that a line break in it ends nothing

    def _give_back(self) -> None:
        import termios

        _say("\x1b[?2004l")
        try:
            termios.tcsetattr(self._handle, termios.TCSADRAIN, self._before)
        except termios.error:
            return  # the terminal is gone

    def _next(self) -> str:
        while not self._waiting:
            try:
                raw = os.read(self._handle, 1024)
            except OSError as error:
                raise KeyboardInterrupt from error  # the terminal was closed
            if not raw:
                raise KeyboardInterrupt
            self._waiting = self._decoder.decode(raw)
        letter, self._waiting = self._waiting[0], self._waiting[1:]
        return letter

    def _sequence(self) -> str:
        """What follows an escape sign: a function key's sequence, one key with Alt, or nothing."""
        import select

        if not self._waiting and not select.select([self._handle], [], [], ESCAPE_SECONDS)[0]:
            return ""
        sequence = self._next()
        if sequence == "O":
            return sequence + self._next()
        if sequence == "[":
            while not "\x40" <= (letter := self._next()) <= "\x7e":
                sequence += letter
            sequence += letter
        return sequence

    def _pasted(self) -> str:
        text = ""
        while not text.endswith(_PASTE_ENDS):
            text += self._next()
        return text.removesuffix(_PASTE_ENDS).replace("\r\n", "\n").replace("\r", "\n")


class WindowsKeyboard:
    """Keys through the console's own calls."""

    def __init__(self) -> None:
        import msvcrt

        self._console: Any = msvcrt

    def __enter__(self) -> WindowsKeyboard:
        os.system("")  # makes the console understand cursor sequences
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...

    @contextmanager
    def released(self) -> Iterator[None]:
        yield

    def read(self) -> Key:
        letter = self._console.getwch()
        if letter == "\x03":
            raise KeyboardInterrupt
        if letter in ("\x00", "\xe0"):
            return Key(_WINDOWS.get(self._console.getwch(), "unknown"))
        return Key("escape") if letter == "\x1b" else _plain(letter)

    def forget(self) -> None:
        while self._console.kbhit():
            self._console.getwch()


def _plain(letter: str) -> Key:
    if letter in _NAMES:
        return Key(_NAMES[letter])
    return Key("char", letter) if letter.isprintable() else Key("unknown")


def _say(sequence: str) -> None:
    """Tell the terminal something, if there is still one."""
    try:
        sys.stderr.write(sequence)
        sys.stderr.flush()
    except OSError:
        return
