"""A Chromium of this machine, driven over its DevTools protocol."""

import base64
import contextlib
import json
import os
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path

import websocket

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_SECONDS = 60


def find() -> str | None:
    """The browser of $BROWSER_FOR_TESTS or on the PATH; None where there is none."""
    given = os.environ.get("BROWSER_FOR_TESTS")
    return given or next((path for name in NAMES if (path := shutil.which(name))), None)


class Page:
    """A tab.

    Attributes:
      faults: what scripts of the page threw, and what it logged as an error.
    """

    def __init__(self, address: str):
        self.socket = websocket.create_connection(address, timeout=_SECONDS)
        self.number, self.faults = 0, []
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params):
        """Calls a method of the protocol and returns its result."""
        self.number += 1
        self.socket.send(json.dumps({"id": self.number, "method": method, "params": params}))
        while True:
            told = json.loads(self.socket.recv())
            if told.get("method") == "Runtime.exceptionThrown":
                self.faults.append(str(told["params"]["exceptionDetails"]))
            entry = told.get("params", {}).get("entry", {})
            if told.get("method") == "Log.entryAdded" and entry["level"] == "error":
                self.faults.append(entry["text"])
            if told.get("id") == self.number:
                assert "error" not in told, told["error"]
                return told["result"]

    def run(self, script: str):
        """The value of an expression, of a promise what it becomes."""
        found = self.call(
            "Runtime.evaluate",
            expression=script,
            returnByValue=True,
            awaitPromise=True,
            userGesture=True,
        )
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait(self, script: str, seconds: float = _SECONDS) -> None:
        """Waits until an expression is true."""
        end = time.monotonic() + seconds
        while not self.run(f"!!({script})"):
            assert time.monotonic() < end, f"never true: {script}"
            time.sleep(0.02)

    def open(self, address: str) -> None:
        """Goes to an address."""
        self.call("Page.navigate", url=address)
        self.wait(f"location.href.startsWith({address!r}) && document.readyState === 'complete'")

    def size(self, width: int, height: int) -> None:
        """Gives the window a size."""
        about = {"deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, **about)

    def picture(self) -> bytes:
        """A screenshot as PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])

    def files(self, selector: str, *paths: Path) -> None:
        """Chooses files in an input."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(path) for path in paths])


@contextlib.contextmanager
def opened(program: str, folder: Path):
    """A page of a fresh browser, whose profile and downloads lie in `folder`."""
    command = [program, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"]
    command += ["--remote-debugging-port=0", "--remote-allow-origins=*", "--disable-dev-shm-usage"]
    command += [f"--user-data-dir={folder}/profile", "about:blank"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    browser = subprocess.Popen(command, **quiet)
    try:
        port = _port(browser, folder / "profile" / "DevToolsActivePort")
        tabs = json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/json"))
        page = Page(next(tab for tab in tabs if tab["type"] == "page")["webSocketDebuggerUrl"])
        page.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(folder))
        yield page
        page.socket.close()
    finally:
        browser.terminate()
        browser.wait(20)


def _port(browser: subprocess.Popen, file: Path) -> int:
    end = time.monotonic() + _SECONDS
    while not file.exists() or not file.read_text().strip():
        assert browser.poll() is None, "the browser has ended"
        assert time.monotonic() < end, "the browser does not start"
        time.sleep(0.05)
    return int(file.read_text().split()[0])
