"""References in signatures lead to the names that users import.

autodoc writes a type as the module has it that defines it, ``anysmtp._reply.Reply``, or as it
stands in the source where it cannot be evaluated, ``Reply``. The pages document what ``anysmtp``,
``anysmtp.events``, ``anysmtp.sasl`` and ``anysmtp.testing`` export, so a reference that finds
nothing is tried again under those.
"""

from __future__ import annotations

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

import anysmtp
from anysmtp import events, sasl, testing

PUBLIC = {
    **{name: f"anysmtp.testing.{name}" for name in testing.__all__},
    **{name: f"anysmtp.sasl.{name}" for name in sasl.__all__},
    **{name: f"anysmtp.events.{name}" for name in events.__all__},
    **{name: f"anysmtp.{name}" for name in anysmtp.__all__},
}


def resolve(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, text: nodes.TextElement
) -> nodes.reference | None:
    """Sphinx's hook for a reference that it could not resolve."""
    package, _, name = node["reftarget"].rpartition(".")
    if node["refdomain"] != "py" or name not in PUBLIC:
        return None
    if package and not package.startswith("anysmtp"):
        return None
    return env.domains.python_domain.resolve_xref(
        env, node["refdoc"], app.builder, "obj", PUBLIC[name], node, text
    )


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("missing-reference", resolve)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
