"""Drawings in a page, written shorter on the way to it: what matplotlib says at length (ddpm_core/_page.py), the same to a fourteenth of a pixel.

Corners are told from the last one and to a tenth of a point; a style that recurs is a class; what a row of dots have in common stands
once around them; names are short; groups that group nothing go. A page's drawings are a third of what they were.
"""

import re
from collections import Counter

DRAWING = re.compile(
    r'<svg (?:class="(?:wide|narrow)"|aria-hidden="true" style="position:absolute)'
    r"[^>]*>.*?</svg>",
    re.DOTALL,
)
TOKEN = re.compile(r"[MLHVQCz]|-?\d*\.?\d+(?:e-?\d+)?")
TAKES = {"M": 2, "L": 2, "Q": 4, "C": 6}
DOT = re.compile(
    r'<use href="(#[^"]*)" x="([^"]*)" y="([^"]*)" style="([^"]*)"/>(?:\s*'
    r'<use href="\1" x="[^"]*" y="[^"]*" style="\4"/>)+'
)
NOTHING_SEEN = re.compile(r'<path d="[^"]*"(?: clip-path="[^"]*")? style="fill:none"/>')
SALTED = r"f[0-9a-f]{6}-?\w[\w-]*"


def short(value: float, digits: int) -> str:
    text = f"{value:.{digits}f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    text = re.sub(r"^(-?)0\.", r"\1.", text)
    return "0" if text in ("-0", "-", "") else text


def path(d: str, digits: int) -> str:
    """The same path, each place told from the last one: "M10 10L20 10L20 15" -> "M10 10h10v5"."""
    words = TOKEN.findall(d)
    if re.sub(r"[MLQCz\d.\s,e-]", "", d):
        return d  # a command of another kind: left as it is
    unit = 10**digits
    out: list[str] = []
    x = y = x0 = y0 = (
        0  # the place and where its line began, in units of the last digit
    )
    last, i = "", 0
    while i < len(words):
        command = words[i]
        if command == "z":
            out.append("z")
            x, y, last = x0, y0, "z"
            i += 1
            continue
        if command not in TAKES:
            return d
        many = TAKES[command]
        at = [round(float(word) * unit) for word in words[i + 1 : i + 1 + many]]
        i += 1 + many
        if command == "M":
            out.append("M")
            out += numbers([at[0], at[1]], digits)
            x0, y0, last = at[0], at[1], "M"
        else:
            steps = [v - (y if k % 2 else x) for k, v in enumerate(at)]
            letter = command.lower()
            if command == "L" and not steps[0] and not steps[1] and last != "M":
                continue
            if command == "L" and not steps[1]:
                letter, steps = "h", steps[:1]
            elif command == "L" and not steps[0]:
                letter, steps = "v", steps[1:]
            if letter != last:
                out.append(letter)
            out += numbers(steps, digits)
            last = letter
        x, y = at[-2], at[-1]
    return joined(out)


def numbers(values: list[int], digits: int) -> list[str]:
    return [short(v / 10**digits, digits) for v in values]


def joined(words: list[str]) -> str:
    """With as few blanks as can be: a sign, a letter and a second point begin a number of their own."""
    text, fraction = "", False
    for word in words:
        if word[0].isalpha():
            fraction = False
        else:
            begins = word[0] == "-" or (word[0] == "." and fraction)
            if text and not text[-1].isalpha() and not begins:
                text += " "
            fraction = "." in word
        text += word
    return text


def shorter(found: re.Match[str]) -> str:
    """Of an element with a path: a glyph's units are fine, a mark's are few, all others are points."""
    element = found[0]
    digits = 0 if "scale(0.0" in element else 2 if ' id="' in element else 1
    return re.sub(r' d="([^"]*)"', lambda m: f' d="{path(m[1], digits)}"', element)


def row(found: re.Match[str]) -> str:
    """Dots that look alike: what they share around them. An opacity is that of each dot, not of their group."""
    href, style = found[1], found[4]
    if re.search(r"(?:^|;)opacity:", style):
        return found[0]
    places = re.findall(r' x="([^"]*)" y="([^"]*)"', found[0])
    dots = "".join(f'<use href="{href}" x="{x}" y="{y}"/>' for x, y in places)
    return f'<g style="{style}">{dots}</g>'


def ungrouped(svg: str) -> str:
    """Without the groups that have nothing to say of what they hold."""
    out, open_groups = [], []
    for piece in re.split(r"(<g(?: [^>]*)?>|</g>)", svg):
        if piece.startswith("<g") and piece[2:3] in (">", " "):
            open_groups.append(piece != "<g>")
            out.append(piece if open_groups[-1] else "")
        elif piece == "</g>":
            if not open_groups:
                return svg  # not well made: left as it is
            out.append(piece if open_groups.pop() else "")
        else:
            out.append(piece)
    return "".join(out)


def slim(svg: str) -> str:
    """One drawing, by itself."""
    svg = re.sub(
        r"data:image/png;base64,[^\"]*", lambda m: re.sub(r"\s", "", m[0]), svg
    )
    svg = re.sub(r"<g(?: [^>]*)?/>", "", NOTHING_SEEN.sub("", svg))
    svg = re.sub(r"<path [^>]*>", shorter, svg)
    svg = re.sub(
        r'(?<= )(x|y|width|height)="(-?\d+\.\d+)"',
        lambda m: f'{m[1]}="{short(float(m[2]), 1)}"',
        svg,
    )
    svg = re.sub(r"\s*\n\s*", " ", re.sub(r">\s+<", "><", svg))
    svg = DOT.sub(row, svg)
    svg = re.sub(r'<g(?: clip-path="[^"]*")?></g>', "", svg)
    return ungrouped(svg)


def slim_page(text: str) -> str:
    """A page whose drawings are slim, and share their styles and names."""
    if not DRAWING.search(text):
        return text
    text = DRAWING.sub(lambda m: slim(m[0]), text)
    inside = "".join(DRAWING.findall(text))
    styles = Counter(
        re.findall(r'(?<=[a-z"] )style="([^"]*)"', re.sub(r"<svg[^>]*>", "", inside))
    )
    classes = {
        style: f"d{k}"
        for k, (style, many) in enumerate(styles.most_common())
        if many * (len(style) - 2) > len(style) + 20
    }
    ids = dict.fromkeys(re.findall(rf' id="({SALTED})"', inside))
    names = {name: f"i{k}" for k, name in enumerate(ids)}

    def rewrite(found: re.Match[str]) -> str:
        head, rest = re.match(r"(<svg[^>]*>)(.*)", found[0], re.DOTALL).groups()
        rest = re.sub(
            r' style="([^"]*)"',
            lambda m: f' class="{classes[m[1]]}"' if m[1] in classes else m[0],
            rest,
        )
        rest = re.sub(
            rf'( id="| href="#|url\(#)({SALTED})(?=["\)])',
            lambda m: m[1] + names.get(m[2], m[2]),
            rest,
        )
        return head + rest

    text = DRAWING.sub(rewrite, text)
    rules = "".join(f".{name}{{{style}}}" for style, name in classes.items())
    return text.replace("</head>", f"<style>{rules}</style></head>", 1)
