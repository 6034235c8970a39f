"""The one error tree.

Every error that a client can meet is a RouterError; the surface of the URL (app/web/surface.py) writes it in the form
of its API.  Messages never hold prompt text or keys.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from http import HTTPStatus
from typing import Any, ClassVar, Self

from app.types import JsonObject, Step

_WORTH_A_RETRY = (408, 409, 425, 429)  # 4xx about the moment, not about the request


class ClientGone(BaseException):
    """The client disconnected.  It is thrown into the greenlet that serves the client, wherever that waits.  It is no
    Exception, so that no `except Exception` on the way can catch it and leave the backend busy."""


class RouterError(Exception):
    """Every error of the tree derives from this class.  `status` is the HTTP status that a client gets."""

    status: int = 500
    type: str = "server_error"
    code: str | None = None
    param: str | None = None
    retry_after_s: float | None = None
    refuses: ClassVar[bool] = False  # the request is refused before any backend is called
    logged: bool = False  # the log has the line of this request
    route: str | None = None  # set once the request was routed
    pin_refused: bool = False  # set once the request was routed: see Decision
    private_because: str | None = None  # set once the request was read: see ChatRequest
    trace: Sequence[Step] = ()  # set once the request was routed
    request_id: str = ""  # set when it is written as a response
    target: tuple[str, str] | None = None  # (backend, model) that is to blame
    pool: str | None = None  # the pool that this backend was chosen from

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        type: str | None = None,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        if status is not None:
            self.status = status
        if type is not None:
            self.type = type
        if param is not None:
            self.param = param
        if code is not None:
            self.code = code
        if retry_after_s is not None:
            self.retry_after_s = retry_after_s

    @property
    def cause(self) -> str:
        """Return the short reason that the log names.  It is one of the router's codes, never text of a request."""
        return self.code or HTTPStatus(self.status).name.lower()

    @property
    def refusal(self) -> str | None:
        """Return the code under which a refused request is counted; None when the request was not refused."""
        return self.cause if self.refuses else None

    @property
    def is_final(self) -> bool:
        """Return True when the same request would be refused again, so that no client should repeat it."""
        return 400 <= self.status < 500 and self.status not in _WORTH_A_RETRY


def _one_line(text: str) -> str:
    """Return `text` with escapes for control characters, because names in it can hold any character."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


# --- start-up and reload ------------------------------------------------------------------------


class PolicyError(RouterError):
    """A policy or the LLR_ variables have problems; the message has one line for each."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(map(_one_line, problems))
        super().__init__("\n".join(self.problems))


class NoPolicy(PolicyError):
    """There is no policy file."""


# --- the client's side --------------------------------------------------------------------------


class RequestError(RouterError):
    """The request is wrong.  `param` names the field."""

    status = 400
    type = "invalid_request_error"
    refuses = True


class BodyTooLarge(RequestError):
    status = 413
    code = "request_too_large"


class UnsupportedMediaType(RequestError):
    status = 415


class NotFound(RequestError):
    status = 404
    code = "not_found"


class UnknownModel(NotFound):
    """The request names a model that no backend has."""

    code = "model_not_found"
    param = "model"


class NotAllowed(RouterError):
    """The client's key is missing or wrong (401), or its Host or Origin is not allowed (403)."""

    status = 403
    type = "permission_error"
    refuses = True


# --- the decision -------------------------------------------------------------------------------


class NoEligibleBackend(RouterError):
    """Privacy dropped every target, or no target has a known model."""

    status = 503
    code = "no_eligible_backend"
    refuses = True

    @property
    def is_final(self) -> bool:
        return True


class ContextTooLong(RequestError):
    """No target's context window holds the request."""

    code = "context_length_exceeded"
    param = "messages"


class UnsupportedByModels(RequestError):
    """Every target's model lacks a capability that the request needs.  A backend's own refusal is CapabilityMissing."""

    code = "unsupported_by_models"


# --- one call to one target ---------------------------------------------------------------------


