"""What a narrow screen needs: where long names break, tables that stack, formulas that keep their comma."""

from docutils import nodes

from book._ext import formulas, narrow

WIDE = """<table class="table align-left"><thead><tr class="row-odd"><th class="head"><p>symbol</p></th><th class="head"><p>in code &amp; shape</p></th>
<th class="head"><p>meaning</p></th></tr></thead><tbody><tr class="row-even"><td><p>T</p></td><td><p>schedule.T, int</p></td><td><p>number of steps; 1000 in
the paper</p></td></tr></tbody></table>"""


def fitted(body: str) -> str:
    context = {"body": body}
    narrow.fit(None, "", "", context, None)
    return context["body"]


def test_a_long_name_breaks_at_its_hinges_and_a_short_one_nowhere():
    name = '<span class="pre">{}</span>'
    assert "<wbr>" not in fitted(name.format("schedule.T"))
    assert 'class="pre kept"' in fitted(name.format("schedule.T"))
    assert fitted(name.format("scheduler.alphas_cumprod[t-1]")) == name.format(
        "scheduler.<wbr>alphas_<wbr>cumprod[<wbr>t-1]"
    )


def test_a_few_words_of_code_stay_in_one_line():
    code = '<code class="docutils literal notranslate">{}</code>'
    assert "notranslate kept" in fitted(code.format("model(x_t, t)"))
    assert "notranslate kept" not in fitted(code.format("model(x_t, t, labels, w)"))


def test_a_wide_table_stacks_under_the_names_of_its_columns():
    made = fitted(WIDE)
    assert 'class="table align-left stacked"' in made
    assert '<td data-label="in code &amp; shape"><p>schedule.T, int</p>' in made
    assert made.count("data-label") == 6
    empty = fitted(WIDE.replace("schedule.T, int", ""))
    assert empty.count("data-label") == 5 and "<td><p></p></td>" in empty


def test_a_small_table_and_one_of_two_columns_stay():
    small = WIDE.replace("number of steps; 1000 in\nthe paper", "steps")
    two = """<table class="table"><thead><tr><th>a</th><th>b</th></tr></thead><tr><td>a long sentence about a</td><td>and
        a longer one about b, and more</td></tr></table>"""
    assert fitted(small) == small and fitted(two) == two


def test_a_formula_keeps_its_comma_and_its_bracket():
    before, x, after = nodes.Text("as (and “"), nodes.math("", "x"), nodes.Text(".) So")
    line = nodes.paragraph("", "", before, x, after)
    document = nodes.container("", line)

    class App:
        class builder:
            format = "html"

    formulas.take_along(App, document, "page")
    assert (x["before"], x["after"]) == ("“", ".)")
    assert (line[0], line[2]) == ("as (and ", " So")
