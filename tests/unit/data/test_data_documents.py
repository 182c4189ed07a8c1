"""Documents: text that reads well, and passages that know exactly where they stood."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepladder.data.chunks import FEWEST_WORDS, MOST_WORDS, chunk_text
from stepladder.data.documents import document_text, load_documents, parse_document
from stepladder.domain.errors import DataError
from stepladder.domain.task import Task

WORDS = st.sampled_from(["ship", "The", "sails.", "über", "now!", "a", "(really)", "船が出る。", "x" * 90, "## Title", "- item"])
GAPS = st.sampled_from([" ", " ", " ", "\n", "\n\n", "  ", "\t"])
TEXTS = st.lists(st.tuples(WORDS, GAPS), max_size=900).map(lambda pairs: "".join(word + gap for word, gap in pairs))


def make_task(folder: Path, files: dict[str, str | bytes]) -> Task:
    (folder / "task.toml").write_text(
        'name = "t"\ninstruction = "Answer."\n[data]\nexamples = "e.jsonl"\ndocuments = "documents"\n', encoding="utf-8"
    )
    for name, content in files.items():
        path = folder / "documents" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return Task.load(folder)


def prose(words: int, sentence: int = 12) -> str:
    return " ".join(f"word{n}." if n % sentence == sentence - 1 else f"word{n}" for n in range(words))


@settings(max_examples=80, deadline=None)
@given(text=TEXTS, data=st.data())
def test_offsets_are_exact_and_passages_cover_the_text(text: str, data: st.DataObject) -> None:
    starts = [at for at, sign in enumerate(text) if sign == "#" and not text[:at].endswith("#")]
    headings = [(at, f"H{at}") for at in starts if data.draw(st.booleans())]
    chunks = chunk_text(text, "documents/a.md", headings)
    covered = 0
    for chunk in chunks:
        assert text[chunk.start : chunk.end] == chunk.text == chunk.text.strip()
        assert not text[covered : chunk.start].strip() or chunk.start <= covered
        above = [words for at, words in headings if at <= chunk.start]
        assert chunk.heading == (above[-1] if above else "")
        covered = max(covered, chunk.end)
    assert not text[covered:].strip()
    assert all(first.start < second.start and first.end < second.end for first, second in pairwise(chunks))


@pytest.mark.parametrize("words", [1, 119, 120, 200, 201, 239, 240, 300, 777, 2000])
def test_passages_have_120_to_200_words_unless_the_document_is_shorter(words: int) -> None:
    sizes = [len(chunk.text.split()) for chunk in chunk_text(prose(words), "d")]
    assert all(min(words, FEWEST_WORDS) <= size <= MOST_WORDS for size in sizes), sizes


def test_passages_end_at_sentences_and_overlap_by_about_a_fifth() -> None:
    text = prose(2000)
    chunks = chunk_text(text, "d")
    assert all(chunk.text.endswith(".") for chunk in chunks[:-1])
    shares = [len(text[second.start : first.end].split()) / len(first.text.split()) for first, second in pairwise(chunks[:-1])]
    assert all(0.1 <= share <= 0.3 for share in shares), shares


def test_a_heading_is_a_better_cut_than_a_paragraph_and_the_next_passage_begins_at_it(tmp_path: Path) -> None:
    text = f"# One\n\n{prose(60)}\n\n{prose(70)}\n\n## Two\n\n{prose(30)}\n\n{prose(130)}\n"
    chunks = load_documents(make_task(tmp_path, {"a.md": text}))
    assert chunks[1].text.startswith("## Two")
    assert [chunk.heading for chunk in chunks[:2]] == ["One", "Two"]


def test_text_without_spaces_is_cut_too() -> None:
    text = "船は朝に出る。" * 100
    chunks = chunk_text(text, "d")
    assert len(chunks) > 3
    assert all(len(chunk.text) <= 250 for chunk in chunks)


def test_markdown_headings_are_found_outside_of_code_with_hashes_or_underlines(tmp_path: Path) -> None:
    path = tmp_path / "a.md"
    path.write_text("Top\n===\n\n```\n# no heading\n```\n  ## Real ##\ntext\n\nSub\n---\n\n---\n#no\n", encoding="utf-8")
    parsed = parse_document(path)
    assert [words for _, words in parsed.headings] == ["Top", "Real", "Sub"]
    assert [parsed.text[offset:].split("\n")[0] for offset, _ in parsed.headings] == ["Top", "## Real ##", "Sub"]


def test_html_becomes_readable_text_with_headings_and_without_scripts(tmp_path: Path) -> None:
    path = tmp_path / "a.html"
    path.write_text(
        "<html><head><title>Page &amp; co</title><style>p{}</style><script>var a='<p>';</script></head><body>"
        "<p>Hello   <b>big</b>\nworld &euro;5</p><h2>Times</h2><table><tr><th>Boat<th>Leaves</tr><tr><td>A</td><td>9</td></tr>"
        "</table><ul><li>one</li><li>two</ul>tail<svg><title>drawing</title></svg></body></html>",
        encoding="utf-8",
    )
    parsed = parse_document(path)
    assert parsed.text == "Hello big world €5\n\nTimes\n\nBoat | Leaves\nA | 9\n\n- one\n- two\n\ntail"
    assert parsed.headings == ((0, "Page & co"), (parsed.text.index("Times"), "Times"))


@settings(max_examples=100, deadline=None)
@given(
    html=st.lists(
        st.sampled_from(["<p>", "</p>", "<li>", "<h1>", "</h1>", "<td", ">", "x", " ", "&#", "</", "<!--", "<svg>", "<tr>"])
    )
)
def test_any_html_is_read_without_failing_and_headings_point_into_the_text(html: list[str]) -> None:
    from stepladder.data.html_text import html_to_text

    text, headings = html_to_text("".join(html))
    assert all(text[offset:].startswith(words) for offset, words in headings)


def test_passages_name_their_document_relative_to_the_task_and_come_in_order_of_names(tmp_path: Path) -> None:
    task = make_task(tmp_path, {"b.txt": "Bee.", "sub/a.md": "# A\nAy.", "a.html": "<p>Hay</p>", ".hidden": "x"})
    chunks = load_documents(task)
    assert [(chunk.document, chunk.text) for chunk in chunks] == [
        ("documents/a.html", "Hay"),
        ("documents/b.txt", "Bee."),
        ("documents/sub/a.md", "# A\nAy."),
    ]
    assert all(document_text(task.path(chunk.document))[chunk.start : chunk.end] == chunk.text for chunk in chunks)


def test_windows_line_ends_do_not_shift_offsets(tmp_path: Path) -> None:
    task = make_task(tmp_path, {"a.txt": b"\xef\xbb\xbfone\r\ntwo\r\n"})
    (chunk,) = load_documents(task)
    assert chunk.text == "one\ntwo" == document_text(task.path(chunk.document))[chunk.start : chunk.end]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"a.docx": b"PK"}, "'.docx' files are not read"),
        ({"a.txt": b"caf\xe9"}, "not UTF-8 (byte 3"),
        ({"a.txt": b"a\0b"}, "NUL byte"),
        ({"a.txt": "x".encode("utf-16")}, "UTF-16"),
        ({"a.md": " \n"}, "no text"),
        ({"a.pdf": b"%PDF-1.4 broken"}, "cannot be read as PDF"),
        ({".keep": ""}, "holds no documents"),
    ],
)
def test_documents_that_cannot_be_used_are_refused_by_name(tmp_path: Path, files: dict[str, str | bytes], words: str) -> None:
    with pytest.raises(DataError) as caught:
        load_documents(make_task(tmp_path, files))
    assert words in str(caught.value)
    assert caught.value.hint


def test_a_missing_folder_is_refused_and_a_task_without_documents_has_none(tmp_path: Path) -> None:
    task = make_task(tmp_path, {})
    with pytest.raises(DataError, match="no such folder"):
        load_documents(task)
    (tmp_path / "task.toml").write_text('name = "t"\ninstruction = "A"\n[data]\nexamples = "e.jsonl"\n', encoding="utf-8")
    assert load_documents(Task.load(tmp_path)) == ()


def minimal_pdf(sentences: list[str]) -> bytes:
    """A PDF of one page a sentence, written by hand."""
    count = len(sentences)
    kids = " ".join(f"{3 + 2 * n} 0 R" for n in range(count))
    font = 3 + 2 * count
    objects = ["<< /Type /Catalog /Pages 2 0 R >>", f"<< /Type /Pages /Kids [{kids}] /Count {count} >>"]
    for n, sentence in enumerate(sentences):
        resources = f"<< /Font << /F1 {font} 0 R >> >>"
        page = f"/Type /Page /Parent 2 0 R /MediaBox [0 0 300 300] /Contents {4 + 2 * n} 0 R /Resources {resources}"
        stream = f"BT /F1 12 Tf 20 200 Td ({sentence}) Tj ET"
        objects += [f"<< {page} >>", f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream"]
    objects.append("<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>")
    body, offsets = "%PDF-1.4\n", []
    for number, content in enumerate(objects, start=1):
        offsets.append(len(body))
        body += f"{number} 0 obj\n{content}\nendobj\n"
    table = "".join(f"{offset:010d} 00000 n \n" for offset in offsets)
    trailer = f"trailer\n<< /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{len(body)}\n%%EOF\n"
    return (body + f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}" + trailer).encode("latin-1")


def test_a_pdf_is_read_page_by_page(tmp_path: Path) -> None:
    task = make_task(tmp_path, {"a.pdf": minimal_pdf(["Boats sail at nine.", "Dogs travel free."])})
    (chunk,) = load_documents(task)
    assert chunk.text == "Boats sail at nine.\n\nDogs travel free."


def test_a_pdf_without_pypdf_names_the_extra(tmp_path: Path) -> None:
    make_task(tmp_path, {"a.pdf": minimal_pdf(["x"])})
    code = (
        "import sys; sys.modules['pypdf'] = None\n"
        "from stepladder.data.documents import document_text\n"
        "from stepladder.domain.errors import MissingExtra\n"
        "try: document_text(sys.argv[1])\n"
        "except MissingExtra as error: print(error)\n"
    )
    path = tmp_path / "documents" / "a.pdf"
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert "pip install 'stepladder[documents]'" in done.stdout
