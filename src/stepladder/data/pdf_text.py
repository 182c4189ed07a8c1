"""The text of a PDF, by pypdf (extra `documents`). Imported only when there is a PDF to read."""

from __future__ import annotations

from pathlib import Path

from pypdf import PdfReader

from stepladder.domain.errors import DataError


def pdf_to_text(path: Path) -> str:
    """Pages one after another, a blank line between them.

    Raises:
        DataError: Encrypted, or not a PDF that can be read.
    """
    try:
        reader = PdfReader(path)
        if reader.is_encrypted and not reader.decrypt(""):
            raise DataError(path, None, "the PDF is locked by a password.", "Save a copy without one.")
        pages = [page.extract_text() for page in reader.pages]
    except DataError:
        raise
    except Exception as error:  # a broken file makes pypdf fail in many ways: KeyError, RecursionError, its own
        problem = f"cannot be read as PDF ({type(error).__name__}: {error})."
        raise DataError(path, None, problem, "Save it anew, or convert it to text.") from error
    # half surrogates come out of broken fonts and could not be written again
    text = "\n\n".join(page.strip() for page in pages if page.strip())
    return text.encode("utf-8", errors="replace").decode("utf-8")
