"""Chat bodies: sent on byte for byte but for `model`, and refused with the field's name."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import RequestError
from app.types import Dialect
from app.wire.chat import request as chat
from app.wire.chat.reply import usage_of
from app.wire.json_body import MOST_TOKENS, read_object

MESSAGES = '"messages":[{"role":"user","content":"x"}]'


def sent(raw: str | bytes, model: str = "m2", *, stream: bool | None = None) -> str:
    """What goes to a backend for a body that came in."""
    body = chat.parse(raw.encode() if isinstance(raw, str) else raw)
    wanted = bool(body.chat.get("stream")) if stream is None else stream
    return body.encode(model, Dialect(), stream=wanted).decode("utf-8")


# --- what passes through ------------------------------------------------------------------------

UNTOUCHED = {
    "integers beyond 64 bits": '{"model":"MODEL",' + MESSAGES + ',"seed":123456789012345678901234567890}',
    "numbers as they are written": '{"model":"MODEL",' + MESSAGES + ',"t":1.0,"u":1e400,"v":-0.0,"w":1E+2}',
    "many digits": '{"model":"MODEL",' + MESSAGES + ',"n":' + "7" * 4000 + "}",
    "repeated members": '{"model":"MODEL",' + MESSAGES + ',"a":1,"a":2,"b":{"c":1,"c":2}}',
    "escapes as they are written": '{"model":"MODEL","messages":[{"role":"user","content":"\\u00e4\\/\\n\\u0041é"}]}',
    "lone surrogates": '{"model":"MODEL","messages":[{"role":"user","content":"\\ud800 \\udfff"}]}',
    "emoji, plain and escaped": '{"model":"MODEL","messages":[{"role":"user","content":"😀\\ud83d\\ude00"}]}',
    "members nobody knows": '{"model":"MODEL","x_new":{"deep":[{}]},' + MESSAGES + ',"":null,"ключ":true}',
    "white space": '  {\r\n\t"model" :  "MODEL" ,\n "messages" : [ { "role":"user" , "content":"x" } ] \n}\n\n ',
    "model last": "{" + MESSAGES + ',"model":"MODEL"}',
    "a nested model stays": '{"model":"MODEL",' + MESSAGES + ',"metadata":{"model":"mine","stream":true}}',
    "a key that holds quotes": '{"model":"MODEL",' + MESSAGES + ',"a\\"model\\":":"x"}',
    "text that looks like a member": '{"model":"MODEL","messages":[{"role":"user","content":"\\"model\\":\\"y\\",{"}]}',
}


@pytest.mark.parametrize("text", UNTOUCHED.values(), ids=UNTOUCHED)
def test_every_byte_but_the_models_name_passes(text: str) -> None:
    assert sent(text.replace("MODEL", "auto"), "llama3:8b") == text.replace("MODEL", "llama3:8b")


@pytest.mark.parametrize(
    "text, becomes",
    [
        ("{" + MESSAGES + "}", '{"model":"m2",' + MESSAGES + "}"),
        (" \n{ " + MESSAGES + " }", ' \n{"model":"m2", ' + MESSAGES + " }"),
        ('{"model":null,' + MESSAGES + "}", '{"model":"m2",' + MESSAGES + "}"),
        ('{"model":"a",' + MESSAGES + ',"model":"b"}', '{"model":"m2",' + MESSAGES + ',"model":"m2"}'),
        ('{"mod\\u0065l":"a",' + MESSAGES + "}", '{"mod\\u0065l":"m2",' + MESSAGES + "}"),
        ('{"Model":"a",' + MESSAGES + "}", '{"model":"m2","Model":"m2",' + MESSAGES + "}"),
        ('{"model":"a",' + MESSAGES + ',"stream":true}', '{"model":"m2",' + MESSAGES + ',"stream":true}'),
    ],
    ids=["absent", "absent behind space", "null", "twice", "escaped name", "other case", "stream stays"],
)
def test_the_model_is_replaced_wherever_it_stands(text: str, becomes: str) -> None:
    assert sent(text) == becomes


def test_a_byte_order_mark_is_taken_off() -> None:
    assert sent(b"\xef\xbb\xbf{" + MESSAGES.encode() + b"}") == '{"model":"m2",' + MESSAGES + "}"


def test_the_model_is_written_as_json() -> None:
    assert sent("{" + MESSAGES + "}", 'a"\\b\né😀') == '{"model":"a\\"\\\\b\\n\\u00e9\\ud83d\\ude00",' + MESSAGES + "}"


@pytest.mark.parametrize(
    "text, becomes",
    [
        ('{"model":"a","stream":true,' + MESSAGES + "}", '{"model":"m2","stream":false,' + MESSAGES + "}"),
        (
            '{"stream":true,"stream_options":{"include_usage":true},' + MESSAGES + "}",
            '{"model":"m2","stream":false,"stream_options":null,' + MESSAGES + "}",
        ),
        (
            '{"stream":true,"stream":true,' + MESSAGES + "}",
            '{"model":"m2","stream":false,"stream":false,' + MESSAGES + "}",
        ),
        ('{"model":"a","stream":false,' + MESSAGES + "}", '{"model":"m2","stream":false,' + MESSAGES + "}"),
        ('{"model":"a",' + MESSAGES + "}", '{"model":"m2",' + MESSAGES + "}"),
    ],
)
def test_a_mirrored_call_does_not_stream(text: str, becomes: str) -> None:
    assert sent(text, stream=False) == becomes


_SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
_TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
_JSON = st.recursive(
    _SCALARS | _TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXT, inner, max_size=4),
    max_leaves=12,
)
_OBJECTS = st.dictionaries(_TEXT | st.sampled_from(["model", "stream", "n"]), _JSON, max_size=5)


@given(
    document=_OBJECTS,
    indent=st.sampled_from([None, 0, 2, "\t"]),
    ascii_only=st.booleans(),
    before=st.text(" \t\r\n", max_size=3),
    after=st.text(" \t\r\n", max_size=3),
    model=_TEXT,
)
def test_any_json_object_survives(
    document: dict[str, Any], indent: Any, ascii_only: bool, before: str, after: str, model: str
) -> None:
    text = before + json.dumps(document, indent=indent, ensure_ascii=ascii_only) + after
    body = read_object(text.encode())
    assert body.document == document
    assert body.with_members({}) == text.encode()
    names = [name for name, _, _ in body.spans]
    assert names == list(document)
    assert [json.loads(body.text[start:end]) for _, start, end in body.spans] == list(document.values())
    replaced = body.with_members({"model": json.dumps(model)})
    assert json.loads(replaced) == {**document, "model": model}
    if "model" in document:  # then nothing else moved
        _, start, end = body.spans[names.index("model")]
        assert replaced.decode() == text[:start] + json.dumps(model) + text[end:]


@given(st.binary(max_size=40) | st.text('{}[]":,0123-.eE tfn\\u', max_size=30).map(str.encode))
def test_garbage_is_an_object_or_a_refusal(raw: bytes) -> None:
    """Exactly what the standard library takes for an object is taken here."""
    try:
        wanted = json.loads(raw.decode("utf-8-sig"), parse_constant=lambda _: 1 / 0)
        is_object = isinstance(wanted, dict)
    except (ValueError, ZeroDivisionError):
        is_object = False
    if is_object:
        assert read_object(raw).document == wanted
    else:
        with pytest.raises(RequestError):
            read_object(raw)


# --- what is refused ----------------------------------------------------------------------------

NOT_JSON = [
    (b"", "The request body is empty; send a JSON object."),
    (b"  ", "The request body is not valid JSON: Expecting value at character 2."),
    (b"hello", "The request body is not valid JSON: Expecting value at character 0."),
    (b"[]", "The request body is not valid JSON: The top level must be an object at character 0."),
    (b'"secret"', "The request body is not valid JSON: The top level must be an object at character 0."),
    (b"null", "The request body is not valid JSON: The top level must be an object at character 0."),
    (b"{", "The request body is not valid JSON: Expecting value at character 1."),
    (b'{"a":1', "The request body is not valid JSON: Expecting ',' at character 6."),
    (b'{"a":1,}', "The request body is not valid JSON: Expecting value at character 7."),
    (b'{"a" 1}', "The request body is not valid JSON: Expecting ':' at character 5."),
    (b'{"a":1 "b":2}', "The request body is not valid JSON: Expecting ',' at character 7."),
    (b"{1:2}", "The request body is not valid JSON: Expecting a member name in double quotes at character 1."),
    (b"{'a':1}", "The request body is not valid JSON: Expecting value at character 1."),
    (b'{"a":1}{"b":2}', "The request body is not valid JSON: Extra text at character 7."),
    (b'{"a":1} x', "The request body is not valid JSON: Extra text at character 8."),
    (b'{"a":NaN}', "The request body is not valid JSON: NaN is not JSON."),
    (b'{"a":[-Infinity]}', "The request body is not valid JSON: -Infinity is not JSON."),
    (b'{"a":"\x01"}', "The request body is not valid JSON: Invalid control character at at character 6."),
    (b'{"a":"\\x"}', "The request body is not valid JSON: Invalid \\escape at character 6."),
    (b'{"a":"\xff"}', "The request body is not UTF-8 (byte 6)."),
    (b'{"a":"\xed\xa0\x80"}', "The request body is not UTF-8 (byte 6)."),
    ('{"a":1}'.encode("utf-16"), "The request body is not UTF-8 (byte 0)."),
    (b'{"a":' + b"[" * 100_000, "The request body is nested too deeply."),
    (b'{"a":' + b'{"a":' * 100_000, "The request body is nested too deeply."),
]


@pytest.mark.parametrize("raw, said", NOT_JSON, ids=[str(raw[:20]) for raw, _ in NOT_JSON])
def test_what_is_no_json_object_is_refused_without_a_word_of_it(raw: bytes, said: str) -> None:
    with pytest.raises(RequestError) as caught:
        read_object(raw)
    assert (caught.value.status, caught.value.message) == (400, said)


def test_an_integer_too_long_for_python_is_refused_without_a_word_of_it() -> None:
    with pytest.raises(RequestError) as caught:
        read_object(b'{"a":' + b"7" * 5000 + b"}")
    assert caught.value.status == 400
    assert "777" not in caught.value.message


FUNCTION = {"type": "function", "function": {"name": "f"}}
ODD = (True, 5, 1.5, "x", ["x"], [["x"]])  # kinds that are neither null nor an object


def options(**members: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "x"}], **members}


def schema(value: Any) -> dict[str, Any]:
    return options(response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": value}})


REFUSED = [
    ({}, "messages", "`messages` must be a non-empty array of objects."),
    ({"messages": []}, "messages", "`messages` must be a non-empty array of objects."),
    ({"messages": None}, "messages", "`messages` must be a non-empty array of objects."),
    ({"messages": {"role": "user"}}, "messages", "`messages` must be a non-empty array of objects."),
    ({"messages": "hi"}, "messages", "`messages` must be a non-empty array of objects."),
    ({"messages": ["hi"]}, "messages[0]", "`messages[0]` must be an object."),
    ({"messages": [{"role": "user", "content": "x"}, None]}, "messages[1]", "`messages[1]` must be an object."),
    *[
        ({"messages": [{"role": "user", **content}]}, "messages[0].content", None)
        for content in (
            {}, {"content": None}, {"content": 1}, {"content": {}}, {"content": ["x"]}, {"content": [{}, 3]},
            {"content": True},
        )
    ],
    ({"messages": [{"role": "assistant", "content": 1}]}, "messages[0].content", None),
    *[
        ({"messages": [{"role": "user", "content": "x"}, {"content": "x", **role}]}, "messages[1].role",
         "`messages[1].role` must be a string that is not empty.")
        for role in ({}, *({"role": odd} for odd in (None, "", " ", {}, [], *ODD) if odd != "x"))
    ],
    *[
        ({"messages": [{"role": "tool", "content": "x", name: odd}]}, f"messages[0].{name}",
         f"`messages[0].{name}` must be a string.")
        for name in ("name", "tool_call_id") for odd in (*ODD, {}) if odd != "x"
    ],
    *[
        (make(odd), f"{where}{place}", f"`{where}{place}` must be {kind}.")
        for where, make in (
            ("tools", lambda value: options(tools=value)),
            ("messages[0].tool_calls", lambda value: {"messages": [{"role": "assistant", "tool_calls": value}]}),
        )
        for odd, place, kind in (
            *((value, "", "an array of objects") for value in (True, 5, "x", {}, {"type": "function"})),
            *(([FUNCTION, value], "[1]", "an object") for value in (None, *ODD)),
            *(([{**FUNCTION, "function": value}], "[0].function", "an object") for value in ODD),
            *(([{"function": {"name": value}}], "[0].function.name", "a string") for value in (True, 5, [], {})),
        )
    ],
    *[
        (options(tools=[FUNCTION, {"type": "function", "function": {"name": "g", "parameters": odd}}]),
         "tools[1].function.parameters", "`tools[1].function.parameters` must be an object.")
        for odd in ODD if odd is not True
    ],
    *[
        (schema(odd), "response_format.json_schema.schema", "`response_format.json_schema.schema` must be an object.")
        for odd in ODD if odd is not True
    ],
    *[
        (options(tools=[{"function": {"name": "f", "description": odd}}]), "tools[0].function.description",
         "`tools[0].function.description` must be a string.")
        for odd in (True, 5, [], {})
    ],
    *[
        ({"messages": [{"role": "user", "content": [{"type": "x"}, {"type": "text", **part}]}]},
         "messages[0].content[1].text", "`messages[0].content[1].text` must be a string.")
        for part in ({}, {"text": None}, {"text": 5}, {"text": ["x"]}, {"text": {}})
    ],
    *[
        (options(stop=odd), "stop", "`stop` must be a string or an array of strings.")
        for odd in ([1], ["a", None], [["a"]], [{}], [True])
    ],
    ({"messages": [{"role": "user", "content": "x"}], "stream": 1}, "stream", "`stream` must be true or false."),
    ({"messages": [{"role": "user", "content": "x"}], "stream": "true"}, "stream", "`stream` must be true or false."),
    ({"messages": [{"role": "user", "content": "x"}], "model": 4}, "model", "`model` must be a string."),
    ({"messages": [{"role": "user", "content": "x"}], "model": ["gpt"]}, "model", "`model` must be a string."),
]  # fmt: skip


@pytest.mark.parametrize("document, param, said", REFUSED, ids=[str(document)[:60] for document, _, _ in REFUSED])
def test_a_wrong_body_is_refused_with_the_fields_name(document: Any, param: str, said: str | None) -> None:
    with pytest.raises(RequestError) as caught:
        chat.parse(json.dumps(document).encode())
    assert (caught.value.status, caught.value.type, caught.value.param) == (400, "invalid_request_error", param)
    assert caught.value.message == (said or f"`{param}` must be a string or an array of parts.")


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": ""},
        {"role": "user", "content": []},
        {"role": "user", "content": [{"type": "text", "text": "x"}, {"type": "new"}]},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
        {"role": "assistant", "tool_calls": []},
        {"role": "tool", "content": "x", "tool_call_id": "1"},
        {"role": "someone", "content": "x"},
        {"role": "assistant", "tool_calls": None, "name": None},
        {"role": "assistant", "tool_calls": [{"type": "custom", "custom": {"name": "p", "input": 3}}]},
        {"role": "assistant", "tool_calls": [{"id": 3, "function": None}, {"function": {"arguments": {"a": 1}}}]},
    ],
)
def test_legal_messages(message: dict[str, Any]) -> None:
    assert chat.parse(json.dumps({"messages": [message]}).encode()).chat["messages"] == [message]


@pytest.mark.parametrize(
    "members",
    [
        {"tools": None},
        {"tools": []},
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": None}}]},
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]},
        {"tools": [{"type": "web_search"}, {"type": "custom", "custom": {"name": "p"}}]},
        {"stop": None},
        {"stop": "x"},
        {"stop": ["x", "y"]},
        {"stop": 5},  # Ollama and llama.cpp take it for none
        {"response_format": None},
        {"response_format": "json"},  # llama.cpp takes it for none
        {"response_format": {"type": "json_object", "schema": "x"}},
        {"response_format": {"type": "text", "json_schema": {"schema": "x"}}},
        {"response_format": {"type": "json_schema", "json_schema": None}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": True}}},
        {"temperature": "hot", "max_tokens": "many", "tool_choice": 7, "reasoning_effort": 3},
    ],
    ids=str,
)
def test_what_some_server_takes_passes(members: dict[str, Any]) -> None:
    raw = json.dumps(options(model="auto", **members))
    assert sent(raw) == raw.replace('"auto"', '"m2"')


@pytest.mark.parametrize(
    "document, model",
    [({}, ""), ({"model": None}, ""), ({"model": ""}, ""), ({"model": "  a b \n"}, "a b"), ({"model": "x"}, "x")],
)
def test_the_model_asked_for(document: dict[str, Any], model: str) -> None:
    assert chat.model_of(document) == model


@pytest.mark.parametrize(
    "usage, counts",
    [
        ({"prompt_tokens": 3, "completion_tokens": 5}, (3, 5)),
        ({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 9}, (0, 0)),
        ({"prompt_tokens": 3}, (3, None)),
        ({"prompt_tokens": "3", "completion_tokens": 5.0}, (None, None)),
        ({"prompt_tokens": True, "completion_tokens": -1}, (None, None)),
        ({"prompt_tokens": 10**400, "completion_tokens": 2**31}, (None, None)),
        (None, (None, None)),
        ([], (None, None)),
        ("many", (None, None)),
    ],
)
def test_usage_is_what_the_backend_says(usage: Any, counts: tuple[int | None, int | None]) -> None:
    assert usage_of({"usage": usage}) == counts
    assert usage_of({}) == (None, None)


def test_what_is_searched_for_private_text_is_the_whole_body() -> None:
    body = chat.parse(b'{"user":"me@example.com",' + MESSAGES.encode() + b"}")
    assert body.original == {"user": "me@example.com", "messages": [{"role": "user", "content": "x"}]}


def test_a_value_that_a_later_one_replaces_is_searched_too() -> None:
    """It is sent on all the same, and the backend may read the first."""
    body = chat.parse(b'{"messages":[{"role":"user","content":"secret","content":"x"}],"user":"a","user":"b"}')
    message = (("role", "user"), ("content", "secret"), ("content", "x"))
    assert body.original == (("messages", [message]), ("user", "a"), ("user", "b"))


@pytest.mark.parametrize(
    "text",
    [
        '{"a":1,"a":2,%s}',
        '{%s,"metadata":{"b":"secret","b":""}}',
        '{%s,"metadata":[{"c":[{"b":"secret","b":""}]}]}',
        '{%s,"metadata":{"\\u0062":"secret","b":""}}',
        '{%s,"metadata":{"b\\\\":"secret","b\\\\":""}}',
        '{%s,"a":{"b":"secret","b":""},"a":1}',
    ],
)
def test_a_repeated_name_is_noticed_at_any_depth(text: str) -> None:
    body = chat.parse((text % MESSAGES).encode())
    assert body.original == json.loads(body.json.text, object_pairs_hook=tuple)
    assert "secret" not in text or "secret" in repr(body.original)


def test_what_a_later_value_replaces_may_not_be_deep_either() -> None:
    body = chat.parse(b'{"a":' + b"[" * 900 + b"]" * 900 + b',"a":1,' + MESSAGES.encode() + b"}")
    with pytest.raises(RequestError, match="nested too deeply"):
        _ = call_deep(500, lambda: body.original)


def call_deep(levels: int, do: Any) -> Any:
    return do() if levels == 0 else call_deep(levels - 1, do)


@pytest.mark.parametrize("levels, fine", [(190, True), (210, False), (900, False), (100_000, False)])
def test_nesting_is_bounded_well_below_what_the_stack_holds(levels: int, fine: bool) -> None:
    for opening, closing in (("[", "]"), ('{"a":', "}")):
        raw = f'{{"metadata":{opening * levels}1{closing * levels},{MESSAGES}}}'.encode()
        if fine:
            assert chat.parse(raw).encode("m", Dialect(), stream=False)
        else:
            with pytest.raises(RequestError, match="nested too deeply"):
                chat.parse(raw)


@pytest.mark.parametrize(
    "messages, parts, fine", [(20_000, 0, True), (20_001, 0, False), (100, 19_900, True), (2, 19_999, False)]
)
def test_the_number_of_messages_and_parts_is_bounded(messages: int, parts: int, fine: bool) -> None:
    document = {"messages": [{"role": "user", "content": ""}] * (messages - 1)}
    document["messages"].append({"role": "user", "content": [{}] * parts})
    raw = json.dumps(document).encode()
    if fine:
        assert len(chat.parse(raw).chat["messages"]) == messages
    else:
        with pytest.raises(RequestError, match="more than 20000") as caught:
            chat.parse(raw)
        assert caught.value.param == "messages"


def test_the_number_of_members_is_bounded() -> None:
    raw = "{" + MESSAGES + "".join(f',"k{n}":0' for n in range(999)) + "}"
    assert chat.parse(raw.encode())
    with pytest.raises(RequestError, match="more than 1000 members"):
        chat.parse((raw[:-1] + ',"one":0}').encode())


@pytest.mark.parametrize("value", ["[]", "{}", '""', '"a\\"[,"', '"\\\\"', "[[[]]]", '{"a":1}', "1"])
def test_the_number_of_values_is_bounded(value: str) -> None:
    def body(count: int) -> bytes:
        return f'{{{MESSAGES},"metadata":{{"a":[{",".join([value] * count)}]}}}}'.encode()

    each = {"[[[]]]": 4, '{"a":1}': 3, "1": 1}.get(value, 2)  # tokens, the comma included
    assert chat.parse(body((MOST_TOKENS - 100) // each))
    with pytest.raises(RequestError, match=f"more than {MOST_TOKENS}"):
        chat.parse(body(MOST_TOKENS // each + 1))


@pytest.mark.parametrize("text", ["a,b\n", '{"a": [1, 2]}, ', '","', "\\", '\\"', ",[{"])
def test_a_text_may_hold_as_many_commas_as_it_likes(text: str) -> None:
    raw = json.dumps({"messages": [{"role": "user", "content": text * 400_000}]}).encode()
    assert chat.parse(raw).json.text == raw.decode()


def test_a_text_without_an_end_is_read_once() -> None:
    with pytest.raises(RequestError):
        chat.parse(b'{"messages": [' + b'"a",' * 300_000 + b'"' + b"[" * 1_000_000)


@pytest.mark.parametrize("name", ["Model", "MODEL", "mod\\u0065l", "mOdEl"])
def test_other_spellings_of_model_are_replaced_too(name: str) -> None:
    """Servers written in Go take them for `model`, and the last one counts: `x:cloud` would leave the machine."""
    raw = f'{{"model":"auto",{MESSAGES},"{name}":"x:cloud"}}'.encode()
    sent = chat.parse(raw).encode("llama3", Dialect(), stream=False)
    assert sent == raw.replace(b'"auto"', b'"llama3"').replace(b'"x:cloud"', b'"llama3"')


@pytest.mark.parametrize(
    "members, refused",
    [
        ('"stream":true,"stream":true', False),
        ('"stream":false,"Stream":null', False),
        ('"Stream":false', False),
        ('"stream":true,"stream":false', True),
        ('"stream":false,"stream":true', True),
        ('"stream":true,"stream":null', True),
        ('"stream":false,"Stream":true', True),
        ('"STREAM":true', True),
        ('"\\u017ftream":true', True),
    ],
)
def test_servers_agree_if_it_streams(members: str, refused: bool) -> None:
    raw = ("{" + MESSAGES + "," + members + "}").encode()
    if not refused:
        chat.parse(raw)
        return
    with pytest.raises(RequestError) as caught:
        chat.parse(raw)
    assert (caught.value.status, caught.value.param) == (400, "stream")
