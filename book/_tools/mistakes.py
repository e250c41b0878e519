"""Small mistakes that somebody could make while typing a formula, as edits of a source.

A sign or an operator is exchanged, a root or a logarithm left out, an index is off by
one, a constant is another, one of two neighbours in a schedule or in a list of arguments
is taken for the other, a stored figure is read from the wrong row or column, a weight that
begins at zero begins at one. Every edit lies within one line, so that lines keep their numbers.

Left alone: what a check or an assertion is given, what refuses bad input, error messages,
captions and drawings, shapes, docstrings.
"""

import ast
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

CHECKS = ("check", "check_zero", "check_mc", "check_seen")
OPERATORS = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "/"),
    ast.Div: ("/", "*"),
    ast.Pow: ("**", "*"),
}
EDGES = {
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
}
LEFT_OUT = {
    "sqrt", "exp", "log", "log2", "square", "abs", "clamp", "clip", "expm1", "zero_",
}  # fmt: skip
TAKEN_FOR = {
    "alpha_bar": "alpha",
    "alpha": "alpha_bar",
    "beta": "beta_tilde",
    "beta_tilde": "beta",
    "mean": "sum",
    "sum": "mean",
    "std": "var",
    "var": "std",
    "cumprod": "cumsum",
    "maximum": "minimum",
    "minimum": "maximum",
    "zeros_": "ones_",
    "zeros_like": "ones_like",
}
OF_A_SCHEDULE = ("alpha_bar", "alpha", "beta", "beta_tilde")
ALIKE = (  # arguments that are easily exchanged
    {"x0", "x_0", "x_t", "x", "y", "z", "x_prev", "eps", "x0_hat", "eps_hat", "noise",
     "mean", "mu", "mu_tilde", "mean_p", "mean_q", "real", "fake", "first", "second"},
    {"var", "var_p", "var_q", "beta", "beta_tilde", "alpha", "alpha_bar", "std", "sigma"},
)  # fmt: skip
INDICES = {"t", "s", "i", "j", "k", "n", "tau"}
SHAPES = {
    "view", "reshape", "permute", "transpose", "expand", "expand_as", "unsqueeze", "squeeze",
    "flatten", "unflatten", "repeat", "movedim", "zeros", "ones", "empty", "full", "randn",
    "rand", "randint", "Size", "device", "dtype", "isinstance", "getattr", "len", "zip",
    "manual_seed", "split", "chunk",
}  # fmt: skip
DRAWING = {
    "print", "show", "show_images", "table", "frame", "FrameSlider", "display", "subplots",
    "format",
}  # fmt: skip
CANVASES = {"ax", "axes", "axs", "fig", "figure", "plt", "left", "right", "inset"}
ASIDE = {"dtype", "device", "generator", "digits", "caption", "alt", "figsize", "seed"}


@dataclass(frozen=True)
class Mistake:
    """One edit: bytes `start` to `end` of a source become `text`."""

    place: str  # "gaussian.kl_divergence", or "cell 7"
    module: str  # its full name; "" for the notebook's own code
    cell: int  # the notebook's cell; -1 for the package
    before: str  # the line, without its indentation
    after: str
    first: int  # lines of the expression that it is in
    last: int
    start: int
    end: int
    text: str

    @property
    def name(self) -> tuple[str, str, str]:
        return self.place, self.before, self.after

    def planted(self, source: str) -> str:
        raw = source.encode()
        return (raw[: self.start] + self.text.encode() + raw[self.end :]).decode()


