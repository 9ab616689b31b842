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
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "anysmtp"
author = "anysmtp contributors"
copyright = "anysmtp contributors"
release = version = importlib.metadata.version("anysmtp")

extensions = ["sphinx.ext.autodoc", "public_names", "state_tables", "state_diagram", "for_machines"]
html_theme = "furo"
html_title = f"anysmtp {release}"
exclude_patterns = ["_build", "_ext", "sample"]

# A name in single backticks, here and in the docstrings, is a reference, and has to resolve.
default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
maximum_signature_line_length = 88
python_use_unqualified_type_names = True

# Type variables, and what autodoc shows as it stands in the source, which nobody can import.
nitpick_ignore = [
    ("py:class", "K"),
    ("py:class", "anysmtp._client.K"),
    ("py:class", "anysmtp._delivery.K"),
    ("py:class", "anysmtp._envelope.K"),
    ("py:class", "anysmtp.testing._outbox.K"),
    # It is a ByteStreamConnectable, which is all that is to be known of it.
    ("py:class", "anysmtp.testing._scripted.MemoryConnectable"),
    ("py:class", "Message"),
]
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
