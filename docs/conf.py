"""The site of the documentation, as Sphinx builds it: make docs.

The pages are those of the repository, where forges show them too. Nothing of the site comes from elsewhere, no fonts
and no scripts; the search has its index in a file, so that it works from a folder as well.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from pipeline import __version__  # noqa: E402 - found by the line above

project = "Fewmask"
author = "The Fewmask maintainers"
project_copyright = "The Fewmask maintainers, Apache-2.0"
version = __version__
release = __version__
language = "en"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
# The sources begin at the root of the repository, so that links between pages lead to the same files on a forge.
root_doc = "docs/index"
include_patterns = [
    "docs/**.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "README.md",
    "SECURITY.md",
    "benchmarks/results/*.md",
]
exclude_patterns = [".*", "data", "demo", "runs"]

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
napoleon_use_rtype = False

html_theme = "furo"
html_title = f"Fewmask {__version__}"
html_static_path = []
html_copy_source = False
html_show_sphinx = False
# The address of the whole site leads to its first page.
html_extra_path = ["site"]
