"""Everything that reads text of a client, a backend, a policy or the environment: its work is linear in that text.

Each entry makes the worst input of a size.  Counted are the calls of functions and the lines that run, which is the
same on every machine, at 1, 2 and 4 times a size; and the CPU time is compared, for what is quadratic in C.
`tests/test_work.py` does the same for whole bodies and streams, `tests/test_patterns.py` for patterns.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from app import policy, settings
from app.backends.failures import MOST_ERROR_BYTES, refusal
from app.backends.ollama import OllamaBackend
from app.backends.openai import OpenAIBackend
from app.backends.response import Response
from app.cli.table import folded, table
from app.errors import NotAllowed, PolicyError, RequestError
from app.redaction import excerpt, redact
from app.routing import basis, names
from app.routing.answer.comparable import comparable
from app.routing.doubt import assess
from app.routing.features import features, words_of
from app.routing.locality import is_cloud_model, is_loopback_name
from app.routing.purpose import acts
from app.routing.reading import read, read_text
from app.routing.sender import sender_of
from app.routing.signatures import SIGNATURES
from app.settings import Settings
from app.types import BackendConfig, Observations, Target, Timeouts
from app.web import headers
from app.web.access import AccessControl
from app.web.openai import OpenAI
from app.wire.chat import request as chat
from app.wire.chat.repair import repaired_document, repaired_stream
from app.wire.chat.reply import as_chunk
from app.wire.error_document import error_fields
from app.wire.json_end import JsonEnd
from app.wire.responses import request as responses
from app.wire.responses.custom import Unwrapper, unwrap
from app.wire.responses.reply import from_chat
from app.wire.responses.stream import EventStream
from tests.linear import Make, Work, problem_of

SIZE = 1_000  # characters or entries
CONFIG = BackendConfig(name="b", type="ollama", endpoint="http://127.0.0.1:9", timeouts=Timeouts(2, 2, 2))
ACCESS = AccessControl(
    Settings(api_keys=("secret",), allowed_hosts=("a.example",), allowed_origins=("http://a.example",))
)
REQUEST = responses.parse(
    {"input": "x", "tools": [{"type": "function", "name": "f"}, {"type": "custom", "name": "g"}], "include": []}
)


def of_text(run: Callable[[str], Any], unit: str, end: str = "") -> Make:
    """`run` over a unit that is repeated up to the size."""

    def make(size: int) -> Work:
        text = unit * (size // len(unit)) + end
        return lambda: run(text)

    return make


def ignoring(kinds: type[Exception], run: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """`run`, which may refuse."""

    def tried(value: Any) -> None:
        try:
            run(value)
        except kinds:
            return

    return tried


# --- clients ------------------------------------------------------------------------------------


def environ(**members: str) -> dict[str, Any]:
    return {"REQUEST_METHOD": "POST", "PATH_INFO": "/v1/chat/completions", "HTTP_HOST": "localhost", **members}


def guarded(name: str) -> Callable[[str], Any]:
    return ignoring(NotAllowed, lambda text: ACCESS.check(environ(**{name: text}), OpenAI()))


def many_headers(size: int) -> Work:
    sent = environ(**{f"HTTP_X_{number}_L": "x" for number in range(size)})
    return lambda: headers.sensitivity(sent)


def sensitivities(size: int) -> Work:
    sent = environ(HTTP_X_LLR_SENSITIVITY=",".join(["high"] * size))
    return lambda: headers.sensitivity(sent)


def near_names(size: int) -> Work:
    """A policy of many names alike, and a name that nobody has."""
    held = {"b": tuple(f"model-{number:06d}-a" for number in range(size))}
    rules = policy.load(SMALL, "p", Settings()).policy
    counter = itertools.count()

    def run() -> None:
        seen = Observations(models=dict(held))  # another one: what was worked out for the last is of no use
        names.resolve(f"model-{next(counter):06d}-b", "any", rules, seen)

    return run


def asked(text: str) -> None:
    """Find the sender of a text, and read it as each known program would write it."""
    for content in (text, [{"type": "text", "text": text}, {"type": "text", "text": text}]):
        body = {"messages": [{"role": "user", "content": content}, {"role": "system", "content": text}]}
        sender_of(body, {"user-agent": text})
        for signature in SIGNATURES.clients:
            read(body, signature)


CLIENTS: dict[str, Make] = {
    "headers: many": many_headers,
    "headers: the sensitivity again and again": sensitivities,
    "headers: a name of X": of_text(
        ignoring(RequestError, lambda text: headers.sensitivity(environ(**{f"HTTP_{text}LLR": ""}))), "X"
    ),
    "headers: what goes into one": of_text(headers.printable, "é"),
    "access: a host of dots": of_text(guarded("HTTP_HOST"), "1."),
    "access: a host of colons": of_text(guarded("HTTP_HOST"), ":"),
    "access: a host of brackets": of_text(guarded("HTTP_HOST"), "["),
    "access: an origin": of_text(guarded("HTTP_ORIGIN"), "http://"),
    "access: an origin of slashes": of_text(guarded("HTTP_ORIGIN"), "/"),
    "access: a key": of_text(guarded("HTTP_AUTHORIZATION"), "Bearer "),
    "locality: a name": of_text(is_loopback_name, "."),
    "locality: a model": of_text(is_cloud_model, ":cloud@"),
    "names: a model nobody holds": of_text(
        lambda text: names.resolve(text, "any", policy.load(SMALL, "p", Settings()).policy, Observations()), "a/"
    ),
    "names: many models alike": near_names,
    "basis: a name to be kept": of_text(lambda text: basis.storable_name(text, is_known=False, private=False), "a/"),
    "reading: tags without end": of_text(read_text, "<a-b>"),
    "reading: tags that do not close": of_text(read_text, "<a-b></"),
    "reading: nothing but opening signs": of_text(read_text, "<"),
    "reading: blocks one behind the other": of_text(read_text, "<a-b>x</a-b>"),
    "reading: ends of blocks": of_text(read_text, "</a-b>", "<a-b>"),
    "reading: tags of asks": of_text(read_text, "<task>", "</task>"),
    "sender: lines of speakers": of_text(asked, "user: a\n"),
    "sender: speakers without words": of_text(asked, "\nai:"),
    "sender: quotes": of_text(asked, '"a “b '),
    "sender: gaps": of_text(asked, "<|fim_prefix|>"),
    "sender: marks of conversations": of_text(asked, "<chat_history>"),
    "sender: what stands before and behind asks": of_text(asked, "</context> reply in english. ```` "),
    "sender: names of tools": of_text(acts, "read_File.a\n"),
    "features: words": of_text(features, "a b "),
    "features: signs": of_text(features, "(a_B."),
    "features: words of a sign": of_text(lambda text: words_of("code+noun", text), "python function "),
    "chat: a model's name": of_text(ignoring(RequestError, chat.model_name), " a"),
    "chat: spaces": of_text(ignoring(RequestError, lambda text: chat.parse(text.encode())), " ", "{"),
    "chat: a string without end": of_text(ignoring(RequestError, lambda text: chat.parse(text.encode())), '{"a', ""),
    "chat: numbers": of_text(ignoring(RequestError, lambda text: chat.parse(f"[{text}1]".encode())), "1,"),
}

# --- backends -----------------------------------------------------------------------------------


def refused(text: str) -> Any:
    return refusal(400, text, text.encode(), Target("b", "m"), CONFIG, "a-key-of-ours")


def refused_document(text: str) -> Any:
    return refusal(
        422, None, json.dumps({"error": {"message": text, text: text}}).encode(), Target("b", "m"), CONFIG, "k"
    )


def events(*deltas: Mapping[str, Any]) -> Make:
    """A stream of so many chunks, of these kinds in turn.  `%d` in a text, and the text `#`, stand for the number of a
    chunk."""
    texts = [json.dumps({"choices": [{"index": 0, "delta": delta}]}) for delta in deltas]

    def make(size: int) -> Work:
        chunks = [json.loads(texts[n % len(texts)].replace('"#"', str(n)).replace("%d", str(n))) for n in range(size)]

        def run() -> None:
            count = itertools.count()
            stream = EventStream(
                REQUEST, response_id="r", created_at=0, model="m",
                new_id=lambda prefix: f"{prefix}_{next(count)}", clock=lambda: 0.0,
            )  # fmt: skip
            stream.begin()
            for chunk in chunks:
                stream.feed(chunk)
            stream.done()
            stream.finish()

        return run

    return make


def call(name: str | None = None, call_id: str | None = None, index: int | str | None = None, **more: Any) -> Any:
    function = {**({"name": name} if name else {}), **more}
    return {"tool_calls": [{"function": function, **({"id": call_id} if call_id else {}), "index": index}]}


def repairing(*deltas: Mapping[str, Any]) -> Make:
    """The same chunks on their way to a chat client."""
    texts = [json.dumps({"choices": [{"index": 0, "delta": delta}]}) for delta in deltas]

    def make(size: int) -> Work:
        pieces = [
            b"data: %b\n\n" % texts[n % len(texts)].replace('"#"', str(n)).replace("%d", str(n)).encode()
            for n in range(size)
        ]

        def run() -> None:
            count = itertools.count()
            for _ in repaired_stream(iter(pieces), ("f", "g"), lambda: f"call_{next(count)}"):
                pass

        return run

    return make


def judged(text: str) -> None:
    """Judge a text as an answer, as a second opinion and as a question."""
    assess("Which?\nA. x\nB. y", text, second=[text, text[1:]])
    assess(text, "B", second="C")
    comparable("", text, {"messages": [{"role": "user", "content": text}]})


def judged_calls(size: int) -> Work:
    calls = [{"function": {"name": "fg"[number % 2], "arguments": f'{{"a": {number}}}'}} for number in range(size)]
    one, two = {"tool_calls": calls}, {"tool_calls": calls[::-1]}
    return lambda: assess("?", one, second=two, logprobs=[-0.1] * size)


def many_calls(size: int) -> Work:
    calls = [
        {"id": f"c{number}", "function": {"name": "fg"[number % 2], "arguments": '{"a":'}} for number in range(size)
    ]
    answer = {"choices": [{"message": {"content": "x", "tool_calls": calls}, "finish_reason": "length"}]}
    count = itertools.count()

    def run() -> None:
        from_chat(
            answer, REQUEST, response_id="r", created_at=0, completed_at=0, model="m",
            new_id=lambda prefix: f"{prefix}_{next(count)}",
        )  # fmt: skip
        as_chunk(answer)
        repaired_document(answer, lambda: f"call_{next(count)}")

    return run


def unwrapped(*units: str) -> Make:
    """The arguments of a custom tool in pieces: the first once, the second again and again."""

    def make(size: int) -> Work:
        pieces = [units[0], *[units[1]] * (size // len(units[1]))]

        def run() -> None:
            unwrapper = Unwrapper()
            for piece in pieces:
                unwrapper.feed(piece)
            unwrapper.finish()

        return run

    return make


def in_one_piece(unit: str) -> Make:
    return of_text(lambda text: Unwrapper().feed('{"input":"' + text), unit)


def ends_of(unit: str) -> Make:
    def run(text: str) -> None:
        end = JsonEnd()
        for char in text:
            end.feed(char)

    return of_text(run, unit)


_READABLE, _other_end = os.pipe()
os.close(_other_end)  # so the event loop says at once that there is something to read


class _Wire:
    """A connection on which a response arrives in pieces."""

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = deque(pieces)

    def settimeout(self, seconds: float) -> None:
        """Nothing is waited for."""

    def recv(self, size: int) -> bytes:
        piece = self._pieces.popleft() if self._pieces else b""
        if len(piece) > size:
            self._pieces.appendleft(piece[size:])
        return piece[:size]

    def fileno(self) -> int:
        return _READABLE

    def close(self) -> None:
        """Nothing is open."""


def arriving(head: bytes, unit: bytes, end: bytes = b"", *, at_once: bool = False) -> Make:
    """A response whose body comes in so many pieces."""

    def make(size: int) -> Work:
        count = size // 4
        pieces = [head, unit * count, end] if at_once else [head, *[unit] * count, end]

        def run() -> None:
            response = Response(_Wire(list(pieces)), bool)  # type: ignore[arg-type]
            response.read_head(5)
            while response.read(5):
                pass
            response.close()

        return run

    return make


def listed_models(size: int) -> Work:
    document = {
        "models": [{"name": f"m{number}"} for number in range(size)],
        "data": [{"id": f"m{number}"} for number in range(size)],
    }
    ollama, openai = OllamaBackend(CONFIG, {}), OpenAIBackend(CONFIG, {})
    return lambda: (ollama.model_names(document), openai.model_names(document))


STREAMS: dict[str, tuple[Mapping[str, Any], ...]] = {
    "text": ({"content": "x"},),
    "text and refusal in turn": (
        {"content": "x"},
        {"refusal": "y"},
    ),
    "text and reasoning in turn": (
        {"content": "x"},
        {"reasoning": "y"},
    ),
    "calls": (call("f", "c%d", arguments="{}"),),
    "calls that do not end": (call("f", "c%d", arguments='{"a":'),),
    "calls that do not end, then text": (
        *[call("f", "c%d", arguments='{"a":')] * 499,
        {"content": "x"},
        call("g", "c%d", arguments='{"a":'),
    ),
    "calls of one id": (call("f", "c", arguments="x"),),
    "calls without a name": (call(None, "c%d", arguments="x"),),
    "arguments in pieces": (call("f", "c", 0, arguments='{"a'), *[call(None, None, 0, arguments="}")] * 999),
    "a name in every piece": (call("f", "c", 0, arguments='{"a": "}'),),
    "pieces of nothing": (call("f", "c", 0, arguments=" "),),
    "one call that looks whole, and others": (
        call("f", "c", 0, arguments='{"a": "' + "x" * 2000 + "}"),
        *[call("f", "d%d", arguments="}")] * 1999,
    ),
    "input of a custom tool": (call("g", "c", 0, arguments='{"input":"'), *[call(None, None, 0, arguments="\\")] * 999),
    "a call in the old form": ({"function_call": {"name": "f", "arguments": "x"}},),
    "nothing but ids": (call(None, "c%d", 0),),
    "names in pieces": (call("f", None, 0),),
    "a name without end": (call("a", "c", 0), call("b", "c", 0)),
    "names that are no tool's": (call("f%d", None, "x"),),
    "pieces of space": (
        call("f", "c", 0, arguments=" "),
        call("f", "c", 0, arguments="}"),
        *[call(None, None, 0, arguments=" ")] * 999,
    ),
    "calls with an id and an index and no name": (call(None, "c%d", "#"),),
    "calls with an index and a name": (call("f", None, "#"),),
    "calls with an index, a name and a placeholder": (call("f", None, "#", arguments="{}"),),
    "calls with an index and arguments": (call(None, None, "#", arguments="}"),),
    "a call goes on behind many": (*[call("f", "c%d", "#", arguments="{")] * 9, call(None, None, 0, arguments="}")),
    "placeholders that are replaced": (call("f", "c%d", 0, arguments="{}"), call(None, None, 0, arguments='{"a": 1}')),
    "placeholders": (call("f", "c%d", "x", arguments="{}"),),
    "placeholders of one call": (call("f", "c", 0, arguments="{}"),),
    "spaces in front of a placeholder": (call("f", "c", 0, arguments=" " * 500 + "{" + " " * 500),),
}
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
BACKENDS: dict[str, Make] = {
    **{
        f"errors: {name} of {unit!r}": of_text(run, unit)
        for name, run in (
            ("redact", redact),
            ("excerpt", excerpt),
            ("refusal", refused),
            ("document", refused_document),
        )
        for unit in ("eyJaaaaaaaa-", "-eyJ", "sk-", "sk-aaaaaaaa ", "a1", "a", "bearer aaaaaaaaa ", "é", "\ud800", "[")
        if unit != "\ud800" or run in (redact, excerpt)
    },
    "errors: our keys": of_text(lambda text: redact(text, ("aaaa",)), "a"),
    "errors: a deep error": of_text(lambda text: error_fields({"error": {"message": [text]}}), "a"),
    "errors: when to come again": of_text(lambda text: refusal(429, text, b"", Target("b", "m"), CONFIG, ""), "1,"),
    **{
        f"{name}: {what}": make(*deltas)
        for name, make in (("events", events), ("repair", repairing))
        for what, deltas in STREAMS.items()
    },
    "answer: many calls": many_calls,
    "doubt: statements": of_text(judged, "The answer is (B). "),
    "doubt: equations": of_text(judged, "28 + 24 = 52, "),
    "doubt: JSON": of_text(judged, '{"answer": ["'),
    "doubt: LaTeX": of_text(judged, "\\frac{1}{\\sqrt{"),
    "doubt: options": of_text(judged, "A. x, B or "),
    "doubt: code": of_text(judged, "```/*'\"#"),
    "doubt: many calls": judged_calls,
    "custom: spaces before the wrapper": unwrapped(" ", " "),
    "custom: no wrapper": unwrapped("x", "x"),
    "custom: letters": unwrapped('{"input":"', "a"),
    "custom: backslashes": unwrapped('{"input":"', "\\x"),
    "custom: halves of characters": unwrapped('{"input":"', "\\ud800"),
    "custom: backslashes in one piece": in_one_piece("\\x"),
    "custom: halves of characters in one piece": in_one_piece("\\ud800"),
    "custom: whole": of_text(unwrap, '{"input":'),
    "json: brackets": ends_of("{["),
    "json: strings": ends_of('"\\"'),
    "response: small pieces": arriving(b"HTTP/1.1 200 OK\r\n\r\n", b"x"),
    "response: small chunks": arriving(CHUNKED, b"1\r\nx\r\n", b"0\r\n\r\n"),
    "response: small chunks at once": arriving(CHUNKED, b"1\r\nx\r\n", b"0\r\n\r\n", at_once=True),
    "response: one header again and again": arriving(b"HTTP/1.1 200 OK\r\n", b"a: b\r\n", b"\r\n", at_once=True),
    "models: a long list": listed_models,
}

# --- policies and the environment ---------------------------------------------------------------

SMALL = "backends: {b: {type: ollama}}\nroutes: [default: b]\n"


def load(text: str) -> None:
    ignoring(PolicyError, lambda given: policy.load(given, "p", Settings(), lambda _: ()))(text)


def lines(line: str, before: str = "", after: str = SMALL) -> Make:
    """A policy with so many lines; `%d` is the number of a line."""

    def make(size: int) -> Work:
        text = before + "".join(line.replace("%d", str(number)) + "\n" for number in range(size // 10)) + after
        return lambda: load(text)

    return make


BACKEND_LINES = "backends:\n  b: {type: ollama}\n"
ROUTES = "routes:\n  - default: b\n"
END = "  - default: b\n"
POLICIES: dict[str, Make] = {
    "policy: a key": of_text(lambda text: load(f"? {text}\n: 1\n{SMALL}"), "eyJaaaaaaaa-"),
    "policy: a value": of_text(lambda text: load(f"routs: {text}\n{SMALL}"), "eyJaaaaaaaa-"),
    "policy: a quoted value": of_text(lambda text: load(f"routs: '{text}'\n{SMALL}"), " \n"),
    "policy: escapes": of_text(lambda text: load(f'routs: "{text}"\n{SMALL}'), "\\x41"),
    "policy: brackets": of_text(load, "["),
    "policy: a name in a route": of_text(
        lambda text: load(f"backends: {{b: {{type: ollama}}}}\nroutes: [default: {text}]\n"), "x-"
    ),
    "policy: an endpoint": of_text(
        lambda text: load(f"backends: {{b: {{type: ollama, endpoint: 'http://{text}'}}}}\nroutes: [default: b]\n"), "a."
    ),
    "policy: a number": of_text(lambda text: load(f"x: 1{text}\n{SMALL}"), ":1"),
    "policy: a pattern": of_text(lambda text: load(f"sensitivity: {{patterns: ['{text}']}}\n{SMALL}"), "(a"),
    "policy: unknown keys": lines("key%d: 1"),
    "policy: one key again and again": lines("key: 1"),
    "policy: backends": lines("  b%d: {type: ollama}", BACKEND_LINES, ROUTES),
    "policy: routes": lines("  - {match: {task: code}, backend: b}", BACKEND_LINES + "routes:\n", END),
    "policy: routes of unknown names": lines(
        "  - {match: {task: code}, backend: c%d}", BACKEND_LINES + "routes:\n", END
    ),
    "policy: private routes": lines("  - {match: {sensitivity: high}, backend: b}", BACKEND_LINES + "routes:\n", END),
    "policy: aliases": lines("  a%d: b", "aliases:\n"),
    "policy: aliases of nothing": lines("  a%d: c%d", "aliases:\n"),
    "policy: candidates": lines("    c%d: b", "ab:\n  candidates:\n"),
    "policy: patterns": lines("  - 'customer %d'", "sensitivity:\n patterns:\n"),
    "policy: comments": lines("# comment %d"),
    "policy: aliases of YAML": lines("a%d: &a%d [*n, *n]", "n: &n x\n"),
    "environment: unknown variables": lambda size: of_environ({f"LLR_{number}": "x" for number in range(size // 4)}),
    "environment: a long name": of_text(lambda text: of_environ({f"LLR_{text}": "x"})(), "PORT"),
    "environment: a long number": of_text(lambda text: of_environ({"LLR_PORT": text})(), "1"),
    "environment: many keys": of_text(lambda text: of_environ({"LLR_API_KEYS": text})(), "k,"),
    "environment: a database": of_text(settings.database_problem, "://@"),
    "terminal: a long cell": of_text(lambda text: table(("a", "b"), [(text, "x")], 80), "a/"),
    "terminal: a cell of words": of_text(lambda text: table(("a", "b"), [(text, "x")], 80), "a "),
    "terminal: many rows": lambda size: (
        lambda: table(("a", "b"), [(number, "x" * 90) for number in range(size // 10)], 80)
    ),
    "terminal: a long text": of_text(lambda text: folded("a", text, 12), "a, "),
}


def of_environ(variables: dict[str, str]) -> Work:
    return lambda: ignoring(PolicyError, settings.load)(variables)


ALL = {**CLIENTS, **BACKENDS, **POLICIES}


def steps(work: Work) -> int:
    """How many functions `work` calls, ours and those in C, and how many lines it runs."""
    count = 0

    def line(_frame: Any, event: str, _argument: Any) -> Any:
        nonlocal count
        count += event == "line"
        return line

    def call_in_c(_frame: Any, event: str, _argument: Any) -> None:
        nonlocal count
        count += event == "c_call"

    sys.settrace(line)
    sys.setprofile(call_in_c)
    try:
        work()
    finally:
        sys.setprofile(None)
        sys.settrace(None)
    return count


@pytest.mark.parametrize("name", ALL)
def test_steps_are_linear(name: str) -> None:
    make = ALL[name]
    make(SIZE)()  # what is made once is made
    once, twice, four = (steps(make(SIZE * times)) for times in (1, 2, 4))
    assert twice <= 2 * 1.3 * once + 1000, (once, twice, four)
    assert four <= 4 * 1.3 * once + 1000, (once, twice, four)


@pytest.mark.parametrize("name", ALL)
def test_cpu_time_is_linear(name: str) -> None:
    most = MOST_ERROR_BYTES if name in BACKENDS else 32_000
    assert not (problem := problem_of(ALL[name], SIZE, most)), problem


def test_what_is_quadratic_is_caught() -> None:
    def loops(size: int) -> Work:
        return lambda: [sum(1 for other in range(size // 20) if other == one) for one in range(size // 20)]

    def in_c(size: int) -> Work:
        entries = list(range(size))
        return lambda: [entry in entries for entry in entries]

    once, four = (steps(loops(SIZE * times)) for times in (1, 4))
    assert four > 4 * 1.3 * once + 1000
    assert problem_of(in_c, SIZE, 32_000)