class BackendError(RouterError):
    """A target failed and the next one may be tried.

    `kind` is the short word in rows (`timeout`, `http_503`). `message` holds no text of the backend.  `backend_text`
    is the backend's own text without keys, only for the client that sent the request.
    """

    status = 502
    kind: str = "error"
    backend_text: str | None = None
    next_target: ClassVar[bool] = True
    backend_failed: ClassVar[bool] = True  # counts towards the circuit

    def __init__(
        self, message: str, *, kind: str | None = None, backend_text: str | None = None, **detail: Any
    ) -> None:
        super().__init__(message, **detail)
        self.backend_text = backend_text
        if kind is not None:
            self.kind = kind

    def copy(self) -> Self:
        """Return the same error without its traceback: each request raises an object of its own."""
        error = type(self).__new__(type(self), *self.args)
        error.__dict__.update(self.__dict__)
        return error

    def in_our_words(self) -> BackendError:
        """Return the error for the client of a private request."""
        return self

    @property
    def cause(self) -> str:
        return f"{self.target[0]}:{self.kind}" if self.target else self.kind

    def full_message(self) -> str:
        """Return the message with the text of the backend."""
        return f"{self.message}: {self.backend_text}" if self.backend_text else self.message


class BackendUnavailable(BackendError):
    """The connection was refused, the name has no address, there is no route, or there is no key to send."""

    kind = "refused"


class BackendTimeout(BackendError):
    status = 504
    kind = "timeout"


class ConnectTimeout(BackendTimeout):
    """There was no connection in time, so nothing was sent."""


class BackendProtocol(BackendError):
    """The connection or the reply broke: a reset, bad JSON, HTML, a redirect, a cut body."""

    kind = "protocol"


class BackendServerError(BackendError):
    """The backend answered 5xx, 408, 409 or 425."""


class BackendDenied(BackendError):
    """The backend answered 401, 402, 403 or 404: our key, our account or the model's name is wrong.  Clients never get
    that status."""


class BackendBusy(BackendError):
    """The backend cannot take the call now.  It did not fail."""

    status = 503
    backend_failed = False
    retry_after_s = 1.0  # until something else is known


class NoPlace(BackendBusy):
    """No place under `maxConcurrency` became free in time, so the call was not sent."""

    kind = "busy"


class ServerBusy(BackendBusy):
    """The server answered that it has no room for the call, or asked for no calls for `retry_after_s`."""

    kind = "http_503"


class BackendRateLimited(ServerBusy):
    status = 429
    kind = "http_429"
    type = "rate_limit_error"


class ModelNotLoaded(BackendError):
    """A probe was stopped, because it would make the server load a model and evict another one."""

    kind = "not_loaded"
    backend_failed = False


class RouterExhausted(BackendError):
    """This machine lacks what a call needs: file descriptors, ports or memory.  The backend did not fail."""

    KINDS: ClassVar[tuple[str, ...]] = ("descriptors", "ports", "memory")

    status = 503
    backend_failed = False


class BackendRejected(BackendError):
    """The backend found the client's request wrong.  Its status passes through, and so does its error document
    (`document`, without keys) unless the request is private."""

    type = "invalid_request_error"
    next_target = False
    backend_failed = False

    def __init__(self, message: str, *, document: JsonObject | None = None, **detail: Any) -> None:
        super().__init__(message, **detail)
        self.document = document

    def in_our_words(self) -> BackendRejected:
        """Return the error without anything that the backend wrote, because it may quote the prompt."""
        text = f"The backend {self.message}: it does not accept this request. (Why is not passed on, it is private.)"
        return BackendRejected(text, kind=self.kind, status=self.status, retry_after_s=self.retry_after_s)


class Untranslatable(BackendRejected):
    """The client's request has a mistake that the API of the backend has no form for, so nothing was sent."""

    status = 400
    kind = "untranslatable"

    def in_our_words(self) -> Untranslatable:
        return self


class CannotServe(BackendRejected):
    """The model cannot serve this request, so the next target is tried.  When no target can, the client gets the last
    refusal."""

    status = 400
    code: str
    next_target = True


