"""One box for the solution of an exercise: the code that follows its text (a cell tagged `solution`) is taken into it."""

from docutils import nodes


def join(app, doctree) -> None:
    for cell in list(doctree.findall(nodes.container)):
        if "tag_solution" not in cell["classes"] or cell.parent is None:
            continue
        around = cell.parent
        place = around.index(cell)
        before = around[place - 1] if place else None
        if isinstance(before, nodes.raw) and before.astext().strip().endswith(
            "</details>"
        ):
            around.remove(before)
            around.insert(around.index(cell) + 1, before)
            cell["classes"] = [c for c in cell["classes"] if c != "tag_hide-cell"]
            cell.attributes.pop("hide_mode", None)
            cell.attributes.pop("hide-mode", None)


def setup(app):
    app.connect("doctree-read", join)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
