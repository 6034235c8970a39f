"""One HTTP call to one backend: connection, deadlines, error map, first-event wait.

The only module that knows the exceptions of requests and urllib3.  Calls go through a bare HTTPAdapter, not a
Session: so there is no cookie jar, no netrc, no proxy from the environment and no redirect to be followed.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime
from typing import Any, ClassVar

import requests
import urllib3
from marshmallow import fields
from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict

from app.backends.connection import StaleConnection, adapter, set_read_timeout
from app.errors import (
    BackendDenied,
    BackendError,
    BackendProtocol,
    BackendRateLimited,
    BackendRejected,
    BackendServerError,
    BackendTimeout,
    BackendUnavailable,
    RouterError,
    StreamInterrupted,
    error_fields,
    redact,
)
from app.types import BackendConfig, ChatRequest, Dialect, Target
from app.wire import chat, sse
from app.wire.chat_stream import StreamWatch

_PIECE_BYTES = 65536
_MAX_ANSWER_BYTES = 64 * 1024 * 1024
_MAX_SAID = 500  # characters of a backend's own error text
_DRAIN_S = 0.05  # wait for the end of a body whose last event has come, so that its connection can be kept
_TEMPORARY = (408, 409, 425)
_TRANSPORT_ERRORS = (requests.RequestException, urllib3.exceptions.HTTPError, OSError)


class Backend:
    """A named upstream.  Subclasses set a few class attributes; see CONTRIBUTING.md."""

    type: ClassVar[str]
    hosted: ClassVar[bool]  # a hosted kind is remote unless the policy says `local: true`
    default_endpoint: ClassVar[str]
    default_models: ClassVar[tuple[str, ...]] = ()
    default_key_env: ClassVar[str | None] = None
    chat_path: ClassVar[str] = "/chat/completions"
    models_path: ClassVar[str] = "/models"
    hint: ClassVar[str] = ""  # what to do when it cannot be reached
    dialect: ClassVar[Dialect] = Dialect()
    policy_fields: ClassVar[Mapping[str, fields.Field[Any]]] = {}  # policy keys of this type alone

    def __init__(self, config: BackendConfig, environ: Mapping[str, str]) -> None:
        self.config = config
        self._key = environ.get(config.api_key_env, "").strip() if config.api_key_env else ""
        self._adapter = adapter()
        # Private requests use connections that check where they really ended up, unless the operator vouched.
        self._private_adapter = adapter(inside_only=True) if config.local is None else self._adapter

    @classmethod
    def normal_endpoint(cls, endpoint: str) -> str:
        return endpoint.rstrip("/")

    def open(self, request: ChatRequest, target: Target, *, stream: bool, private: bool) -> Whole | ChatStream:
        """Sends the request.  Returns the whole answer, or a stream whose first event has come and is no error.
        Raises BackendError."""
        body = request.body.encode(target.model, self.dialect, stream=stream)
        response = self._send("POST", self.chat_path, body, private)
        opened = False
        try:
            if response.status_code >= 300:
                raise self._refusal(response, target)
            if stream and _is_stream(response):
                first = self._first_event(response)
                opened = True
                return first
            return self._whole(response)
        finally:
            if not opened:
                response.raw.close()

    def discover(self) -> tuple[str, ...]:
        """Names of the models it holds.  Raises BackendError."""
        response = self._send("GET", self.models_path, None, private=False)
        try:
            if response.status_code != 200:
                raise self._refusal(response, Target(self.config.name, ""))
            return self.model_names(self._whole(response).document)
        finally:
            response.raw.close()

    def model_names(self, document: Mapping[str, Any]) -> tuple[str, ...]:
        """Model names in the answer at `models_path`."""
        return tuple(entry["id"] for entry in document.get("data") or () if isinstance(entry, dict) and "id" in entry)

    def close(self) -> None:
        self._adapter.close()
        self._private_adapter.close()

    # --- sending ---

    def _send(self, method: str, path: str, body: bytes | None, private: bool) -> requests.Response:
        via = self._private_adapter if private else self._adapter
        prepared = self._prepare(method, path, body)
        timeouts = self.config.timeouts
        try:
            try:
                return via.send(prepared, stream=True, timeout=(timeouts.connect_s, timeouts.first_byte_s))
            except requests.ConnectionError as error:
                if not _is_stale(error):
                    raise
                via.poolmanager.clear()  # a kept connection had died: once more, on a fresh one
                return via.send(prepared, stream=True, timeout=(timeouts.connect_s, timeouts.first_byte_s))
        except _TRANSPORT_ERRORS as error:
            raise self._transport_error(error) from None

    def _prepare(self, method: str, path: str, body: bytes | None) -> requests.PreparedRequest:
        headers = {"Accept": "application/json, text/event-stream", "User-Agent": "local-llm-router"}
        if body is not None:
            headers |= {"Content-Type": "application/json", "Content-Length": str(len(body))}
        if self.config.api_key_env:
            if not self._key:
                raise BackendUnavailable(f"{self.config.api_key_env} is not set", kind="no_key")
            if not self._key.isascii() or not self._key.isprintable():
                raise BackendUnavailable(f"{self.config.api_key_env} does not hold a usable key", kind="no_key")
            headers["Authorization"] = f"Bearer {self._key}"
        prepared = requests.PreparedRequest()
        prepared.method, prepared.url, prepared.body = method, self.config.endpoint + path, body
        prepared.headers = CaseInsensitiveDict(headers)
        return prepared

    # --- reading ---

    def _first_event(self, response: requests.Response) -> ChatStream:
        """Reads until the first event, comments aside.  The whole wait is bounded by the first-byte deadline."""
        stream = ChatStream(self, response)
        deadline = time.monotonic() + self.config.timeouts.first_byte_s
        try:
            stream.read_first(deadline)
        except BaseException:
            stream.close()
            raise
        return stream

    def _whole(self, response: requests.Response) -> Whole:
        """The body as one JSON object that is no error."""
        try:
            set_read_timeout(response.raw, self.config.timeouts.idle_s)
            body = b"".join(self._pieces(response))
        except _TRANSPORT_ERRORS as error:
            raise self._transport_error(error) from None
        document = sse.json_of(body)
        if document is None:
            raise BackendProtocol("answered 200 with something that is not a JSON object")
        if document.get("error"):
            raise BackendServerError("answered 200 with an error", kind="error_body", said=self._said(document))
        return Whole(body, document)

    def _pieces(self, response: requests.Response) -> Iterator[bytes]:
        size = 0
        while piece := response.raw.read1(_PIECE_BYTES, decode_content=True):
            size += len(piece)
            if size > _MAX_ANSWER_BYTES:
                raise BackendProtocol(f"answered with more than {_MAX_ANSWER_BYTES} bytes")
            yield piece

    # --- the error map ---

    def _transport_error(self, error: Exception) -> BackendError:
        """Our error for one of requests', urllib3's or the socket's, which all nest."""
        at, timeouts = self.config.endpoint, self.config.timeouts
        causes = list(_causes(error))
        if any(isinstance(cause, urllib3.exceptions.NameResolutionError) for cause in causes):
            return BackendUnavailable(f"no such host at {at}", kind="dns")
        if any(isinstance(cause, (requests.exceptions.SSLError, urllib3.exceptions.SSLError)) for cause in causes):
            return BackendUnavailable(f"TLS failed at {at}", kind="tls")
        if any(isinstance(cause, (requests.ConnectTimeout, urllib3.exceptions.ConnectTimeoutError)) for cause in causes):
            if not any(isinstance(cause, urllib3.exceptions.NewConnectionError) for cause in causes):
                return BackendTimeout(f"no connection within {timeouts.connect_s:g} s at {at}")
        if any(isinstance(cause, ConnectionRefusedError) for cause in causes):
            return BackendUnavailable(f"connection refused at {at}{self.hint}")
        if any(isinstance(cause, urllib3.exceptions.NewConnectionError) for cause in causes):
            return BackendUnavailable(f"cannot connect to {at}{self.hint}", kind="unreachable")
        if any(isinstance(cause, (TimeoutError, requests.Timeout, urllib3.exceptions.TimeoutError)) for cause in causes):
            return BackendTimeout("did not answer in time")
        if any(isinstance(cause, ConnectionError) for cause in causes):
            return BackendProtocol("closed the connection before answering", kind="reset")
        return BackendProtocol("sent an answer that breaks off or cannot be read")

    def _refusal(self, response: requests.Response, target: Target) -> BackendError:
        """The error for a status of 300 and up."""
        status = response.status_code
        kind, message = f"http_{status}", f"answered {status}"
        if status < 400:
            return BackendProtocol(f"{message}, a redirect, which is never followed", kind=kind)
        document = self._error_document(response)
        said = self._said(document)
        wait = _retry_after_s(response.headers.get("Retry-After"))
        if status == 429:
            return BackendRateLimited(f"{message} (rate limited)", said=said, retry_after_s=wait)
        if status in (401, 403):
            return BackendDenied(f"{message}; check {self.config.api_key_env or 'its access rules'}", kind=kind)
        if status >= 500 or status in _TEMPORARY:
            return BackendServerError(message, kind=kind, said=said, retry_after_s=wait)
        if status == 404 and not target.client_named:
            return BackendDenied(f"{message}; is the model {target.model} there?", kind=kind, said=said)
        named = {name: value for name, value in error_fields(document).items() if name in ("type", "param", "code")}
        return BackendRejected(
            said or message, kind=kind, status=status, document=document, said=said, retry_after_s=wait, **named
        )

    def _error_document(self, response: requests.Response) -> dict[str, Any]:
        """The error body in OpenAI's shape, whatever shape it came in, with our key and the like taken out."""
        try:
            set_read_timeout(response.raw, min(5.0, self.config.timeouts.idle_s))
            raw = b"".join(self._pieces(response))
        except (*_TRANSPORT_ERRORS, RouterError):
            raw = b""
        text = redact(raw.decode("utf-8", "replace"), (self._key,))
        document = sse.json_of(text.encode()) or {}
        fields = error_fields(document)
        if fields["message"] is None and not document:
            fields["message"] = None if text.lstrip().startswith("<") else text.strip()[:_MAX_SAID] or None
        error = document.get("error")
        merged = {**fields, **(error if isinstance(error, dict) else {})}
        merged["message"] = merged["message"] or f"the backend answered {response.status_code}"
        merged["type"] = merged["type"] or "invalid_request_error"
        return {**{k: v for k, v in document.items() if k not in ("error", "detail", "message")}, "error": merged}

    def _said(self, document: Mapping[str, Any]) -> str | None:
        message = error_fields(document)["message"]
        return redact(message, (self._key,))[:_MAX_SAID] if message else None


