"""Check a policy and the LLR_ variables.

gunicorn's master runs `main` in a separate process before it starts or reloads; an import of this module in the master
would load ssl before gevent patches it.  The exit status is 0, or 3 with a line for each problem on standard error.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence

from app import policy, settings
from app.errors import NoPolicy, PolicyError

RESOLVE_S = 1.0  # for all host names together


def check(file: str | None) -> policy.Loaded:
    """Load the policy of a file, of standard input ("-"), or of LLR_POLICY (None), and resolve its host names.

    Raises PolicyError."""
    configured = settings.load(os.environ)
    if problem := settings.database_problem(configured.db):
        raise PolicyError([f"environment: LLR_DB: {problem}"])
    name = configured.policy if file in (None, "-") else str(file)
    try:
        text = sys.stdin.read() if file == "-" else policy.read(name)
    except UnicodeDecodeError as error:
        raise PolicyError([f"standard input: not UTF-8 text (byte {error.start}); save it as UTF-8"]) from None
    except NoPolicy as error:
        raise (NoPolicy([f"{name}: no such file; name a file that exists"]) if file else error) from None
    return policy.load(text, name, configured, resolver(RESOLVE_S), os.environ)


def resolver(seconds: float) -> Callable[[str], Sequence[str]]:
    """Return a function that resolves host names for at most `seconds` in all; later names count as unresolvable."""
    deadline = time.monotonic() + seconds

    def resolve(host: str) -> Sequence[str]:
        addresses: list[str] = []

        def look_up() -> None:
            try:
                addresses.extend(str(entry[4][0]) for entry in socket.getaddrinfo(host, None))
            except (OSError, UnicodeError):
                return

        thread = threading.Thread(target=look_up, daemon=True)
        thread.start()
        thread.join(max(0.0, deadline - time.monotonic()))
        return tuple(addresses)

    return resolve


def main(arguments: Sequence[str]) -> int:
    """Check the policy and return the exit status; `arguments` is empty, or holds one FILE or "-"."""
    try:
        loaded = check(arguments[0] if arguments else None)
    except PolicyError as error:
        sys.stderr.write(error.message + "\n")
        return 3
    for warning in loaded.warnings:
        sys.stderr.write(f"warning: {warning}\n")
    return 0
