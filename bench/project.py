"""The project's own loops, as its readers and builders meet them: `make book`, `make test`, every notebook, every page."""

import os
import subprocess
import tempfile
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.measure import interleave

ROOT = Path(__file__).resolve().parent.parent
SITE = ROOT / "_build" / "html"


def loops(dry: bool) -> Iterator[dict[str, Any]]:
    """Seconds of building and of testing, and of every notebook in the tests. dry: `make` says what it would do, and does nothing."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "tests.xml"
        env = {**os.environ, "PYTEST_ADDOPTS": f"--junit-xml={report}"}
        env.pop("OMP_NUM_THREADS", None)  # the Makefile says how many
        for verb in ("book", "test"):
            command = ["make", *(["-n"] if dry else []), verb]
            run = lambda: subprocess.run(
                command, cwd=ROOT, env=env, check=True, stdout=subprocess.DEVNULL
            )
            yield dict(
                what=f"make {verb}",
                unit="s",
                values=interleave({"ours": run}, rounds=1, warm_up=0),
            )
        if report.exists():
            seconds: defaultdict[str, float] = defaultdict(float)
            for case in ElementTree.parse(report).iter("testcase"):
                if (module := case.get("classname", "")).endswith(
                    ".ipynb"
                ):  # nbval's: book.03_bound.ipynb, a cell each
                    seconds[module.split(".")[1]] += float(case.get("time", 0))
            for notebook in sorted(seconds):
                yield dict(
                    what="notebook",
                    page=notebook,
                    unit="s",
                    values={"ours": [seconds[notebook]]},
                )


def pages(some: int | None = None) -> Iterator[dict[str, Any]]:
    """Bytes that every page loads, text compressed as public hosts send it, and the seconds until its first formula stands, from disk."""
    from book._tools.browser import CHROMIUM, Browser, weight
    from book._tools.fits import WATCH

    if not CHROMIUM or not SITE.exists():
        return
    browser = Browser()
    browser("Page.addScriptToEvaluateOnNewDocument", source=WATCH)
    browser.look(1280, dark=False)
    for page in sorted(SITE.glob("book/*.html"))[:some]:
        seconds = []
        for _ in range(3):
            browser.open(page.as_uri())
            seconds.append(browser.js("window.firstFormula ?? null"))
        yield dict(
            what="weight",
            page=page.stem,
            unit="bytes",
            values={"ours": [sum(weight(browser.requested).values())]},
        )
        if None not in seconds:
            yield dict(
                what="first formula", page=page.stem, unit="s", values={"ours": seconds}
            )
    browser.close()
