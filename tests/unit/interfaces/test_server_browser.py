"""A page of another origin, in a real Chromium: whatever it sends at a server that needs no key is refused, and does nothing."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from live_server import BASE, fake_house, live_server
from stepladder.domain.jobs import JobRequest, JobStatus

pytestmark = pytest.mark.browser

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
ATTACK = """async ([server, job]) => {
    const ways = [
        fetch(`${server}/v1/files`, {mode: 'no-cors'}),
        fetch(`${server}/v1/models`),
        fetch(`${server}/v1/fine_tuning/jobs/${job}/cancel`, {mode: 'no-cors', method: 'POST'}),
        fetch(`${server}/v1/chat/completions`, {mode: 'no-cors', method: 'POST', body: '{}'}),
        fetch(`${server}/v1/files/file-x`, {method: 'DELETE'}),
        new Promise(done => {
            const events = new EventSource(`${server}/v1/fine_tuning/jobs/${job}/events`);
            events.onerror = () => { events.close(); done('refused'); };
            events.onmessage = event => done('heard ' + event.data);
        }),
    ];
    const read = answer => typeof answer === 'string' ? answer : answer.type;
    return Promise.all(ways.map(way => way.then(read).catch(() => 'refused')));
}"""


class Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.end_headers()
        self.wfile.write(b"<p>an ordinary page</p>")

    def log_message(self, *args: Any) -> None:
        pass


@contextmanager
def other_site() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as site:
        thread = threading.Thread(target=site.serve_forever)
        thread.start()
        yield f"http://localhost:{site.server_port}/"
        site.shutdown()
        thread.join()


def test_a_page_of_another_origin_neither_reads_nor_does_anything(tmp_path: Path) -> None:
    from playwright.sync_api import sync_playwright

    executable = next((path for name in NAMES if (path := shutil.which(name))), None)
    with live_server(fake_house(tmp_path / "service")) as server, other_site() as page, sync_playwright() as playwright:
        job = server.house.jobs("proj_local").create(JobRequest(BASE, "file-1")).id
        browser = playwright.chromium.launch(executable_path=executable, args=FLAGS)
        tab = browser.new_page()
        tab.goto(page)
        found = tab.evaluate(ATTACK, [server.root, job])
        browser.close()
        assert found == ["opaque", "refused", "opaque", "opaque", "refused", "refused"]
        with server.client() as client:
            told = client.get("/metrics").text.splitlines()
        status = {line.split('status="')[1][:3] for line in told if line.startswith("stepladder_http_requests_total")}
        assert status == {"403"}  # `/metrics` itself is counted when it is answered
        left = server.house.jobs("proj_local").get(job)
        assert left is not None
        assert left.status is JobStatus.VALIDATING
