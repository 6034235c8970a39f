"""Dialects: what of a body is changed for a server, and that nothing else is."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.backends import BACKEND_TYPES
from app.backends.ollama import OllamaBackend
from app.errors import BackendRejected
from app.types import BackendConfig, Dialect, Timeouts
from app.wire.chat import request as chat
from app.wire.chat.errors import refused_member
from app.wire.json_body import read_object
from tests.wire.streams import messages

USER = {"role": "user", "content": "x"}


def dialect(kind: str, model: str = "m", endpoint: str = "http://127.0.0.1:1") -> Dialect:
    config = BackendConfig(name="b", type=kind, endpoint=endpoint, timeouts=Timeouts(1, 1, 1))
    return BACKEND_TYPES[kind](config, {}).dialect_for(model)


OPENAI = "https://api.openai.com/v1"
LOCAL = ("ollama", "llamacpp", "vllm")


def sent(kind: str, raw: str, model: str = "m", endpoint: str = "http://127.0.0.1:1") -> str:
    body = chat.parse(raw.encode())
    return body.encode(model, dialect(kind, model, endpoint), stream=False).decode()


def body(members: str, texts: str = '{"role":"user","content":"x"}') -> str:
    return f'{{"model":"m",{members}"messages":[{texts}],"x_new":1e400}}'


# --- a wish for reasoning, for a model without ----------------------------------------------------


@pytest.mark.parametrize("model", ["plain", "plain:latest", "Plain", "library/plain"])
@pytest.mark.parametrize("effort", ['"none"', '"minimal"', '"high"', "null", "5"])
def test_a_wish_for_reasoning_is_taken_out_for_a_model_that_is_listed_without(model: str, effort: str) -> None:
    backend = OllamaBackend(BackendConfig(name="b", type="ollama", endpoint="http://x", timeouts=Timeouts(1, 1, 1)), {})
    entries = {"plain:latest": ["completion"], "thinks:latest": ["completion", "thinking"], "unread:latest": []}
    backend.learn_list({"models": [{"name": name, "capabilities": can} for name, can in entries.items()]})
    for members in (f'"reasoning_effort":{effort},', f'"reasoning":{{"effort":{effort}}},'):
        request = chat.parse(body(members).encode())
        assert request.encode(model, backend.dialect_for(model), stream=False).decode() == body("").replace(
            '"m"', f'"{model}"'
        )
        for other in ("thinks", "unread", "unknown"):
            kept = json.loads(request.encode(other, backend.dialect_for(other), stream=False))
            assert "reasoning" in kept or "reasoning_effort" in kept


# --- the length of an answer --------------------------------------------------------------------

LIMITS: list[tuple[str, str, str, str]] = [  # type, model, members, what becomes of them
    ("ollama", "m", '"max_completion_tokens":5,', '"max_tokens":5,|'),
    ("llamacpp", "m", '"max_completion_tokens":5,', '"max_tokens":5,|'),
    ("vllm", "m", '"max_completion_tokens":5,', '|"max_completion_tokens":5,'),
    ("openai", "m", '"max_completion_tokens":5,', '|"max_completion_tokens":5,'),
    ("sarmalink", "m", '"max_completion_tokens":5,', '|"max_completion_tokens":5,'),
    ("ollama", "m", '"max_tokens":5,', '|"max_tokens":5,'),
    ("ollama", "m", '"max_tokens":7,"max_completion_tokens":5,', '|"max_tokens":5,'),
    ("ollama", "m", '"max_completion_tokens":5,"max_tokens":7,', '|"max_tokens":5,'),
    ("ollama", "m", '"max_completion_tokens":5,"max_tokens":null,', '|"max_tokens":5,'),
    ("ollama", "m", '"max_completion_tokens":null,"max_tokens":7,', '|"max_completion_tokens":null,"max_tokens":7,'),
    ("openai", "o1", '"max_tokens":5,', '"max_completion_tokens":5,|'),
    ("openai", "gpt-5", '"max_tokens":5,', '"max_completion_tokens":5,|'),
    ("openai", "gpt-5", '"max_tokens":5,"max_completion_tokens":9,', '|"max_completion_tokens":9,'),
    ("openai", "gpt-5", '"max_completion_tokens":9,', '|"max_completion_tokens":9,'),
    ("openai", "gpt-4o", '"max_tokens":5,', '|"max_tokens":5,'),
]


@pytest.mark.parametrize(("kind", "model", "members", "becomes"), LIMITS)
def test_the_limit_has_the_name_that_the_server_reads(kind: str, model: str, members: str, becomes: str) -> None:
    added, kept = becomes.split("|")
    for endpoint in (OPENAI, "http://127.0.0.1:1"):
        expected = "{" + added + body(kept)[1:].replace('"model":"m"', f'"model":"{model}"')
        assert sent(kind, body(members), model, endpoint) == expected


@pytest.mark.parametrize(
    ("model", "reasons"),
    [
        *((name, True) for name in ("o1", "o1-mini", "o3", "o4-mini-high", "gpt-5", "GPT-5.1", "gpt-5-mini-2025")),
        *((name, True) for name in ("openai/gpt-5", "ft:o3", "gpt-10")),
        *((name, False) for name in ("gpt-4o", "gpt-4.1", "gpt-oss:120b", "o1x", "olmo", "gpt-55b", "x-o1", "a/o")),
    ],
)
def test_reasoning_models_of_openai(model: str, reasons: bool) -> None:
    assert dialect("openai", model).max_tokens_only is reasons


def test_a_member_is_taken_out_wherever_it_stands() -> None:
    raw = ' {\n "max_completion_tokens" : 5 , "messages" : [{"role":"user","content":"x"}] , "a" : 1 }\n'
    assert sent("ollama", raw) == (
        ' {"model":"m","max_tokens":5, "messages" : [{"role":"user","content":"x"}] , "a" : 1 }\n'
    )
    last = '{"messages":[{"role":"user","content":"x"}], "max_completion_tokens":5 }'
    assert sent("ollama", last) == '{"model":"m","max_tokens":5,"messages":[{"role":"user","content":"x"}] }'
    twice = body('"max_completion_tokens":4,"max_completion_tokens":5,"Max_Completion_Tokens":6,')
    assert sent("ollama", twice) == "{" + '"max_tokens":5,' + body("")[1:]


_NAMES = st.sampled_from(["a", "b", "A", "gone", "also", "model", "é"])


@given(
    st.lists(st.tuples(_NAMES, st.integers() | st.text(max_size=3) | st.lists(st.integers(), max_size=2)), max_size=7),
    st.sampled_from([None, 1, "\t"]),
)
def test_what_is_taken_out_takes_nothing_with_it(members: list[tuple[str, Any]], indent: Any) -> None:
    document = {**dict(members), "kept": 1}
    raw = json.dumps(document, indent=indent).encode()
    found = read_object(raw).with_members({"model": '"m"'}, ("gone", "also"))
    assert json.loads(found) == {name: value for name, value in document.items() if name not in ("gone", "also")} | {
        "model": "m"
    }


# --- reasoning effort -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ollama", "vllm"])
@pytest.mark.parametrize(
    ("effort", "becomes"),
    [
        ('"minimal"', '"low"'),
        ('"xhigh"', '"high"'),
        *((other, other) for other in ('"low"', '"none"', '"new"', "null", "3", '["minimal"]')),
    ],
)
def test_efforts_that_a_server_does_not_know(kind: str, effort: str, becomes: str) -> None:
    assert sent(kind, body(f'"reasoning_effort":{effort},')) == body(f'"reasoning_effort":{becomes},')
    assert sent("openai", body(f'"reasoning_effort":{effort},')) == body(f'"reasoning_effort":{effort},')


# --- developer ------------------------------------------------------------------------------------

U, A = '{"role":"user","content":"\\u00e9 x", "n":1e400}', '{ "role" : "assistant", "content":"y"}'
D, E = '{"role":"developer","content":"d"}', '{"role":"developer","content":"e"}'
S = '{"role":"system","content":"s"}'


def front(content: Any, **more: Any) -> str:
    return json.dumps({"role": "system", "content": content, **more})


ORDERS = [
    ((D, U), (front("d"), U)),
    ((U, D), (front("d"), U)),
    ((D, U, A, E, U), (front("d\n\ne"), U, A, U)),
    ((S, D, U), (front("s\n\nd"), U)),
    ((U, S, A, D), (front("s\n\nd"), U, A)),
    (('{"role":"developer","content":"d","name":"n"}', U), (front("d", name="n"), U)),
    (
        ('{"role":"developer","content":[{"type":"text","text":"d"}]}', U, S),
        (front([{"type": "text", "text": "d"}, {"type": "text", "text": "s"}]), U),
    ),
]


@pytest.mark.parametrize("kind", LOCAL)
@pytest.mark.parametrize(("texts", "becomes"), ORDERS)
def test_developer_is_system_in_front(kind: str, texts: tuple[str, ...], becomes: tuple[str, ...]) -> None:
    assert sent(kind, body("", " , ".join(texts))) == body("", ",".join(becomes))


@pytest.mark.parametrize("kind", ["openai", "sarmalink"])
@pytest.mark.parametrize("texts", [texts for texts, _ in ORDERS])
def test_developer_stays_where_it_may_be_known(kind: str, texts: tuple[str, ...]) -> None:
    assert sent(kind, body("", ",".join(texts))) == body("", ",".join(texts))


@pytest.mark.parametrize("kind", sorted(BACKEND_TYPES))
def test_a_body_without_words_of_a_dialect_passes_byte_for_byte(kind: str) -> None:
    raw = body('"max_tokens" : 5.0,"reasoning_effort":"low","stop":["a"],', f"{U},{S} ,{A}")
    assert sent(kind, raw) == raw


@pytest.mark.parametrize("kind", LOCAL)
def test_responses_gathers_them_too(kind: str) -> None:
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    items = [
        {"role": "developer", "content": "a"},
        USER,
        call,
        {"role": "developer", "content": [{"type": "input_text", "text": "b"}]},
        {"type": "function_call_output", "call_id": "c", "output": "done"},
        {"role": "system", "content": "c"},
    ]
    told = messages(items, dialect(kind), instructions="first")
    assert [message["role"] for message in told] == ["system", "user", "assistant", "tool"]
    assert told[0]["content"] == "first\n\na\n\nb\n\nc"


# --- refusals ---------------------------------------------------------------------------------------

REFUSALS: list[tuple[dict[str, Any], str | None]] = [
    ({"text": "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' "
      "instead.", "param": "max_tokens", "code": "unsupported_parameter"}, "max_tokens"),
    ({"text": "Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens'."}, "max_tokens"),
    ({"text": "Unsupported parameter", "param": "reasoning_effort"}, "reasoning_effort"),
    ({"text": "no", "param": "max_completion_tokens", "code": "unsupported_parameter"}, "max_completion_tokens"),
    ({"text": "body.max_completion_tokens: Extra inputs are not permitted", "status": 422}, "max_completion_tokens"),
    ({"text": "Unrecognized request argument supplied: reasoning_effort"}, "reasoning_effort"),
    ({"text": "invalid reasoning value: 'xhigh' (must be \"high\" or \"low\")"}, "reasoning_effort"),
    ({"text": '"llama3" does not support thinking'}, "reasoning_effort"),
    ({"text": "Unsupported value: 'reasoning_effort' does not support 'minimal'.", "code": "unsupported_value",
      "param": "reasoning_effort"}, "reasoning_effort"),
    ({"text": "messages[0].role: unknown variant `developer`, expected one of `system`, `user`"}, "developer"),
    ({"text": "Unsupported value: 'messages[0].role' does not support 'developer' with this model.",
      "param": "messages[0].role"}, "developer"),
    ({"text": "unknown field: verbosity"}, "verbosity"),
    ({"text": "Unsupported parameter: 'temperature' is not supported", "param": "temperature"}, None),
    ({"text": "max_tokens is too large: 100000. This model supports at most 4096 tokens", "param": "max_tokens"}, None),
    ({"text": "max_tokens must be positive", "param": "max_tokens"}, None),
    ({"text": "Unsupported parameter: max_tokens", "status": 403}, None),
    ({"text": None}, None),
]  # fmt: skip


@pytest.mark.parametrize(("refusal", "word"), REFUSALS, ids=[str(refusal)[:60] for refusal, _ in REFUSALS])
def test_what_a_refusal_names(refusal: dict[str, Any], word: str | None) -> None:
    text, members = refusal["text"], {name: value for name, value in refusal.items() if name != "text"}
    assert refused_member(BackendRejected("answered 400", backend_text=text, **{"status": 400, **members})) == word


@pytest.mark.parametrize(
    ("raw", "word", "becomes"),
    [
        ('{"max_tokens":5,"a":1}', "max_tokens", '{"max_completion_tokens":5,"a":1}'),
        ('{"a":1,"max_completion_tokens":5}', "max_completion_tokens", '{"max_tokens":5,"a":1}'),
        ('{"max_tokens":5,"max_completion_tokens":6}', "max_tokens", '{"max_completion_tokens":6}'),
        ('{"a":1, "reasoning_effort":"low"}', "reasoning_effort", '{"a":1}'),
        ('{"a":1}', "reasoning_effort", None),
        ('{"a":1}', "max_tokens", None),
        (f'{{"messages":[{U},{D}]}}', "developer", f'{{"messages":[{front("d")},{U}]}}'),
        (f'{{"messages":[{U}]}}', "developer", None),
    ],
)
def test_a_body_without_the_word(raw: str, word: str, becomes: str | None) -> None:
    made = chat.without(raw.encode(), word)
    assert (made.decode() if made else None) == becomes