class PromptTooLong(CannotServe):
    """The prompt is longer than the context window.  `tokens` and `window` are the server's counts."""

    kind = "too_long"
    code = "context_length_exceeded"
    param = "messages"

    def __init__(self, message: str, *, tokens: int | None = None, window: int | None = None, **detail: Any) -> None:
        super().__init__(message, **detail)
        self.tokens = tokens
        self.window = window

    def in_our_words(self) -> PromptTooLong:
        counts = f" It has {self.tokens} tokens, and {self.window} fit." if self.tokens and self.window else ""
        return PromptTooLong(f"The prompt is longer than the context window of the model.{counts} Shorten it.")


class CapabilityMissing(CannotServe):
    """The model lacks what the request needs: tools, vision, thinking …"""

    kind = "unsupported"
    code = "unsupported_by_models"

    def __init__(self, message: str, *, lacks: Sequence[tuple[str, str]] = (), **detail: Any) -> None:
        """`lacks` holds (model, capability)."""
        super().__init__(message, **detail)
        self.lacks = tuple(lacks)

    def in_our_words(self) -> CapabilityMissing:
        return CapabilityMissing.of_all([self])

    @classmethod
    def of_all(cls, errors: Sequence[CapabilityMissing]) -> CapabilityMissing:
        """Return one error that names each model and what it lacks, in our words."""
        lacks = [lack for error in errors for lack in error.lacks]
        named = "; ".join(f"{model} does not support {capability}" for model, capability in lacks)
        return cls(f"No model of this route can serve the request: {named}.", lacks=lacks)


class PrivacyViolation(BackendError):
    """A private request was stopped on its way to a target that is not local, or not known to be."""

    kind = "privacy"
    backend_failed = False


class StreamInterrupted(RouterError):
    """A stream broke after its begin.  `error_visible` is True when the client got the backend's own error event."""

    status = 502

    def __init__(self, message: str, *, kind: str = "protocol", error_visible: bool = False, **detail: Any) -> None:
        super().__init__(message, **detail)
        self.kind = kind
        self.error_visible = error_visible

    @property
    def cause(self) -> str:
        return self.kind


def causes(failures: Iterable[tuple[str, BackendError]]) -> str:
    """Return the backends with the kinds of their failures: `local:refused,cloud:http_503`."""
    return ",".join(f"{name}:{error.kind}" for name, error in failures)


class AllBackendsFailed(RouterError):
    """No target answered.  The status is 504 when every call timed out, 429 when every call was rate limited, 503 when
    every backend was busy or no call could be made, and else 502."""

    status = 502
    code = "all_backends_failed"

    def __init__(self, failures: Sequence[tuple[str, BackendError]], *, private: bool = False) -> None:
        """`failures` holds (name of the backend, error) in the order of tries and is never empty.  The message of a
        private request contains no text of a backend."""
        super().__init__(
            "; ".join(f"{name}: {error.message if private else error.full_message()}" for name, error in failures)
        )
        self.failures = tuple(failures)
        errors = [error for _, error in failures]
        if all(isinstance(error, BackendTimeout) for error in errors):
            self.status, self.type = 504, "timeout_error"
        elif all(isinstance(error, BackendRateLimited) for error in errors):
            self.status, self.type, self.code = 429, "rate_limit_error", "rate_limit_exceeded"
        elif all(isinstance(error, BackendBusy) for error in errors):
            self.status, self.code = 503, "busy"
        elif all(isinstance(error, RouterExhausted) for error in errors):
            self.status = 503
        if all(isinstance(error, BackendBusy) for error in errors):
            self.retry_after_s = min(error.retry_after_s or 0 for error in errors)

    @property
    def cause(self) -> str:
        return causes(self.failures)

    @property
    def refusal(self) -> str | None:
        """Return `busy` for a request that got no place at any backend: it was never sent."""
        return NoPlace.kind if all(isinstance(error, NoPlace) for _, error in self.failures) else None
