"""The report in a real Chromium: nothing runs, nothing is fetched, nothing overflows, everything can be read.

Needs Debian's `chromium` (or another Chromium) on the PATH and the `playwright` package; without them these tests fail.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from pypdf import PdfReader

from hostile_texts import HOSTILE_TEXTS
from made_up_climb import climb_full_of, made_up_climb, ran, training_history
from stepladder.domain.climb import ClimbRecord
from stepladder.service.report import render_report, write_report

pytestmark = pytest.mark.browser

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
NAMES = ("chromium", "chromium-browser", "google-chrome")

TOUCH_EVERYTHING = """() => {
    for (const element of document.querySelectorAll('*')) {
        if (element.tagName === 'DETAILS') element.open = true;
        for (const kind of ['mouseover', 'click', 'focus', 'error', 'load', 'toggle', 'begin'])
            element.dispatchEvent(new Event(kind, {bubbles: true}));
    }
}"""

WIDER_THAN_THE_PAGE = """() => [...document.querySelectorAll('body *')]
    .filter(element => !element.closest('svg, thead') && element.getBoundingClientRect().right > innerWidth + 0.5)
    .map(element => element.outerHTML.slice(0, 120))"""

# the WCAG 2.2 contrast ratio of every text with the nearest background that is painted behind it
LOW_CONTRAST = """() => {
    const channels = colour => colour.match(/[\\d.]+/g).map(Number);
    const light = colour => {
        const linear = c => c <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4;
        const [r, g, b] = channels(colour).slice(0, 3).map(c => linear(c / 255));
        return .2126 * r + .7152 * g + .0722 * b;
    };
    const behind = element => {
        for (let at = element; at; at = at.parentElement) {
            const colour = getComputedStyle(at).backgroundColor;
            if (channels(colour)[3] !== 0) return colour;
        }
        return 'rgb(255, 255, 255)';
    };
    const low = [];
    let seen = 0;
    for (const element of document.querySelectorAll('body *')) {
        const own = [...element.childNodes].some(node => node.nodeType === 3 && node.data.trim());
        if (!own || !element.getClientRects().length) continue;
        const style = getComputedStyle(element);
        const [a, b] = [light(element.closest('svg') ? style.fill : style.color), light(behind(element))];
        const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
        seen += 1;
        if (ratio < 4.5) low.push(`${ratio.toFixed(2)} ${element.outerHTML.slice(0, 100)}`);
    }
    return [seen, low];
}"""

# texts of a drawing that leave it or lie on one another; a pixel of touch is allowed
BADLY_PLACED = """() => {
    const bad = [];
    let seen = 0;
    for (const drawing of document.querySelectorAll('svg')) {
        const frame = drawing.getBoundingClientRect();
        if (!frame.width) continue;
        const texts = [...drawing.querySelectorAll('text')].map(text => [text.textContent, text.getBoundingClientRect()]);
        texts.forEach(([words, box], index) => {
            seen += 1;
            const beside = box.left < frame.left - 1 || box.right > frame.right + 1;
            if (beside || box.top < frame.top - 1 || box.bottom > frame.bottom + 1)
                bad.push(`outside: ${words}`);
            for (const [other, taken] of texts.slice(0, index)) {
                const across = Math.min(box.right, taken.right) - Math.max(box.left, taken.left);
                const down = Math.min(box.bottom, taken.bottom) - Math.max(box.top, taken.top);
                if (across > 1 && down > 3) bad.push(`${words} on ${other}`);
            }
        });
    }
    return [seen, bad];
}"""


@dataclass
class Watched:
    """A page and what it did."""

    page: Any
    guarded: bool
    dialogs: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    executable = next((path for name in NAMES if (path := shutil.which(name))), None)
    if executable is None:
        pytest.fail(
            f"No Chromium is on the PATH ({', '.join(NAMES)}). Run: apt-get install chromium; or leave out: -m 'not browser'"
        )
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=executable, args=FLAGS)
        yield chromium
        chromium.close()


def _watch(context: Any, *, guarded: bool) -> Watched:
    watched = Watched(context.new_page(), guarded)

    def dismiss(dialog: Any) -> None:
        watched.dialogs.append(dialog.message)
        dialog.dismiss()

    watched.page.on("dialog", dismiss)
    watched.page.on("request", lambda request: watched.requests.append(request.url))
    watched.page.on("console", lambda message: watched.complaints.append(message.text))
    watched.page.on("pageerror", lambda error: watched.complaints.append(str(error)))
    return watched


@pytest.fixture(params=["with its policy", "without its policy"])
def watched(browser: Any, request: pytest.FixtureRequest) -> Iterator[Watched]:
    """A page that is listened to; in the second form the browser ignores the page's policy, so escaping stands alone."""
    guarded = request.param == "with its policy"
    context = browser.new_context(viewport={"width": 1280, "height": 900}, bypass_csp=not guarded)
    yield _watch(context, guarded=guarded)
    context.close()


