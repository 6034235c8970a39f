"""One router for many faults: each fault is a backend of its own, with its own route and circuit.

A fault's route is found by the length of the prompt (`tokens: {min, max}`), so the suites share one gunicorn and no
fault can cool down the backend of another.  Every route falls back to `spare`.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any, Self

from tests.e2e.server import Answer, Router, Stream, chat_body
from tests.fakes.upstream import Received, Upstream

PATIENT = {"connectMs": 5000, "firstByteMs": 20000, "idleMs": 20000}  # a slow machine is no fault
HASTY = {"connectMs": 700, "firstByteMs": 700, "idleMs": 700}  # for faults that end by a deadline
_WIDTH = 40  # tokens of each backend's range


class Stage(AbstractContextManager["Stage"]):
    """`backends` maps a name to policy keys that differ from those of a backend at the fake `up`."""

    def __init__(
        self, folder: Path, backends: Mapping[str, Mapping[str, Any]], *, native: bool = False, **options: Any
    ) -> None:
        """`native`: the backends are asked over Ollama's own API."""
        self.up = Upstream(models=["m"], native=native)  # plays the faults: each backend under a path of its own
        self.spare = Upstream(models=["m"], text="from spare")
        self._folder = folder
        self._backends = backends
        self._options = options
        self._stack = ExitStack()
        self._chars_per_token = 4.0
        self.router: Router

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self.up)
            stack.enter_context(self.spare)
            options = {"workers": 2, "folder": self._folder, **self._options}
            self.router = stack.enter_context(Router(self._policy(), **options))
            self._stack = stack.pop_all()
        calibration = self.router.post("/v1/route", chat_body("word " * 8000)).json
        self._chars_per_token = 40_000 / calibration["classification"]["tokens"]
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _policy(self) -> dict[str, Any]:
        timeouts = {"connectMs": 3000, "firstByteMs": 3000, "idleMs": 3000}
        backends: dict[str, Any] = {
            "spare": {"type": "ollama", "endpoint": self.spare.url, "models": ["m"], "timeouts": timeouts}
        }
        routes: list[dict[str, Any]] = []
        for place, (name, changes) in enumerate(self._backends.items(), 1):
            plain = {"type": "ollama", "endpoint": f"{self.up.url}/{name}", "models": ["m"], "timeouts": PATIENT}
            backends[name] = {**plain, **changes}
            span = {"min": place * _WIDTH, "max": place * _WIDTH + _WIDTH - 1}
            routes.append({"match": {"tokens": span}, "backend": name, "fallback": "spare"})
        return {"backends": backends, "routes": [*routes, {"default": "spare"}]}

    def prompt(self, name: str) -> str:
        """A text whose length leads to `name`."""
        tokens = (list(self._backends).index(name) + 1.5) * _WIDTH
        words = int(tokens * self._chars_per_token / 5)
        return "word " * words

    def path(self, name: str) -> str:
        """How the paths of `name`'s chat requests end at `up`."""
        return f"/{name}/v1/chat/completions"

    def calls(self, name: str) -> list[Received]:
        """The chat requests that `up` received for `name`."""
        return [request for request in self.up.chats if request.path == self.path(name)]

    def ask(self, name: str, *, alone: bool = False, headers: Mapping[str, str] | None = None, **body: Any) -> Answer:
        """A chat routed to `name`, with `spare` behind it; `alone` pins it there."""
        return self.router.chat(self.prompt(name), headers=headers, **self._pin(name, alone), **body)

    def stream(self, name: str, *, alone: bool = False, **body: Any) -> Stream:
        return self.router.stream(self.prompt(name), **self._pin(name, alone), **body)

    def _pin(self, name: str, alone: bool) -> dict[str, str]:
        return {"model": name} if alone else {}

    def only_row(self, answer: Answer | Stream) -> dict[str, Any]:
        (row,) = self.rows(answer, 1)
        return row

    def rows(self, answer: Answer | Stream, count: int) -> list[dict[str, Any]]:
        """The rows of one request: exactly `count`, in the order they were written."""
        request_id = answer.headers["X-LLR-Request-Id"]
        assert request_id, dict(answer.headers)
        return self.router.wait_request_rows(request_id, count)
