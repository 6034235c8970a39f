"""Identifiers of clients: which headers and values count, and what they are used for."""

from __future__ import annotations

import pytest

from app.web.identifiers import identifiers, returned, session

NAMES = [
    ("HTTP_X_SESSION_ID", "X-Session-Id"),
    ("HTTP_X_SESSION_AFFINITY", "X-Session-Affinity"),
    ("HTTP_X_CLAUDE_CODE_SESSION_ID", "X-Claude-Code-Session-Id"),
    ("HTTP_SESSION_ID", "session-id"),
    ("HTTP_THREAD_ID", "thread-id"),
]
OTHERS = [("HTTP_X_REQUEST_ID", "X-Request-Id"), ("HTTP_TRACEPARENT", "traceparent")]


@pytest.mark.parametrize("key, name", NAMES + OTHERS)
def test_local_backends_get_the_header_under_its_name(key: str, name: str) -> None:
    assert identifiers({key: "a1", "HTTP_X_OTHER": "b", "HTTP_AUTHORIZATION": "Bearer c"}) == {name: "a1"}


@pytest.mark.parametrize("value", ["", "a b", "a\tb", "a\r\nX-Evil: 1", "\u00e9", "x" * 201])
@pytest.mark.parametrize("key", [key for key, _ in NAMES + OTHERS])
def test_a_value_that_is_no_identifier_is_ignored(key: str, value: str) -> None:
    assert identifiers({key: value}) == {}
    assert returned({key: value}) == {}


def test_every_header_of_a_session_counts_and_no_other() -> None:
    sessions = [session(identifiers({key: "a"})) for key, _ in NAMES]
    assert all(sessions)
    assert [session(identifiers({key: "a"})) for key, _ in OTHERS] == ["", ""]
    assert session(identifiers({"HTTP_SESSION_ID": "a", "HTTP_THREAD_ID": "b"})) != session({"session-id": "a"})


@pytest.mark.parametrize("key, text", [("k", "k"), (None, ""), (7, ""), ({"a": 1}, "")])
def test_the_cache_key_of_a_body_names_a_session_too(key: object, text: str) -> None:
    assert session({}, key) == text


def test_only_the_id_of_the_request_is_returned() -> None:
    assert returned({"HTTP_X_REQUEST_ID": "abc", "HTTP_TRACEPARENT": "t", "HTTP_SESSION_ID": "s"}) == {
        "X-Request-Id": "abc"
    }
