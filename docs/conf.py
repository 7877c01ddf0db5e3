"""Settings of the documentation, read by Sphinx; built by scripts/docs."""

from __future__ import annotations

from typing import Any

import handful

project = "handful"
author = "The handful authors"
project_copyright = "The handful authors"
version = release = handful.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]

# A reference that leads nowhere is an error, for pages, functions, methods and modules.
# Types in signatures are let off: most are PyTorch's or the standard library's, whose
# indexes would have to be downloaded, or aliases; so are single backticks, which name
# arguments as well.
nitpicky = True
nitpick_ignore_regex = [("py:(class|data|exc|obj)", ".*")]
default_role = "py:obj"

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_class_signature = "separated"
napoleon_google_docstring = True
napoleon_numpy_docstring = False

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = f"handful {version}"
html_show_sphinx = False


def _keep_colons(
    app: Any, what: str, name: str, obj: object, options: Any, lines: list[str]
) -> None:
    """Keep napoleon from reading a field's docstring, "Name: text", as type and text.

    It looks at the first line only, so that line is left empty.
    """
    del app, name, obj, options
    if what in {"attribute", "data", "property"} and lines:
        lines.insert(0, "")


def setup(app: Any) -> None:
    """Connect the above, ahead of napoleon."""
    app.connect("autodoc-process-docstring", _keep_colons, priority=100)
