"""A headless Chromium, told what to do over a pair of pipes with its own protocol. Nothing but the browser is needed."""

import json
import os
import shutil
import subprocess
import tempfile
import time

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome"))), None)
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--remote-debugging-pipe"]  # fmt: skip


class Browser:
    """One page. `complaints` collects what a reader's console and network would show; no request leaves the machine."""

    def __init__(self):
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        to_browser, self._write = os.pipe()  # the browser reads its file 3 and writes its file 4
        self._read, from_browser = os.pipe()
        command = [CHROMIUM, *FLAGS, f"--user-data-dir={self._profile.name}", "about:blank"]
        script = f'exec "$@" 3<&{to_browser} 4>&{from_browser}'
        self._process = subprocess.Popen(["bash", "-c", script, "chromium", *command], pass_fds=(to_browser, from_browser),
                                         stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
        os.close(to_browser)
        os.close(from_browser)
        self._buffer, self._number, self._session = b"", 0, None
        self.complaints, self.loaded = [], False
        target = self("Target.createTarget", url="about:blank")["targetId"]
        self._session = self("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self(f"{domain}.enable")
        self("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=0, uploadThroughput=0)

    def __call__(self, method: str, **params) -> dict:
        """Send one command and wait for its result; events that come in between are noted."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self._note(answer)

    def _receive(self) -> dict:
        while b"\0" not in self._buffer:
            piece = os.read(self._read, 1 << 20)
            if not piece:
                raise RuntimeError("the browser has ended")
            self._buffer += piece
        message, self._buffer = self._buffer.split(b"\0", 1)
        return json.loads(message)

    def _note(self, event: dict) -> None:
        kind, said = event.get("method"), event.get("params", {})
        if kind == "Page.loadEventFired":
            self.loaded = True
        elif kind == "Runtime.exceptionThrown":
            details = said["exceptionDetails"]
            self.complaints.append(details.get("exception", {}).get("description") or details["text"])
        elif kind == "Runtime.consoleAPICalled" and said["type"] in ("error", "warning", "assert"):
            self.complaints.append(" ".join(str(a.get("value", a.get("description"))) for a in said["args"]))
        elif kind == "Log.entryAdded" and said["entry"]["level"] in ("error", "warning"):
            self.complaints.append(f"{said['entry']['text']} {said['entry'].get('url', '')}")
        elif kind == "Network.requestWillBeSent" and not said["request"]["url"].startswith(("file:", "data:", "blob:", "about:")):
            self.complaints.append(f"request to {said['request']['url']}")
        elif kind == "Network.loadingFailed" and not said.get("canceled"):
            self.complaints.append(f"failed to load: {said.get('errorText')}")

    def js(self, expression: str):
        """The value of an expression in the page; a promise is waited for."""
        result = self("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise RuntimeError(result["exceptionDetails"]["exception"].get("description"))
        return result["result"].get("value")

    def look(self, width: int, dark: bool) -> None:
        self("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 600)
        self("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])

    def open(self, url: str, timeout: float = 120) -> None:
        """Go to a page and wait until it is loaded and its formulas are set."""
        self.complaints, self.loaded = [], False
        self("Page.navigate", url=url)
        end = time.monotonic() + timeout
        while not self.loaded:
            if time.monotonic() > end:
                raise TimeoutError(url)
            self.js("new Promise(done => setTimeout(done, 20))")
        self.js("window.MathJax && MathJax.startup ? MathJax.startup.promise.then(() => document.fonts.ready).then(() => 1) : 1")

    def screenshot(self) -> bytes:
        """The whole page as PNG, for a person to look at."""
        import base64

        return base64.b64decode(self("Page.captureScreenshot", format="png", captureBeyondViewport=True)["data"])

    def close(self) -> None:
        try:
            self._session = None
            self("Browser.close")
        except (RuntimeError, OSError):
            pass
        os.close(self._write)
        os.close(self._read)
        self._process.wait(timeout=20)
        self._profile.cleanup()
