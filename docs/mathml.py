"""A Sphinx extension: formulas as MathML, which browsers draw themselves, without a script and without a network."""

from docutils import nodes
from docutils.utils.math import MathError, latex2mathml
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.writers.html5 import HTML5Translator


def mathml(node: nodes.math | nodes.math_block, *, as_block: bool = False) -> str:
    """Return a formula as MathML; raise ExtensionError, with the formula, for LaTeX that docutils does not know."""
    formula = node.astext().replace(r"\dots", r"\ldots")
    try:
        written: str = latex2mathml.tex2mathml(formula, as_block=as_block)
    except MathError as error:
        raise ExtensionError(f"{formula!r}: {error}") from error
    return written


def inline(translator: HTML5Translator, node: nodes.math) -> None:
    """Write a formula within a line."""
    translator.body.append(mathml(node))
    raise nodes.SkipNode


def block(translator: HTML5Translator, node: nodes.math_block) -> None:
    """Write a formula that stands alone; a wide one scrolls in its frame."""
    formula = mathml(node, as_block=True)
    translator.body.append(translator.starttag(node, "div", CLASS="math-wrapper") + formula + "</div>\n")
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the renderer, which conf.py chooses."""
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
