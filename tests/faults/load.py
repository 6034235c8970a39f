"""Steady traffic of every kind, and what became of each request."""

from __future__ import annotations

import http.client
import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Self

from tests.e2e.server import Router, chat_body, content, parse_events

_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class Result:
    kind: str  # chat | stream | responses
    prompt: str
    problem: str  # "" = the whole right answer came
    request_id: str | None
    backend: str | None
    model: str | None
    ended: float  # time.monotonic()


class Load(AbstractContextManager["Load"]):
    """`threads` clients that ask one thing after the other, each on a new connection, until the end of the `with`."""

    def __init__(self, router: Router, threads: int = 8) -> None:
        self._router = router
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(threads)]
        self.results: list[Result] = []

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(60)

    @property
    def problems(self) -> list[Result]:
        return [result for result in list(self.results) if result.problem]

    def good_since(self, moment: float) -> list[Result]:
        """Answers that were asked for and came after `moment`, or nearly so."""
        return [result for result in list(self.results) if not result.problem and result.ended > moment]

    def _run(self, number: int) -> None:
        kinds: Iterator[str] = itertools.cycle(("chat", "stream", "responses", "stream", "chat"))
        for kind in itertools.islice(kinds, number % 5, None):
            if self._over.is_set():
                return
            self.results.append(ask(self._router, kind))
            if self.results[-1].problem:
                self._over.wait(0.05)


def ask(router: Router, kind: str) -> Result:
    """One request; the backends behind the router echo the prompt."""
    prompt = f"{kind} {next(_numbers)} of the load"
    headers: Any = {}
    try:
        if kind == "responses":
            answer = router.post("/v1/responses", {"model": "auto", "input": prompt})
            headers = answer.headers
            problem = "" if answer.status == 200 and answer.json["output_text"] == prompt else str(answer.body[:300])
        elif kind == "chat":
            answer = router.chat(prompt)
            headers = answer.headers
            problem = "" if answer.status == 200 and answer.text == prompt else str(answer.body[:300])
        else:
            with router.stream(json=chat_body(prompt, stream=True)) as stream:
                headers = stream.headers
                body = stream.read()
            events = parse_events(body)
            right = stream.status == 200 and content(events) == prompt and events[-1] == "[DONE]"
            problem = "" if right else f"{stream.status} {body[-300:]!r}"
    except (OSError, http.client.HTTPException) as error:
        problem = repr(error)
    names = ("X-LLR-Request-Id", "X-LLR-Backend", "X-LLR-Model")
    return Result(kind, prompt, problem, *(headers.get(name) for name in names), ended=time.monotonic())
