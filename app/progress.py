"""Say what a request waits for, while there is nothing else to send to its client."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Progress:
    """Hold the current wait of each request that has one."""

    def __init__(self) -> None:
        self._waits: dict[str, Callable[[], str]] = {}

    @contextmanager
    def during(self, request_id: str, describe: Callable[[], str]) -> Iterator[None]:
        """Describe a request in this way as long as the block runs.  `describe` returns no text of a prompt."""
        self._waits[request_id] = describe
        try:
            yield
        finally:
            self._waits.pop(request_id, None)

    def of(self, request_id: str) -> str:
        """Return what a request waits for, as one line; "" when it waits for the reply itself."""
        describe = self._waits.get(request_id)
        return " ".join(describe().split()) if describe else ""
