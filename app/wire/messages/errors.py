"""Write errors in the form of the Messages API."""

from __future__ import annotations

from app.errors import BackendRejected, ContextTooLong, PromptTooLong, RouterError
from app.types import JsonDict
from app.wire import sse
from app.wire.error_document import error_fields

# By the status; https://docs.claude.com/en/api/errors.  All other 5xx are `api_error`.
_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_BUSY = "busy"  # the code of a request for which no backend has a place


def error_document(error: RouterError) -> JsonDict:
    """Return the document for an error."""
    document: JsonDict = {"type": "error", "error": {"type": error_type(error), "message": message_of(error)}}
    return document | ({"request_id": error.request_id} if error.request_id else {})


def error_event(error: RouterError) -> bytes:
    """Return the event that ends a failed stream."""
    return sse.event(error_document(error), "error")


def error_type(error: RouterError) -> str:
    """Return the type of an error, which the SDKs turn into a class."""
    if error.code == _BUSY:
        return "overloaded_error"
    return _TYPES.get(error.status) or ("invalid_request_error" if error.status < 500 else "api_error")


def message_of(error: RouterError) -> str:
    """Return the message of an error.  Claude Code shortens its conversation when a message begins with "prompt is too
    long"."""
    if isinstance(error, PromptTooLong) and error.tokens and error.window:
        return f"prompt is too long: {error.tokens} tokens > {error.window} maximum"
    if isinstance(error, (ContextTooLong, PromptTooLong)):
        return f"prompt is too long: {error.message}"
    if isinstance(error, BackendRejected) and error.document is not None:
        return error_fields(error.document)["message"] or error.message
    return error.message