class Finder(ast.NodeVisitor):
    """Collects edits (node, start, end, text) of a source."""

    def __init__(self, source: str) -> None:
        self.raw = source.encode()
        self.starts = [0]
        for line in self.raw.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))
        self.found: list[tuple[ast.AST, int, int, str]] = []
        self.keys: list[list[str]] = [[], []]  # words in [...], alone and among others
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Subscript):
                for key, among in words(node.slice):
                    if key.value not in self.keys[among]:
                        self.keys[among].append(key.value)

    def at(self, node: ast.AST) -> tuple[int, int]:
        """Where a node begins and ends, in bytes."""
        return (
            self.starts[node.lineno - 1] + node.col_offset,
            self.starts[node.end_lineno - 1] + node.end_col_offset,
        )

    def text(self, node: ast.AST) -> str:
        start, end = self.at(node)
        return self.raw[start:end].decode()

    def edit(self, node: ast.AST, start: int, end: int, text: str) -> None:
        if b"\n" not in self.raw[start:end]:
            self.found.append((node, start, end, text))

    def sign(self, node: ast.AST, left: ast.AST, right: ast.AST, pair) -> None:
        """Exchange the operator between two operands."""
        old, new = pair
        start, end = self.at(left)[1], self.at(right)[0]
        between = self.raw[start:end].decode()
        if "#" not in between and (place := between.find(old)) >= 0:
            start += len(between[:place].encode())
            self.edit(node, start, start + len(old), new)

    # What is left alone

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        pass

    def visit_Raise(self, node: ast.Raise) -> None:
        pass

    def visit_Assert(self, node: ast.Assert) -> None:
        pass

    def visit_If(self, node: ast.If) -> None:
        refuses = all(isinstance(line, ast.Raise) for line in node.body)
        for part in node.orelse if refuses else (node.test, *node.body, *node.orelse):
            self.visit(part)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        for line in node.body:
            self.visit(line)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_keyword(self, node: ast.keyword) -> None:
        if node.arg not in ASIDE:
            self.visit(node.value)

    # What is changed

    def visit_BinOp(self, node: ast.BinOp) -> None:
        pair = OPERATORS.get(type(node.op))
        if pair and not any(map(is_text, (node.left, node.right))):
            self.sign(node, node.left, node.right, pair)
            if isinstance(node.op, ast.Pow) and is_number(node.right):
                self.edit(node, self.at(node.left)[1], self.at(node)[1], "")
            for side in (node.left, node.right):
                if is_number(side):
                    self.edit(side, *self.at(side), another(side.value))
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, ast.USub) and not isinstance(node.operand, ast.Constant):
            start, _ = self.at(node)
            self.edit(node, start, start + 1, "")
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        sides = (node.left, *node.comparators)
        for op, left, right in zip(node.ops, sides, sides[1:]):
            if type(op) in EDGES:
                self.sign(node, left, right, EDGES[type(op)])
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        name = getattr(node.func, "id", getattr(node.func, "attr", ""))
        if name in CHECKS or name in DRAWING or name in SHAPES:
            if name in SHAPES and isinstance(node.func, ast.Attribute):
                self.visit(node.func.value)
            return
        if root(node.func) in CANVASES:
            return
        start, end = self.at(node)
        if name in LEFT_OUT and isinstance(node.func, ast.Attribute):
            if root(node.func) in ("torch", "math", "np", "sp", "sympy"):
                if len(node.args) == 1:
                    self.edit(node, start, self.at(node.func)[1], "")
            else:
                self.edit(node, self.at(node.func.value)[1], end, "")
        for one in (*node.args, *(word.value for word in node.keywords)):
            if self.text(one) == "0.0":
                self.edit(one, *self.at(one), "1.0")
        for one, two in zip(node.args, node.args[1:]):
            names = [getattr(arg, "id", "") for arg in (one, two)]
            if names[0] != names[1] and any(set(names) <= group for group in ALIKE):
                (start, middle), (after, end) = self.at(one), self.at(two)
                comma = self.raw[middle:after].decode()
                self.edit(node, start, end, f"{names[1]}{comma}{names[0]}")
        self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if node.attr in TAKEN_FOR and isinstance(node.ctx, ast.Load):
            _, end = self.at(node)
            self.edit(node, end - len(node.attr), end, TAKEN_FOR[node.attr])
        self.generic_visit(node)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        self.visit(node.value)
        index = node.slice
        start, end = self.at(index)
        if isinstance(index, ast.Name) and index.id in INDICES:
            self.edit(index, start, end, f"{index.id} - 1")
        elif (
            isinstance(index, ast.BinOp)
            and isinstance(index.left, ast.Name)
            and is_number(index.right)
        ):
            self.edit(index, start, end, index.left.id)
        elif isinstance(index, ast.Slice) and self.text(index) in ("1:", ":-1"):
            self.edit(index, start, end, {"1:": ":-1", ":-1": "1:"}[self.text(index)])
        if isinstance(node.ctx, ast.Load):
            for key, among in words(index):
                known = self.keys[among]
                if len(known) > 1:
                    other = known[known.index(key.value) - 1]
                    start, end = self.at(key)
                    self.edit(key, start + 1, end - 1, other)


def words(index: ast.AST) -> Iterator[tuple[ast.Constant, bool]]:
    """The words of an index, row["error"] or rows["real", s], and whether among others."""
    among = isinstance(index, ast.Tuple)
    for part in index.elts if isinstance(index, ast.Tuple) else (index,):
        if isinstance(part, ast.Constant) and isinstance(part.value, str):
            yield part, among


def is_text(node: ast.AST) -> bool:
    return isinstance(node, (ast.JoinedStr, ast.List, ast.Tuple)) or (
        isinstance(node, ast.Constant) and isinstance(node.value, (str, bytes))
    )


