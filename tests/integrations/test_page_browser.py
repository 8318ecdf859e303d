"""The page in a real browser: through a forwarded port, and beside a page of another web site."""

from __future__ import annotations

import contextlib
import http.server
import json
import socket
import threading
import time

import gymnasium as gym
import pytest

pytest.importorskip("viser")

import smolvla_gym
from smolvla_gym.integrations.viewer.page import Page
from tests.integrations.test_page import CHROMIUM, QUIET

sync_api = pytest.importorskip("playwright.sync_api")

pytestmark = pytest.mark.slow

FOREIGN = """<body><p id="said">nothing</p><iframe src="{url}"></iframe><script>
const socket = new WebSocket("{url}".replace("http", "ws"), "viser-v1.1.1");
socket.onopen = () => document.getElementById("said").textContent = "came in";
socket.onerror = () => document.getElementById("said").textContent = "refused";
</script></body>"""


@pytest.fixture
def page():
    with gym.make(smolvla_gym.SIM_ID, cameras=(), task="reach") as env:
        env.reset(seed=0)
        page = Page(env, 0)
        yield page
        page.close()


@pytest.fixture
def browser():
    if CHROMIUM is None:
        pytest.skip("there is no Chromium: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield browser
        browser.close()


@contextlib.contextmanager
def forwarded(port):
    """Forward another port of the loopback, as ``ssh -L`` does."""

    def pump(source, sink):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def accept():
        with contextlib.suppress(OSError):
            while True:
                near = listening.accept()[0]
                far = socket.create_connection(("127.0.0.1", port))
                for ends in ((near, far), (far, near)):
                    threading.Thread(target=pump, args=ends, daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=accept, daemon=True).start()
        yield listening.getsockname()[1]
        with contextlib.suppress(OSError):
            listening.shutdown(socket.SHUT_RDWR)


def test_a_forwarded_port_shows_the_page_and_texts_letter_by_letter(page, browser):
    with forwarded(int(page.url.rpartition(":")[2])) as port:
        tab = browser.new_page()
        tab.goto(f"http://localhost:{port}")
        button = tab.get_by_role("button", name="EMERGENCY STOP", exact=True)
        button.wait_for(timeout=60_000)
        text = "<img src=x> **{push}** it_s [a](b)"
        page.publish("/events", {"data": json.dumps({"event": "instruction", "text": text})})
        tab.get_by_text(text).wait_for(timeout=20_000)
        button.click()
        end = time.monotonic() + 10
        while not (came := page.receive()):
            assert time.monotonic() < end
            tab.wait_for_timeout(20)
        assert came == [("/estop", {"data": True})]


def test_a_page_of_another_site_neither_talks_to_it_nor_frames_it(page, browser):
    class Foreign(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(FOREIGN.replace("{url}", page.url).encode())

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Foreign) as site:
        threading.Thread(target=site.serve_forever, daemon=True).start()
        tab = browser.new_page()
        tab.goto(f"http://localhost:{site.server_address[1]}")
        tab.get_by_text("refused").wait_for(timeout=20_000)
        tab.wait_for_timeout(500)
        assert not any(frame.get_by_role("button").count() for frame in tab.frames[1:])
        site.shutdown()
