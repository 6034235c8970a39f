"""Ask an Ollama which of its models run on another host.  An Ollama can run any model on another host, whatever its
name is, and `ollama cp` can change that at any time.  So the router asks the server just before each private
request.  An answer is valid for a second, and requests that need the same answer share one question.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from math import inf

from gevent.event import Event

from app.errors import BackendError, BackendUnavailable, ConnectTimeout, PrivacyViolation, RouterExhausted
from app.routing.locality import host_of, model_key
from app.types import JsonObject

_HOLDS_S = 1.0  # an answer is valid for this time, from the moment of the question
_MOST_ANSWERS = 1000  # clients can name any model
_MOST_HOST_CHARS = 100
_UNNAMED = "an unnamed host"


class ModelHosts:
    """Hold the answers of one server about the hosts that run its models."""

    def __init__(self, ask: Callable[[str], str], clock: Callable[[], float] = time.monotonic) -> None:
        """Take `ask`, which returns the host that runs a model, "" for the server itself, or raises BackendError, and
        `clock`, which returns monotonic seconds."""
        self.by_model: Mapping[str, str] = {}  # by model_key; replaced as a whole, so that readers notice a change
        self._ask = ask
        self._clock = clock
        self._answers: dict[str, tuple[float, str]] = {}  # the time of the question, and the host
        self._questions: dict[str, _Question] = {}  # questions without an answer yet

    def learn(self, hosts: Mapping[str, str]) -> None:
        """Store the hosts in the server's list of models."""
        if hosts != self.by_model:
            self.by_model = dict(hosts)

    def confirm(self, model: str) -> str:
        """Return the host that runs a model, as the server said within the last second; "" = the server itself.

        Raise PrivacyViolation when the server does not say, and its error when it cannot be reached."""
        key = model_key(model)
        while True:
            asked_at, host = self._answers.get(key, (-inf, ""))
            if self._clock() - asked_at < _HOLDS_S:
                return host
            question = self._questions.get(key)
            if question is None:
                return self._put(key, model)
            question.over.wait()
            if question.error is not None:
                raise question.error.copy()
            if question.host is not None:
                return question.host

    def _put(self, key: str, model: str) -> str:
        """Ask the server, for all requests that wait for this answer."""
        question = self._questions[key] = _Question()
        asked_at = self._clock()
        try:
            question.host = host = self._ask(model)
        except BackendError as error:
            question.error = _in_words(error, model)
            raise question.error.copy() from None
        finally:
            self._questions.pop(key, None)
            question.over.set()
        if len(self._answers) >= _MOST_ANSWERS:
            self._answers.clear()
        self._answers[key] = (asked_at, host)
        if host or self.by_model.get(key):
            self.by_model = {**self.by_model, key: host}
        return host


class _Question:
    """Hold a question to the server.  When it ends without `host` and `error`, the client of the asking request has
    disconnected."""

    def __init__(self) -> None:
        self.over = Event()
        self.host: str | None = None
        self.error: BackendError | None = None  # is not raised itself: its traceback would refer to this object


def _in_words(error: BackendError, model: str) -> BackendError:
    """Return the error for a request.  When the server cannot be reached, the request itself would have failed, so
    its circuit counts it.  A server that only does not answer this question can still serve other requests."""
    if isinstance(error, (BackendUnavailable, ConnectTimeout, RouterExhausted)):
        return error.copy()
    return PrivacyViolation(
        f"the request is private and this backend did not say where it runs {model} ({error.message}): not called"
    )


def host_said(description: JsonObject) -> str:
    """Return host:port of the host that runs a model, by its description in /api/tags or /api/show; "" = the server
    itself."""
    host = description.get("remote_host")
    if not host and not description.get("remote_model"):
        return ""
    url = host.strip() if isinstance(host, str) else ""
    name = host_of(url if "://" in url else f"http://{url}").rpartition("@")[2][:_MOST_HOST_CHARS]
    return name if name.isascii() and name.isprintable() and name.strip() else _UNNAMED
