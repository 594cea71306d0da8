"""How Sphinx makes the site of this folder (`make docs`). Nothing is fetched, then or later."""

import re
import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

project = "feat"
author = "the authors of feat"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
default_role = "code"  # single backticks in docstrings are code, as in Markdown

highlight_language = "none"  # a block names its language where it has one

html_theme = "furo"
html_title = "feat"
html_copy_source = False
html_show_copyright = False
html_math_renderer = "mathml"

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
# Only links to classes of this site are checked: those of Python and NumPy would be fetched.
nitpick_ignore_regex = [("py:.*", r"(?!cache\.[A-Z]).*")]


def _formula(translator: HTML5Translator, node: nodes.math | nodes.math_block) -> None:
    block = isinstance(node, nodes.math_block)
    formula = tex2mathml(node.astext(), as_block=block)
    translator.body.append(f"<p>{formula}</p>" if block else formula)
    raise nodes.SkipNode


def _short(*event: Any) -> tuple[str, str] | None:
    """Return a signature with the name of `cache.keys.JSON` in the place of what it stands for."""
    *_, signature, returned = event
    if signature is None:
        return None
    one = r"bool \| int \| float \| str \| list\[{0}\] \| dict\[str, {0}\] \| None"
    spelt_out = re.compile(one.format(f"(?:{one.format('JSON')}|JSON)"))
    return spelt_out.sub("JSON", signature), spelt_out.sub("JSON", returned or "")


def setup(app: Sphinx) -> None:
    """Write formulas as MathML, which browsers draw by themselves: no script from elsewhere."""
    app.add_html_math_renderer("mathml", (_formula, None), (_formula, None))
    app.connect("autodoc-process-signature", _short)
