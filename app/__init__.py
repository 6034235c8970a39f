"""local-llm-router.  Importing it loads nothing, so that `app.routing.classify` can be used without Flask."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any


def create_app(environ: Mapping[str, str] | None = None) -> Any:
    """The WSGI application, see app/factory.py."""
    return import_module("app.factory").create_app(environ)
