"""The readable text of an HTML page, by the standard library's parser."""

from __future__ import annotations

import re
from html.parser import HTMLParser

_UNSEEN = {"script", "style", "template", "noscript", "svg", "title", "textarea", "select"}
_HEADINGS = {"h1", "h2", "h3", "h4", "h5", "h6"}
_PARAGRAPHS = _HEADINGS | {
    *("p", "div", "section", "article", "header", "footer", "main", "aside", "nav", "ul", "ol", "dl", "table"),
    *("blockquote", "figure", "form", "fieldset", "hr", "details", "pre", "address"),
}
_LINES = {"li", "tr", "br", "dt", "dd", "caption", "figcaption", "summary", "option"}
_CELLS = {"td", "th"}


def html_to_text(html: str) -> tuple[str, tuple[tuple[int, str], ...]]:
    """Text with paragraphs by blank lines and table cells by bars, and its headings as (offset, words).

    The page's title is the first heading, at offset 0, where the text itself begins with none.
    """
    page = _Page()
    page.feed(html)
    page.close()
    return page.result()


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.title = ""
        self.blocks: list[tuple[str, str]] = []  # (text, what separates it from the block before)
        self.headings: list[int] = []  # indices of blocks
        self._words: list[str] = []
        self._gap = "\n\n"
        self._unseen: list[str] = []
        self._cells = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _UNSEEN:
            self._unseen.append(tag)
        elif tag in _PARAGRAPHS:
            self._end_block("\n\n")
        elif tag in _LINES:
            self._end_block("\n")
            self._cells = 0
            if tag == "li":
                self._words.append("- ")
        elif tag in _CELLS:
            self._words.append(" | " if self._cells else "")
            self._cells += 1

    def handle_endtag(self, tag: str) -> None:
        if tag in _UNSEEN:
            if tag in self._unseen:
                del self._unseen[self._unseen.index(tag) :]
        elif tag in _HEADINGS:
            before = len(self.blocks)
            self._end_block("\n\n")
            if len(self.blocks) > before:
                self.headings.append(before)
        elif tag in _PARAGRAPHS:
            self._end_block("\n\n")
        elif tag in _LINES:
            self._end_block("\n")

    def handle_data(self, data: str) -> None:
        if not self._unseen:
            self._words.append(data)
        elif self._unseen == ["title"]:
            self.title += data

    def _end_block(self, gap: str) -> None:
        """Close the block that was being read; `gap` separates it from the next, and the wider gap wins."""
        text = re.sub(r"\s+", " ", "".join(self._words)).strip()
        self._words = []
        if text and text != "-":
            self.blocks.append((text, self._gap))
            self._gap = gap
        elif len(gap) > len(self._gap):
            self._gap = gap

    def result(self) -> tuple[str, tuple[tuple[int, str], ...]]:
        self._end_block("\n\n")
        text = ""
        offsets = []
        for block, gap in self.blocks:
            text += (gap if text else "") + block
            offsets.append(len(text) - len(block))
        headings = [(offsets[index], self.blocks[index][0]) for index in self.headings]
        title = " ".join(self.title.split())
        if title and (not headings or headings[0][0] > 0):
            headings.insert(0, (0, title))
        return text, tuple(headings)
