"""The web page: alone it loads nothing from elsewhere; in a real browser it chats, shows its speed and stops."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import time
from base64 import b64encode
from hashlib import sha256

import httpx
import pytest

from slipstream.server.page import FILE

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def test_the_policy_allows_its_own_script_and_nothing_else(server):
    response = server.get("/")
    assert response.status_code == 200 and response.headers["content-type"].startswith("text/html")
    policy = dict(part.split(" ", 1) for part in response.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'" and policy["connect-src"] == "'self'" and policy["frame-ancestors"] == "'none'"
    for tag in ("script", "style"):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", response.text, re.DOTALL)
        assert policy[f"{tag}-src"] == f"'sha256-{b64encode(sha256(content.encode()).digest()).decode()}'"


def test_the_page_is_one_small_file_without_foreign_addresses():
    text = FILE.read_text()
    assert not re.findall(r"""(?:src|href)\s*=\s*["'](?!data:)|https?://|@import|innerHTML""", text)
    assert len(text.splitlines()) <= 300


class Tab:
    """A tab of a browser, driven over its debugging port (Chrome DevTools protocol) on a websocket of our own."""

    def __init__(self, port: int):
        deadline = time.monotonic() + 30
        while True:
            with contextlib.suppress(httpx.TransportError, StopIteration):
                pages = httpx.get(f"http://127.0.0.1:{port}/json", timeout=5).json()
                address = next(page["webSocketDebuggerUrl"] for page in pages if page["type"] == "page")
                break
            assert time.monotonic() < deadline, "the browser does not answer"
            time.sleep(0.1)
        from websockets.sync.client import connect

        self._open = contextlib.ExitStack()
        self._socket = self._open.enter_context(connect(address, max_size=2**24, proxy=None))
        self._number = 0
        self.problems: list[str] = []
        for domain in ("Runtime", "Log", "Page", "Network"):
            self.do(f"{domain}.enable")

    def do(self, method: str, **params):
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": params}))
        while True:
            message = json.loads(self._socket.recv(30))
            if message.get("id") == self._number:
                assert "error" not in message, message
                return message["result"]
            if message.get("method") == "Runtime.exceptionThrown" or (
                message.get("method") == "Log.entryAdded" and message["params"]["entry"]["level"] == "error"
            ):
                self.problems.append(json.dumps(message["params"]))

    def run(self, script: str):
        result = self.do("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def until(self, script: str, seconds: float = 20) -> None:
        deadline = time.monotonic() + seconds
        while not self.run(script):
            assert time.monotonic() < deadline, (script, self.run("document.body.innerText"), self.problems)
            time.sleep(0.05)

    def close(self) -> None:
        self._open.close()


@pytest.fixture(scope="module")
def tab(server, tmp_path_factory):
    if BROWSER is None:
        pytest.skip("no Chromium in PATH; apt-get install chromium")
    pytest.importorskip("websockets", reason="the browser's debugging port speaks websocket; pip install websockets")
    profile = tmp_path_factory.mktemp("browser")
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--remote-debugging-port=0"]
    process = subprocess.Popen(
        [BROWSER, *flags, f"--user-data-dir={profile}", "about:blank"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "HOME": str(profile)}, start_new_session=True,
    )  # fmt: skip
    found = profile / "DevToolsActivePort"
    try:
        deadline = time.monotonic() + 30
        while not found.is_file() or not found.read_text().strip():
            assert time.monotonic() < deadline and process.poll() is None, "the browser did not start"
            time.sleep(0.1)
        made = Tab(int(found.read_text().split()[0]))
        made.do("Page.navigate", url=server.url)
        made.until("document.readyState === 'complete' && typeof ready !== 'undefined' && ready")
        yield made
        made.close()
    finally:
        os.killpg(process.pid, 9)
        process.wait()


def ask(tab: Tab, text: str, **controls) -> None:
    for name, value in controls.items():
        tab.run(f"at('{name}').value = {json.dumps(value)}")
    tab.run(f"at('prompt').value = {json.dumps(text)}; at('send').click()")


def test_it_says_what_runs(tab):
    assert tab.run("document.title") == "tiny" and "context 32768" in tab.run("at('facts').textContent")
    assert "limit" in tab.run("at('percent').textContent") and tab.run("chat") is True


def test_it_chats_and_remembers(tab, server):
    tab.run("at('clear').click()")
    ask(tab, "the quick", temperature="0", max_tokens="12", seed="4")
    tab.until("history.length === 2 && !running")
    body = {"messages": [{"role": "user", "content": "the quick"}], "temperature": 0, "max_tokens": 12, "seed": 4, "top_p": 0.95}
    expected = server.post("/v1/chat/completions", **body).json()["choices"][0]["message"]["content"]
    assert tab.run("history[1].content") == expected and tab.run("document.querySelectorAll('.said').length") == 2
    ask(tab, "and again", temperature="0", max_tokens="5")
    tab.until("history.length === 4 && !running")


def test_the_meter_moves_and_stop_stops(tab, server):
    tab.run("at('clear').click(); window.plain = body; body = text => ({...plain(text), ignore_eos: true})")
    ask(tab, "the quick", temperature="1", max_tokens="30000")
    tab.until("/tokens\\/s of/.test(at('speed').textContent) && at('share').value > 0")
    assert "of this machine's limit" in tab.run("at('percent').textContent")
    tab.until("running !== null")
    tab.run("at('stop').click()")
    tab.until("running === null")
    tab.run("body = plain")
    server.until(server.idle, 5)


def test_mistakes_are_shown(tab):
    tab.run("at('clear').click()")
    ask(tab, "the quick", temperature="7", max_tokens="5")
    tab.until("document.querySelector('.said.error') !== null")
    assert "temperature" in tab.run("document.querySelector('.said.error').textContent")


def test_a_model_s_text_is_text(tab):
    """What a model writes is never markup."""
    tab.run("say('assistant', '<img src=x onerror=\"window.hit = 1\">')")
    assert tab.run("document.querySelector('img')") is None and tab.run("window.hit") is None
    assert not [problem for problem in tab.problems if "400" not in problem], tab.problems  # the mistake above is one of them
