"""Define names for parsed JSON and for the WSGI environment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

JsonObject = Mapping[str, Any]  # a parsed JSON object, to be read
JsonDict = dict[str, Any]  # a JSON object of our own, to be changed
Environ = dict[str, Any]  # a request in WSGI's form
