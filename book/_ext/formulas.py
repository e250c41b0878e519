r"""Formulas, set when the book is built: a page has them as soon as it has its text, nothing moves, and none needs JavaScript.

MathJax does it, in V8 (the package mini-racer; MathJax itself is that of sphinx-mathjax-offline). Each formula is in the page as MathJax's
HTML, which its style sheet and fonts show, and once more as MathML, which a screen reader reads. Its TeX is in data-tex, for those who
copy it; MathJax is loaded into a page only when a reader asks for its menu (speech, zoom): see book.js.

The number of an equation, \tag{7}, is taken out and set beside the formula, or below it on a phone: see book.css.
"""

import html
import importlib.util
import re
from pathlib import Path

from docutils import nodes
from sphinx.errors import ExtensionError
from sphinx.util import logging

log = logging.getLogger(__name__)

TAG = re.compile(r"\\tag\{([^}]*)\}")
BEHIND, BEFORE = re.compile(r"^[,.;:!?)\]\u201d\u2019]+"), re.compile(r"[(\[\u201c]+$")
SHORT = 60  # glyphs of a formula that takes its comma along; a longer one fills a line of a phone
PARTS = (
    "loader.js",
    "core.js",
    "adaptors/liteDOM.js",
    "input/tex-full.js",
    "output/chtml.js",
    "output/chtml/fonts/tex.js",
    "a11y/assistive-mml.js",
)
FONTS = "mathjax/output/chtml/fonts/woff-v2"  # beside formulas.css, in _static
START = """
var global = globalThis, console = {log() {}, warn() {}, error() {}, info() {}};
var MathJax = {loader: {load: [], ready() {}}, startup: {typeset: false, ready() {}}};
"""
SET = """
var of = MathJax._, adaptor = of.adaptors.liteAdaptor.liteAdaptor();
of.a11y["assistive-mml"].AssistiveMmlHandler(of.handlers.html_ts.RegisterHTMLHandler(adaptor));
var tex = new of.input.tex_ts.TeX({packages: ["base", "ams", "newcommand", "boldsymbol", "configmacros"]});
var font = new of.output.chtml.fonts.tex_ts.TeXFont({fontURL: "%s"});
var chtml = new of.output.chtml_ts.CHTML({font, matchFontHeight: false, scale: 1.1});
var page = of.mathjax.mathjax.document("", {InputJax: tex, OutputJax: chtml});
function set(source, display) { return adaptor.outerHTML(page.convert(source, {display, em: 17, ex: 8, containerWidth: 1e6})); }
function style() { return adaptor.textContent(chtml.styleSheet(page)); }
"""


def mathjax() -> Path:
    """The folder that holds MathJax."""
    package = importlib.util.find_spec("sphinx-mathjax-offline")
    if package is None or package.origin is None:
        raise ExtensionError(
            "sphinx-mathjax-offline is not installed: make book installs it"
        )
    return Path(package.origin).parent / "static" / "mathjax"


class Setter:
    """MathJax in V8, started by the first formula; each formula is set once."""

    def __init__(self) -> None:
        self.done: dict[tuple[str, bool], str] = {}
        self.engine = None

    def start(self):
        try:
            from py_mini_racer import MiniRacer
        except ImportError as error:
            raise ExtensionError(
                "mini-racer is not installed: make book installs it"
            ) from error
        self.engine = MiniRacer()
        self.engine.eval(START)
        for part in PARTS:
            self.engine.eval((mathjax() / part).read_text(encoding="utf-8") + ";0")
        self.engine.eval(SET % FONTS + ";0")

    def set(self, source: str, display: bool) -> str:
        if (source, display) not in self.done:
            if self.engine is None:
                self.start()
            self.done[source, display] = self.engine.call("set", source, display)
        return self.done[source, display]

    def style(self) -> str:
        """The style sheet of all formulas that were set."""
        return self.engine.call("style") if self.engine else ""

    def close(self) -> None:
        if self.engine is not None:
            self.engine.close()
        self.engine = None


