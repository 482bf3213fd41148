"""Sphinx's configuration. `make docs` builds the site, runs its examples and checks its links."""

import sys
from pathlib import Path

import taildropout

sys.path.insert(0, str(Path(__file__).parent))  # docstrings.py and mathml.py

project = "taildropout"
author = "the taildropout developers"
copyright = author
version = release = taildropout.__version__
language = "en"

extensions = [
    "docstrings",
    "mathml",
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.doctest",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
exclude_patterns = ["_build"]
nitpicky = True
# Objects of other sites are no links: the build needs no network. Type variables have no page.
OTHERS = "torch|nn|numpy|numbers|collections|matplotlib|pandas|os|pathlib|types|typing"
nitpick_ignore_regex = [("py:.*", rf"({OTHERS})\..*|Tensor|Axes|DataFrame|taildropout(\.\w+)*\.(Model|M|T)")]
default_role = "code"

myst_enable_extensions = ["amsmath", "dollarmath"]
myst_heading_anchors = 3

autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False

doctest_global_setup = """
import torch
from torch import nn
torch.manual_seed(0)
"""

html_theme = "furo"
html_title = "taildropout"
html_math_renderer = "mathml"  # the default one loads a script from another site
html_show_sphinx = False
html_copy_source = False
html_show_sourcelink = False
html_favicon = "_static/favicon.svg"
html_static_path = ["_static"]
if tags.has("dashboard"):  # noqa: F821  `tags` is Sphinx's; `make site` puts the dashboard there
    html_extra_path = ["_build/beside"]
html_css_files = ["site.css"]
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