class Whole:
    """A buffered answer."""

    def __init__(self, body: bytes, document: Mapping[str, Any]) -> None:
        self.body = body
        self.document = document
        self.input_tokens, self.output_tokens = chat.usage_of(document)


class ChatStream:
    """Iterates over a chat stream's bytes as they arrive and ends with `[DONE]`.

    Raises StreamInterrupted when the stream breaks.  `close()` may be called at any time, from any greenlet that
    is not inside `next()`; before the end it closes the connection, so that the backend stops generating.
    """

    def __init__(self, backend: Backend, response: requests.Response) -> None:
        self._backend = backend
        self._raw = response.raw
        self._watch = StreamWatch()
        self._held: list[bytes] = []  # read before the stream was handed out
        self._over = False

    @property
    def input_tokens(self) -> int | None:
        return self._watch.input_tokens

    @property
    def output_tokens(self) -> int | None:
        return self._watch.output_tokens

    def read_first(self, deadline: float) -> None:
        """Reads until the first event.  Raises BackendError when it is an error, none, or late (monotonic s)."""
        watch = self._watch
        while not watch.begun:
            left = deadline - time.monotonic()
            if left <= 0:
                raise BackendTimeout("sent no event in time")
            try:
                piece = self._read(left)
            except _TRANSPORT_ERRORS as error:
                raise self._backend._transport_error(error) from None
            if not piece:
                watch.end()
                break
            self._held.append(piece)
            watch.feed(piece)
        if watch.error is not None:
            said = self._backend._said(watch.error)
            raise BackendServerError("answered with an error event", kind="error_event", said=said)
        if not watch.begun:
            raise BackendProtocol("ended its stream without an event")

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self._held:
            piece = b"".join(self._held)
            self._held.clear()
            return piece
        if self._over:
            raise StopIteration
        if self._watch.error is not None:
            raise self._broken("the backend reported an error in the stream", "error_event", told=True)
        if self._watch.done:
            return self._finish(drain=True)
        try:
            piece = self._read(self._backend.config.timeouts.idle_s)
        except _TRANSPORT_ERRORS as error:
            problem = self._backend._transport_error(error)
            raise self._broken(f"the backend {problem.message} in mid-stream", problem.kind) from None
        if piece:
            self._watch.feed(piece)
            return piece
        self._watch.end()
        if not self._watch.ended_well:
            raise self._broken("the backend ended its stream before the answer was complete", "truncated")
        return self._finish(drain=False)

    def close(self) -> None:
        self._over = True
        self._held.clear()
        self._raw.close()

    def _read(self, timeout_s: float) -> bytes:
        set_read_timeout(self._raw, timeout_s)
        return self._raw.read1(_PIECE_BYTES, decode_content=True) or b""

    def _finish(self, *, drain: bool) -> bytes:
        """The normal end.  A connection whose body is read to its end goes back to the pool."""
        self._over = True
        try:
            if drain and not self._read(_DRAIN_S):
                self._raw.release_conn()
        except _TRANSPORT_ERRORS:
            pass
        self._raw.close() if drain else self._raw.release_conn()
        if drain:
            raise StopIteration
        return b"" if self._watch.done else b"\n\n" + sse.DONE

    def _broken(self, message: str, kind: str, *, told: bool = False) -> StreamInterrupted:
        self.close()
        return StreamInterrupted(message, kind=kind, told=told)


# --- small readers ------------------------------------------------------------------------------


def _is_stream(response: requests.Response) -> bool:
    return not response.headers.get("Content-Type", "text/event-stream").lower().startswith(("application/json", "text/html"))


def _is_stale(error: Exception) -> bool:
    return any(isinstance(cause, StaleConnection) for cause in _causes(error))


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and all it wraps: requests and urllib3 nest theirs in args, `reason` and `__context__`."""
    todo: list[object] = [error]
    seen: set[int] = set()
    while todo:
        item = todo.pop()
        if isinstance(item, BaseException) and id(item) not in seen:
            seen.add(id(item))
            yield item
            todo += [*item.args, getattr(item, "reason", None), item.__cause__, item.__context__]
        elif isinstance(item, tuple):
            todo += item


def _retry_after_s(value: str | None) -> float | None:
    """Seconds of a Retry-After header, which holds seconds or a date."""
    if not value:
        return None
    with contextlib.suppress(ValueError):
        return max(0.0, float(value)) if float(value) < 86400 else 86400.0
    with contextlib.suppress(ValueError, TypeError):
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    return None