setter = Setter()


def formula(source: str, display: bool, node=None) -> str:
    made = setter.set(source, display)
    if wrong := re.search(r'data-mjx-error="([^"]*)"', made):
        log.warning(
            "%s: %s", html.unescape(wrong[1]), source, location=node, type="formulas"
        )
    return made


def visit_math(self, node) -> None:
    source, before, after = node.astext(), node.get("before", ""), node.get("after", "")
    made = formula(source, False, node)
    made = f'<span class="math notranslate nohighlight" data-tex="{html.escape(source)}">{made}</span>'
    if before or after:
        around = (
            ('<span class="kept">', "</span>")
            if made.count("<mjx-c ") <= SHORT
            else ("", "")
        )
        made = f"{around[0]}{html.escape(before)}{made}{html.escape(after)}{around[1]}"
    self.body.append(made)
    raise nodes.SkipNode


def take_along(app, doctree, docname: str) -> None:
    """A formula in the text keeps the bracket before it and the comma behind it: browsers would break the line between them."""
    if app.builder.format != "html":
        return
    for math in doctree.findall(nodes.math):
        if isinstance(math.parent, nodes.TextElement):
            place = math.parent.index(math)
            cut(math, "after", place + 1, BEHIND)
            if place:
                cut(math, "before", place - 1, BEFORE)


def cut(math, name: str, place: int, pattern: re.Pattern[str]) -> None:
    around = math.parent
    text = around[place] if place < len(around) else None
    if isinstance(text, nodes.Text) and (found := pattern.search(text)):
        math[name] = found[0]
        around[place] = nodes.Text(text[: found.start()] + text[found.end() :])


def visit_displaymath(self, node) -> None:
    source = tex_of(node)
    numbers = TAG.findall(source)
    names = "".join(f'<span id="{name}"></span>' for name in node["ids"][1:])
    first = f' id="{node["ids"][0]}"' if node["ids"] else ""
    number = "".join(f'<span class="number">({n})</span>' for n in numbers)
    kinds = " ".join(
        ["math", "notranslate", "nohighlight", *["numbered"] * bool(numbers)]
    )
    self.body.append(
        f'{names}<div{first} class="{kinds}" data-tex="{html.escape(source)}">'
        f"{formula(TAG.sub('', source), True, node)}{number}</div>"
    )
    raise nodes.SkipNode


def tex_of(node) -> str:
    r"""What MathJax is to set. Several lines are a `split`, as Sphinx has it; \[ \], which may stand around, is no part of it."""
    source = node.astext().strip()
    if source.startswith(r"\[") and source.endswith(r"\]"):
        source = source[2:-2].strip()
    if node.get("nowrap"):
        return "\n".join(line for line in source.splitlines() if line.strip())
    parts = [
        rf"\begin{{split}}{part}\end{{split}}" if r"\\" in part else part
        for part in re.split(r"\n\s*\n", source)
        if part.strip()
    ]
    lines = "\\\\\n".join(parts)
    return lines if len(parts) < 2 else rf"\begin{{aligned}}{lines}\end{{aligned}}"


def write_style(app, error) -> None:
    """The rules for the glyphs of this build, and those of a former one whose pages still stand."""
    if app.builder.format == "html" and not error:
        path = Path(app.outdir) / "_static" / "formulas.css"
        rules = setter.style().strip().split("\n\n")
        former = path.read_text().strip().split("\n\n") if path.exists() else []
        path.write_text("\n\n".join(dict.fromkeys([*rules, *former])) + "\n")
    setter.close()


def setup(app):
    app.add_html_math_renderer(
        "set_at_build", (visit_math, None), (visit_displaymath, None)
    )
    app.config.html_math_renderer = "set_at_build"
    app.add_css_file("formulas.css")
    app.connect("doctree-resolved", take_along)
    app.connect("build-finished", write_style)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": False}
