"""Seal the reasoning of a model in a member that clients send back unchanged.

The seal is opaque, not secret: it holds the text of the client's own model, so no key is needed, and every worker and
every later version can read it.
"""

from __future__ import annotations

import base64
import binascii
import json

_PREFIX = "llr1."


def seal_reasoning(text: str) -> str:
    """Return the seal of a text: `encrypted_content` of the Responses API, `signature` of the Messages API."""
    return _PREFIX + base64.urlsafe_b64encode(json.dumps(text).encode("ascii")).decode("ascii")


def is_sealed(value: object) -> bool:
    """Return True for a seal that the router has made."""
    return isinstance(value, str) and value.startswith(_PREFIX)


def unseal_reasoning(sealed: object) -> str:
    """Return the text in a seal of the router; "" for any other value."""
    if not isinstance(sealed, str) or not is_sealed(sealed):
        return ""
    try:
        text = json.loads(base64.b64decode(sealed[len(_PREFIX) :], altchars=b"-_", validate=True))
    except (binascii.Error, ValueError, RecursionError):
        return ""
    return text if isinstance(text, str) else ""
