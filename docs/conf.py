"""Sphinx's settings. The build is nitpicky and needs no network.

References into other projects are resolved by their inventories where ANYSMTP_DOCS_ONLINE is set,
as where the pages are published. Elsewhere they are left as text, and only those to other things
than the standard library, anyio and trio have to resolve.
"""

from __future__ import annotations

import builtins
import importlib.metadata
import os
import sys

project = "anysmtp"
author = "anysmtp contributors"
copyright = "anysmtp contributors"
release = version = importlib.metadata.version("anysmtp")

extensions = ["sphinx.ext.autodoc"]
html_theme = "furo"
html_title = f"anysmtp {release}"
exclude_patterns = ["_build"]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
python_use_unqualified_type_names = True

if os.environ.get("ANYSMTP_DOCS_ONLINE"):
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {
        "python": ("https://docs.python.org/3", None),
        "anyio": ("https://anyio.readthedocs.io/en/stable", None),
        "trio": ("https://trio.readthedocs.io/en/stable", None),
    }
else:
    others = "|".join(sorted({*sys.stdlib_module_names, "anyio", "trio"}))
    nitpick_ignore_regex = [
        (r"py:.*", rf"({others})\..+"),
        (r"py:.*", "|".join(dir(builtins))),
    ]