def is_number(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Constant)
        and isinstance(node.value, (int, float))
        and not isinstance(node.value, bool)
    )


def another(value: float) -> str:
    return str(value + 1) if isinstance(value, int) else repr(value * 1.5 or 0.5)


def root(node: ast.AST) -> str:
    """torch.special.log_ndtr -> "torch"; "" for what does not begin with a name."""
    while isinstance(node, (ast.Attribute, ast.Subscript)):
        node = node.value
    return getattr(node, "id", "")


def mistakes(
    source: str, bodies: Iterable[tuple[str, list]], module: str = "", cell: int = -1
) -> Iterator[Mistake]:
    """The edits of these bodies (place, statements) that are Python, and another program."""
    plain, seen = ast.dump(ast.parse(source)), set()
    for place, body in bodies:
        finder = Finder(source)
        for statement in body:
            finder.visit(statement)
        for node, start, end, text in finder.found:
            line = finder.starts[source.encode()[:start].count(b"\n")]
            stop = finder.raw.find(b"\n", start)
            stop = len(finder.raw) if stop < 0 else stop
            new = finder.raw[line:start] + text.encode() + finder.raw[end:stop]
            one = Mistake(
                place, module, cell, finder.raw[line:stop].decode().strip(),
                new.decode().strip(), node.lineno, node.end_lineno, start, end, text,
            )  # fmt: skip
            if one.name in seen:
                continue  # of the same edit of the same line, the first
            seen.add(one.name)
            try:
                changed = ast.dump(ast.parse(one.planted(source))) != plain
            except SyntaxError:
                continue
            if changed:
                yield one


def functions(tree: ast.Module) -> Iterator[tuple[str, list]]:
    """Name and statements of each function and method of a module."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and not is_helper(node.name):
            yield node.name, node.body
        elif isinstance(node, ast.ClassDef):
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef) and not is_helper(inner.name):
                    yield f"{node.name}.{inner.name}", inner.body


def is_helper(name: str) -> bool:
    return name.startswith("check") or name in ("__repr__", "__getattr__", "__str__")


def of_module(source: str, module: str) -> list[Mistake]:
    """Mistakes in the functions of a module of the package."""
    short = module.removeprefix("ddpm_core.")
    bodies = [(f"{short}.{name}", body) for name, body in functions(ast.parse(source))]
    return list(mistakes(source, bodies, module=module))


def of_cell(source: str, number: int, spared: set[str]) -> list[Mistake]:
    """Mistakes in a notebook's cell, but for statements that make only `spared` names."""
    body = [s for s in ast.parse(source).body if not (made(s) and made(s) <= spared)]
    return list(mistakes(source, [(f"cell {number}", body)], cell=number))


def made(statement: ast.stmt) -> set[str]:
    """The names that a statement gives a value."""
    if isinstance(statement, ast.FunctionDef):
        return {statement.name}
    targets = getattr(statement, "targets", [getattr(statement, "target", None)])
    return {
        node.id
        for target in targets
        if target is not None
        for node in ast.walk(target)
        if isinstance(node, ast.Name)
    }


def misprints(sources: Iterable[str]) -> set[str]:
    """Names that hold nothing but a misprint: used where check_seen is given what is
    wrong, and printed or drawn, and nowhere else."""
    wrong: set[str] = set()
    used: set[str] = set()

    def walk(node: ast.AST, into: set[str]) -> None:
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            into.add(node.id)
        if isinstance(node, ast.Call):
            name = getattr(node.func, "id", "")
            if name == "check_seen" and len(node.args) > 1:
                for k, part in enumerate((*node.args, *node.keywords)):
                    walk(part, wrong if k == 1 else into)
                return
            if name in DRAWING:
                into = set()
        for child in ast.iter_child_nodes(node):
            walk(child, into)

    for source in sources:
        walk(ast.parse(source), used)
    return wrong - used


def in_turn(found: Iterable[Mistake], seed: int) -> list[Mistake]:
    """One of each place, then another of each, in an order that only the seed and the
    mistakes themselves decide: what is added or goes leaves the rest as it was."""

    def drawn(*words: object) -> str:
        return hashlib.sha256(repr((seed, *words)).encode()).hexdigest()

    groups: dict[str, list[Mistake]] = {}
    for one in found:
        groups.setdefault(one.place, []).append(one)
    ranked = [
        (rank, drawn(place), one)
        for place, group in groups.items()
        for rank, one in enumerate(sorted(group, key=lambda one: drawn(*one.name)))
    ]
    return [one for _, _, one in sorted(ranked, key=lambda row: row[:2])]
