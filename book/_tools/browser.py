"""A headless Chromium, told what to do over a pair of pipes with its own protocol. Nothing but the browser is needed."""

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
import zlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

CHROMIUM = next(
    filter(
        None,
        map(
            shutil.which,
            (
                "chromium",
                "chromium-browser",
                "google-chrome",
                "google-chrome-stable",
                "chrome",
            ),
        ),
    ),
    None,
)
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--remote-debugging-pipe",
]
KEYS = {"Tab": 9, "Enter": 13, "Escape": 27, "ArrowLeft": 37, "ArrowRight": 39}


class Browser:
    """One page. `complaints` collects what a reader's console and network would show, `requested` the addresses of all that the page
    loads; no request leaves the machine."""

    def __init__(self):
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        to_browser, self._write = (
            os.pipe()
        )  # the browser reads its file 3 and writes its file 4
        self._read, from_browser = os.pipe()
        command = [
            CHROMIUM,
            *FLAGS,
            f"--user-data-dir={self._profile.name}",
            "about:blank",
        ]
        script = f'exec "$@" 3<&{to_browser} 4>&{from_browser}'
        self._process = subprocess.Popen(
            ["bash", "-c", script, "chromium", *command],
            pass_fds=(to_browser, from_browser),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        self._buffer, self._number, self._session = b"", 0, None
        self.complaints, self.requested, self.loaded = [], [], False
        self._trace, self._tracing = [], False
        target = self("Target.createTarget", url="about:blank")["targetId"]
        self._session = self("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self(f"{domain}.enable")
        self(
            "Network.emulateNetworkConditions",
            offline=True,
            latency=0,
            downloadThroughput=0,
            uploadThroughput=0,
        )

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
        elif kind == "Tracing.dataCollected":
            self._trace += said["value"]
        elif kind == "Tracing.tracingComplete":
            self._tracing = False
        elif kind == "Runtime.exceptionThrown":
            details = said["exceptionDetails"]
            self.complaints.append(
                details.get("exception", {}).get("description") or details["text"]
            )
        elif kind == "Runtime.consoleAPICalled" and said["type"] in (
            "error",
            "warning",
            "assert",
        ):
            self.complaints.append(
                " ".join(
                    str(a.get("value", a.get("description"))) for a in said["args"]
                )
            )
        elif kind == "Log.entryAdded" and said["entry"]["level"] in (
            "error",
            "warning",
        ):
            self.complaints.append(
                f"{said['entry']['text']} {said['entry'].get('url', '')}"
            )
        elif kind == "Network.requestWillBeSent":
            self.requested.append(said["request"]["url"])
            if not self.requested[-1].startswith(("file:", "data:", "blob:", "about:")):
                self.complaints.append(f"request to {self.requested[-1]}")
        elif kind == "Network.loadingFailed" and not said.get("canceled"):
            self.complaints.append(f"failed to load: {said.get('errorText')}")

    def js(self, expression: str):
        """The value of an expression in the page; a promise is waited for."""
        result = self(
            "Runtime.evaluate",
            expression=expression,
            returnByValue=True,
            awaitPromise=True,
        )
        if "exceptionDetails" in result:
            raise RuntimeError(
                result["exceptionDetails"]["exception"].get("description")
            )
        return result["result"].get("value")

    def look(self, width: int, dark: bool) -> None:
        self(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=800,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        self(
            "Emulation.setEmulatedMedia",
            features=[
                {"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
                {"name": "prefers-reduced-motion", "value": "reduce"},
            ],
        )  # or colours are met halfway

    def open(self, url: str, timeout: float = 120) -> None:
        """Go to a page and wait until it is loaded and its formulas are set."""
        self.complaints, self.requested, self.loaded = [], [], False
        self("Page.navigate", url=url)
        end = time.monotonic() + timeout
        while not self.loaded:
            if time.monotonic() > end:
                raise TimeoutError(url)
            self.js("new Promise(done => setTimeout(done, 20))")
        self.js(
            "window.MathJax && MathJax.startup ? MathJax.startup.promise.then(() => document.fonts.ready).then(() => 1) : 1"
        )

    def traced(self, categories: list[str], action: Callable[[], object]) -> list[dict]:
        """The events of the browser's own trace while something is done."""
        self._trace, self._tracing = [], True
        self("Tracing.start", traceConfig={"includedCategories": categories})
        action()
        self("Tracing.end")
        while self._tracing:
            self._note(self._receive())
        return self._trace

    def click(self, x: float, y: float) -> None:
        """The left button of the mouse, at a point of the window."""
        for kind in ("mousePressed", "mouseReleased"):
            self(
                "Input.dispatchMouseEvent",
                type=kind,
                x=x,
                y=y,
                button="left",
                clickCount=1,
            )

    def tap(self, x: float, y: float) -> None:
        """One finger."""
        self(
            "Input.synthesizeTapGesture",
            x=round(x),
            y=round(y),
            duration=30,
            gestureSourceType="touch",
        )

    def press(self, key: str) -> None:
        for kind in ("rawKeyDown", "keyUp"):
            self(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                code=key,
                windowsVirtualKeyCode=KEYS[key],
            )

    def screenshot(self) -> bytes:
        """The whole page as PNG, for a person to look at."""
        return base64.b64decode(
            self("Page.captureScreenshot", format="png", captureBeyondViewport=True)[
                "data"
            ]
        )

    def pdf(self, numbered: bool = False) -> bytes:
        """The page as it prints: A4, backgrounds and an outline of its headings with it; numbered: with the number of each sheet at its foot."""
        # margins in inches
        number = '<div style="width:100%;font-size:8px;text-align:center;color:#555"><span class="pageNumber"></span></div>'
        made = self(
            "Page.printToPDF",
            scale=0.8,
            printBackground=True,
            preferCSSPageSize=True,
            paperWidth=8.27,
            paperHeight=11.69,
            marginTop=0.7,
            marginBottom=0.8,
            marginLeft=0.8,
            marginRight=0.8,
            displayHeaderFooter=numbered,
            headerTemplate="<span></span>",
            footerTemplate=number,
            generateDocumentOutline=True,
            generateTaggedPDF=True,
            transferMode="ReturnAsStream",
        )
        pieces = []
        while True:
            piece = self("IO.read", handle=made["stream"], size=1 << 22)
            pieces.append(
                base64.b64decode(piece["data"])
                if piece.get("base64Encoded")
                else piece["data"].encode()
            )
            if piece["eof"]:
                return b"".join(pieces)

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


def weight(requested: list[str]) -> dict[str, int]:
    """Name -> bytes as they are sent, of all files among these addresses, the heaviest first."""
    paths = {
        unquote(urlsplit(url).path) for url in requested if url.startswith("file:")
    }
    return {
        path.rsplit("/", 1)[1]: _sent(path)
        for path in sorted(paths, key=_sent, reverse=True)
    }


@lru_cache
def _sent(path: str) -> int:
    """The bytes of a file, compressed where that makes them fewer, as public hosts do it."""
    data = Path(path).read_bytes()
    return min(len(data), len(zlib.compress(data, 6)))