def test_the_listeners_hear_what_a_page_without_escaping_would_do(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "raw.html"
    raw = "<script>alert(1)</script><img src='file:///missing.png' onerror='alert(2)'>"
    for guarded in (False, True):
        context = browser.new_context(bypass_csp=not guarded)
        watched = _watch(context, guarded=guarded)
        meta = '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'">' if guarded else ""
        path.write_text(f"<!DOCTYPE html>{meta}{raw}", encoding="utf-8")
        watched.page.goto(path.as_uri())
        watched.page.evaluate(TOUCH_EVERYTHING)
        if guarded:
            assert watched.dialogs == []
            assert watched.complaints
        else:
            assert watched.dialogs[:1] == ["1"]
            assert "file:///missing.png" in watched.requests
        context.close()


def test_nothing_runs_and_nothing_is_fetched_whatever_the_texts_hold(watched: Watched, tmp_path: Path) -> None:
    # every text must be harmless by escaping alone; a third of them shows that the policy finds nothing to complain about
    for number, hostile in enumerate(HOSTILE_TEXTS[::3] if watched.guarded else HOSTILE_TEXTS):
        path = tmp_path / f"{number}.html"
        write_report(climb_full_of(hostile), path)
        watched.requests.clear()
        watched.page.goto(path.as_uri())
        watched.page.evaluate(TOUCH_EVERYTHING)
        assert (watched.dialogs, watched.complaints) == ([], []), hostile
        assert watched.requests == [path.as_uri()], hostile
        assert watched.page.url == path.as_uri()


@pytest.mark.parametrize("width", [390, 1280])
def test_no_page_is_wider_than_its_window(browser: Any, tmp_path: Path, width: int) -> None:
    context = browser.new_context(viewport={"width": width, "height": 900})
    page = context.new_page()
    words = ("x" * 400, "wide 日本語テキスト " * 20, *HOSTILE_TEXTS[-6:])
    for number, record in enumerate([made_up_climb(), *(climb_full_of(word) for word in words)]):
        path = tmp_path / f"{number}.html"
        write_report(record, path)
        page.goto(path.as_uri())
        page.evaluate(TOUCH_EVERYTHING)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        if number == 0:
            assert page.evaluate(WIDER_THAN_THE_PAGE) == []
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_every_text_stands_out_from_what_is_behind_it(browser: Any, tmp_path: Path, scheme: str, width: int) -> None:
    write_report(made_up_climb(), tmp_path / "report.html")
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    page.goto((tmp_path / "report.html").as_uri())
    seen, low = page.evaluate(LOW_CONTRAST)
    assert seen > 150
    assert low == []
    context.close()


def _crowded() -> ClimbRecord:
    """Many rungs with equal scores and costs, and a training whose first weights were kept."""
    equal = [ran(f"rung-number-{number}", 0.8, 0.81) for number in range(7)]
    tuned = ran("lora", 0.8, 0.81, history=training_history(), recipe={"adapters": [{"best_step": 6}]})
    return replace(made_up_climb(), rungs=(*equal, tuned))


@pytest.mark.parametrize("record", [made_up_climb(), _crowded()], ids=["realistic", "crowded"])
@pytest.mark.parametrize("width", [390, 1280])
def test_the_texts_of_a_chart_stay_inside_and_apart(browser: Any, tmp_path: Path, width: int, record: ClimbRecord) -> None:
    write_report(record, tmp_path / "report.html")
    context = browser.new_context(viewport={"width": width, "height": 900})
    page = context.new_page()
    page.goto((tmp_path / "report.html").as_uri())
    seen, bad = page.evaluate(BADLY_PLACED)
    assert seen > 40
    assert bad == []
    context.close()


def test_a_printed_report_unfolds_its_long_texts(browser: Any) -> None:
    record = made_up_climb()
    page = browser.new_page()
    page.set_content(render_report(record))
    printed = PdfReader(io.BytesIO(page.pdf(format="A4")))
    words = " ".join(page.extract_text() for page in printed.pages)
    assert record.regressions[1].input.count("kettle") == 9
    assert words.count("kettle") >= 9
    assert page.inner_text("article:last-of-type").count("kettle") < 9  # folded on the screen
    page.close()
