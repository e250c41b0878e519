"""Mends what Sphinx, MyST-NB and the theme write that a screen reader cannot make sense of. tests/test_browser.py looks for the rest.

- A signature of several lines is a list `<dl>` that has entries but no terms: it becomes plain boxes.
- The list of references says "list" of boxes that are no list items: the word goes, and the boxes are read as paragraphs.
- "Show code cell source" is called "Toggle hidden content": its own words are its name.
"""

import re

SIGNATURE = re.compile(r'<dt class="sig.*?</dt>', re.DOTALL)


def mend(app, pagename, templatename, context, doctree) -> None:
    body = context.get("body")
    if body:
        body = SIGNATURE.sub(
            lambda found: re.sub(r"<(/?)d[ld]>", r"<\1div>", found[0]), body
        )
        body = body.replace(
            '<div role="list" class="citation-list">', '<div class="citation-list">'
        ).replace(' role="doc-biblioentry"', "")
        context["body"] = body.replace(
            '<summary aria-label="Toggle hidden content">', "<summary>"
        )


def setup(app):
    app.connect("html-page-context", mend)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
