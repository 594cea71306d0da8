"""How Sphinx makes the site of this folder (`make docs`). Nothing is fetched, then or later."""

import sys
from pathlib import Path

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

html_theme = "furo"
html_title = "feat"
html_copy_source = False
html_show_copyright = False
html_math_renderer = "mathml"

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
# Links to types are checked where the page has them; those of others' pages would be fetched.
nitpick_ignore_regex = [("py:.*", r"(?!cache\.[A-Z]).*")]


def _formula(translator: HTML5Translator, node: nodes.math | nodes.math_block) -> None:
    block = isinstance(node, nodes.math_block)
    formula = tex2mathml(node.astext(), as_block=block)
    translator.body.append(f"<p>{formula}</p>" if block else formula)
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    """Write formulas as MathML, which browsers draw by themselves: no script from elsewhere."""
    app.add_html_math_renderer("mathml", (_formula, None), (_formula, None))
