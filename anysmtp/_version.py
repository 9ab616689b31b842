from __future__ import annotations

# The one place: hatchling reads it for the metadata, and importlib.metadata would cost each
# import of the package more than the rest of it.
__version__ = "0.1.0.dev0"
