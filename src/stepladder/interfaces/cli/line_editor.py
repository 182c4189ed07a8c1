"""One editable line of text, however long: it scrolls sideways, and line breaks in it are shown as ⏎."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from rich.cells import cell_len

from stepladder.interfaces.cli.keyboard import Key
from stepladder.service.figures import visible

BREAK = "⏎"
MORE = "…"


@dataclass(frozen=True)
class Line:
    """A text and where the cursor stands in it, from 0 to its length."""

    text: str = ""
    cursor: int = 0

    def press(self, key: Key) -> Line:
        """The line after a key; keys that mean nothing here change nothing."""
        if key.name in ("char", "paste"):
            return self._insert(key.text)
        if key.name == "newline":
            return self._insert("\n")
        change = _CHANGES.get(key.name)
        return change(self) if change else self

    def shown(self, width: int) -> tuple[str, int]:
        """What of the line is seen in `width` cells, and how many of them stand before the cursor."""
        signs = [BREAK if sign == "\n" else visible(sign) for sign in self.text]
        before, after = signs[: self.cursor], signs[self.cursor :]
        room = max(4, width - 1)  # the cursor may stand behind the last sign
        head = _last_that_fit(before, room if not after else max(2, room * 2 // 3))
        tail = _last_that_fit(after[::-1], room - cell_len(head), keep_first=True)
        return head + tail, cell_len(head)

    def _insert(self, text: str) -> Line:
        return Line(self.text[: self.cursor] + text + self.text[self.cursor :], self.cursor + len(text))


def _last_that_fit(signs: list[str], room: int, *, keep_first: bool = False) -> str:
    """As many of the last signs as find room (of a reversed list: of the first ones), with an ellipsis for the others."""
    if cell_len("".join(signs)) > room:
        kept: list[str] = []
        used = 1
        for sign in reversed(signs):
            used += cell_len(sign)
            if used > room:
                break
            kept.insert(0, sign)
        signs = [MORE, *kept] if room > 0 else []
    return "".join(reversed(signs) if keep_first else signs)


def _kill_word(line: Line) -> Line:
    kept = line.text[: line.cursor].rstrip()
    kept = kept[: len(kept) - len(kept.split()[-1])] if kept else ""
    return Line(kept + line.text[line.cursor :], len(kept))


_CHANGES: dict[str, Callable[[Line], Line]] = {
    "left": lambda line: replace(line, cursor=max(0, line.cursor - 1)),
    "right": lambda line: replace(line, cursor=min(len(line.text), line.cursor + 1)),
    "home": lambda line: replace(line, cursor=0),
    "end": lambda line: replace(line, cursor=len(line.text)),
    "backspace": lambda line: Line(line.text[: max(0, line.cursor - 1)] + line.text[line.cursor :], max(0, line.cursor - 1)),
    "delete": lambda line: Line(line.text[: line.cursor] + line.text[line.cursor + 1 :], line.cursor),
    "kill-left": lambda line: Line(line.text[line.cursor :], 0),
    "kill-right": lambda line: Line(line.text[: line.cursor], line.cursor),
    "kill-word": _kill_word,
}
