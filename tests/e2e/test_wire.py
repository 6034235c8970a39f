"""What servers send that is not quite OpenAI's: errors in many forms, labels that lie, ends that are none.  Chat and
Responses clients of the running router get an answer from elsewhere, or an honest end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.server import Answer, content, parse_events
from tests.e2e.stage import Stage
from tests.fakes.replies import DONE, Play, Step, completion, delta, error, event, reply, sse
from tests.fakes.upstream import Received

pytestmark = pytest.mark.e2e


def named(document: Any) -> bytes:
    return b"event: error\n" + event(document)


NO_ERRORS = {"error": None, "detail": "x", "code": 7, "message": "m"}
EARLY_ERRORS: dict[str, bytes] = {
    "object_error": event({"object": "error", "message": "oom", "code": 500}),
    "type_error": event({"type": "error", "error": {"message": "oom"}}),
    "detail": event({"detail": "oom"}),
    "event_error": named({"code": 13, "details": "oom"}),
    "event_error_text": b"event: error\ndata: oom\n\n",
    "error_line": b'error: {"code":500,"message":"oom"}\n\n',
    "given_up": event(delta(finish="error")),
    "aborted": event(delta(finish="abort")) + DONE,
}
WHOLE_ERRORS: dict[str, Any] = {
    "whole_object_error": {"object": "error", "message": "oom", "code": 500},
    "whole_detail": {"detail": "oom"},
    "whole_code": {"code": 13, "message": "oom"},
    "whole_given_up": {"choices": [{"index": 0, "message": {"content": "a"}, "finish_reason": "error"}]},
    "no_choices": {"choices": None},
}
FALLS_BACK: dict[str, list[Step]] = {
    **{f"first_{name}": sse(raw, finish=False) for name, raw in EARLY_ERRORS.items()},
    **{name: reply(200, document) for name, document in WHOLE_ERRORS.items()},
    "no_balance": error(402, "Insufficient Balance"),
}
# Behind the first piece of an answer: what the chat client reads of it, and what is said.
LATE_ERRORS: dict[str, tuple[bytes, bytes, str]] = {
    "object_error": (EARLY_ERRORS["object_error"], b"", "oom"),
    "detail": (EARLY_ERRORS["detail"], b"", "oom"),
    "event_error": (EARLY_ERRORS["event_error"], b"", "oom"),
    "event_error_text": (EARLY_ERRORS["event_error_text"], b"", "oom"),
    "error_line": (EARLY_ERRORS["error_line"] + DONE, b"", "oom"),
    "error_then_done": (event({"error": {"message": "oom"}}) + DONE, b"", "oom"),
    "given_up": (event(delta(finish="error")) + DONE, event(delta(finish="error")), "finish_reason 'error'"),
    "resources": (
        event(delta(finish="insufficient_system_resource")),
        event(delta(finish="insufficient_system_resource")),
        "insufficient_system_resource",
    ),
    "empty_reasons": (event(delta("!", finish="")), event(delta("!", finish="")), "before the answer was complete"),
}
ANSWER = event(delta("said")) + event(delta(finish="stop")) + DONE
FINE: dict[str, list[Step]] = {
    "sse_named_json": reply(200, ANSWER),
    "sse_named_json_with_comment": reply(200, b": hi\n\n" + ANSWER),
    "sse_named_json_with_mark": reply(200, b"\xef\xbb\xbf" + ANSWER),
    "sse_named_html": reply(200, ANSWER, content_type="text/html"),
    "sse_named_text": reply(200, ANSWER, content_type="text/plain"),
    "sse_named_nothing": reply(200, ANSWER, content_type=None),
    "json_named_sse": reply(200, completion("said"), content_type="text/event-stream"),
    "json_named_nothing": reply(200, completion("said"), content_type=None),
    "json_behind_space": reply(200, b" \n" + json.dumps(completion("said")).encode(), content_type="text/event-stream"),
    "sse_behind_space": reply(200, b"\n\n" + ANSWER),
    "no_errors": sse("said", {**delta(""), **NO_ERRORS}),
    "empty_reasons_then_done": sse(event(delta("said", finish="")), DONE, finish=False),
}
LATE = {f"late_{name}": sse("a", 0.3, raw, finish=False) for name, (raw, _, _) in LATE_ERRORS.items()}
SCENES = {**FALLS_BACK, **FINE, **LATE}
REFUSED = {
    "refused_limit": (
        {"max_completion_tokens": 5},
        "Unsupported parameter: 'max_completion_tokens'",
        {"max_tokens": 5},
    ),
    "refused_effort": ({"reasoning_effort": "low"}, '"m" does not support thinking', {}),
}
OVERFLOW = {
    "code": 400,
    "message": "quoted: request (5024 tokens) exceeds the available context size (4096 tokens)",
    "type": "exceed_context_size_error",
    "n_prompt_tokens": 5024,
    "n_ctx": 4096,
}


def overflow_with_200(request: Received) -> list[Step]:
    document = {"error": OVERFLOW}
    return sse(event(document), finish=False) if request.json.get("stream") else reply(200, document)


CANNOT_SERVE: dict[str, tuple[Play, str]] = {
    "overflow_llamacpp": (reply(400, {"error": OVERFLOW}), "context_length_exceeded"),
    "overflow_with_200": (overflow_with_200, "context_length_exceeded"),
    "overflow_vllm": (
        error(400, "quoted: the prompt (length 9) is longer than the maximum model length of 8", code="400"),
        "context_length_exceeded",
    ),
    "lacks_tools": (error(400, "quoted: m does not support tools"), "unsupported_by_models"),
    "lacks_vision": (error(400, "quoted: m is not a multimodal model"), "unsupported_by_models"),
}
DIALECTS: dict[str, dict[str, Any]] = {"speaks_ollama": {}, **{name: {"type": "vllm"} for name in REFUSED}}


def staged(folder: Path, *, native: bool) -> Stage:
    return Stage(folder, {**{name: {} for name in (*SCENES, *CANNOT_SERVE)}, **DIALECTS}, native=native)


def scripted(stage: Stage) -> Stage:
    for name, steps in SCENES.items():
        stage.up.script(steps, path=stage.path(name), repeat=True)
    return stage


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with staged(tmp_path_factory.mktemp("wire"), native=False) as made:
        yield scripted(made)


@pytest.fixture(scope="module")
def native_stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """The same backends, asked over Ollama's own API."""
    with staged(tmp_path_factory.mktemp("native"), native=True) as made:
        yield scripted(made)


@pytest.fixture(params=["stage", "native_stage"])
def each_stage(request: pytest.FixtureRequest) -> Stage:
    made: Stage = request.getfixturevalue(request.param)
    return made


def responses(stage: Stage, name: str, *, alone: bool = False, stream: bool) -> Answer:
    body = {"model": name if alone else "auto", "input": stage.prompt(name), "stream": stream}
    return stage.router.post("/v1/responses", body)


def said(answer: Answer, *, stream: bool) -> str:
    """The text of a Responses answer."""
    document = parse_events(answer.body)[-2]["response"] if stream else answer.json
    return "".join(part["text"] for item in document["output"] for part in item["content"])


@pytest.mark.parametrize("name", FALLS_BACK)
def test_an_error_before_content_is_invisible(each_stage: Stage, name: str) -> None:
    stage = each_stage
    streaming = name.startswith("first_")
    for stream in (True, False) if not streaming else (True,):
        answer = stage.ask(name, stream=stream)
        assert (answer.status, answer.headers["X-LLR-Fallback-For"]) == (200, name)
        assert (content(answer.events) if stream else answer.text) == "from spare"
        translated = responses(stage, name, stream=stream)
        assert (translated.status, said(translated, stream=stream)) == (200, "from spare")
        outcomes = [(row["backend"], row["outcome"]) for row in stage.rows(answer, 2)]
        assert outcomes == [(name, "error"), ("spare", "ok")]


@pytest.mark.parametrize("name", FINE)
def test_what_is_fine_is_taken_for_fine(stage: Stage, name: str) -> None:
    answer = stage.ask(name, stream=True)
    assert (answer.status, answer.headers["X-LLR-Fallback-For"]) == (200, None)
    events = parse_events(answer.body.removeprefix(b"\xef\xbb\xbf"))
    assert (content(events), events[-1]) == ("said", "[DONE]")
    assert stage.only_row(answer)["outcome"] == "ok"
    translated = responses(stage, name, stream=True)
    assert said(translated, stream=True) == "said"
    assert parse_events(translated.body)[-2]["type"] == "response.completed"


@pytest.mark.parametrize("name", LATE_ERRORS)
def test_an_error_behind_content_is_told_once(each_stage: Stage, name: str) -> None:
    stage = each_stage
    _, shown, message = LATE_ERRORS[name]
    answer = stage.ask(f"late_{name}", stream=True)
    assert b"[DONE]" not in answer.body
    begun = event(delta("a")) + shown
    if stage.up.native:  # the router writes the events
        begun = answer.body[: answer.body.index(b'data: {"error"')]
        assert content(parse_events(begun)) == content(parse_events(event(delta("a")) + shown))
    assert answer.body.startswith(begun)
    (problem,) = parse_events(answer.body[len(begun) :])
    assert set(problem) == {"error"} and {"message"} <= set(problem["error"])
    assert message in problem["error"]["message"]
    assert stage.only_row(answer)["outcome"] == "error"
    events = parse_events(responses(stage, f"late_{name}", stream=True).body)
    assert [each["type"] for each in events[-3:-1]] == ["error", "response.failed"]
    assert [each.get("type") for each in events if isinstance(each, dict)].count("error") == 1
    assert message in events[-3]["message"] or "gave its answer up" in events[-3]["message"] or name == "empty_reasons"


def test_no_balance_is_no_mistake_of_the_client(stage: Stage) -> None:
    answer = stage.ask("no_balance", alone=True)
    assert answer.status == 502
    assert "402" in answer.error["message"] and "balance" in answer.error["message"]
    assert stage.only_row(answer)["error"] == "http_402"


# --- dialects ------------------------------------------------------------------------------------


def test_a_server_gets_the_words_that_it_reads(stage: Stage) -> None:
    members = {"max_completion_tokens": 5, "reasoning_effort": "minimal", "x_new": [1]}
    turns = [{"role": "developer", "content": "d"}, {"role": "user", "content": stage.prompt("speaks_ollama")}]
    answer = stage.router.post("/v1/chat/completions", {"model": "speaks_ollama", "messages": turns, **members})
    assert answer.status == 200
    (sent,) = stage.calls("speaks_ollama")
    assert sent.json == {
        "model": "m",
        "messages": [{"role": "system", "content": "d"}, turns[1]],
        "max_tokens": 5,
        "reasoning_effort": "low",
        "x_new": [1],
    }


@pytest.mark.parametrize("stream", [False, True], ids=["buffered", "streaming"])
@pytest.mark.parametrize("name", REFUSED)
def test_a_word_that_a_server_refuses_is_left_out(stage: Stage, name: str, stream: bool) -> None:
    members, words, instead = REFUSED[name]
    before = len(stage.calls(name))
    fine = sse("said") if stream else reply(200, completion("said"))
    stage.up.script(error(400, words, type="invalid_request_error"), fine, path=stage.path(name))
    answer = stage.ask(name, stream=stream, **members)
    assert (content(answer.events) if stream else answer.text) == "said"
    first, second = stage.calls(name)[before:]
    rest = {key: value for key, value in first.json.items() if key not in members}
    assert (first.json, second.json) == ({**rest, **members}, {**rest, **instead})
    assert stage.only_row(answer)["outcome"] == "ok"


def test_a_word_is_left_out_once(stage: Stage) -> None:
    members, words, _ = REFUSED["refused_effort"]
    before = len(stage.calls("refused_effort"))
    refusal = error(400, words, type="invalid_request_error")
    stage.up.script(refusal, refusal, path=stage.path("refused_effort"))
    answer = stage.ask("refused_effort", alone=True, **members)
    assert (answer.status, answer.error["message"]) == (400, words)
    assert len(stage.calls("refused_effort")) == before + 2
    stage.up.script(refusal, refusal, path=stage.path("refused_effort"))
    assert stage.ask("refused_effort", **members).text == "from spare"
    assert len(stage.calls("refused_effort")) == before + 4


def test_a_mistake_that_no_server_takes_is_refused_before_anything_is_called(stage: Stage) -> None:
    before = len(stage.up.requests)
    wanted = {"type": "json_schema", "json_schema": {"name": "n", "schema": '{"type": "object"}'}}
    for members, param in (
        ({"response_format": wanted}, "response_format.json_schema.schema"),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": "{}"}}]},
            "tools[0].function.parameters",
        ),
        ({"messages": [{"role": "user", "content": "x"}, {"content": "y"}]}, "messages[1].role"),
    ):
        answer = stage.router.post(
            "/v1/chat/completions", {"model": "auto", "messages": [{"role": "user", "content": "x"}], **members}
        )
        assert (answer.status, answer.error["param"], answer.error["type"]) == (400, param, "invalid_request_error")
    for name in ("conversation", "prompt"):
        answer = stage.router.post("/v1/responses", {"model": "auto", "input": "x", name: {"id": "x"}})
        assert (answer.status, answer.error["param"]) == (400, name)
    assert len(stage.up.requests) == before


# --- refusals by a model that cannot serve the request -------------------------------------------


@pytest.mark.parametrize("stream", [False, True], ids=["buffered", "streaming"])
@pytest.mark.parametrize("name", CANNOT_SERVE)
def test_another_model_is_asked(each_stage: Stage, name: str, stream: bool) -> None:
    stage = each_stage
    refusal, _ = CANNOT_SERVE[name]
    stage.up.script(refusal, refusal, path=stage.path(name))
    answer = stage.ask(name, stream=stream)
    assert (content(answer.events) if stream else answer.text) == "from spare"
    outcomes = [(row["backend"], row["outcome"], row["error"]) for row in stage.rows(answer, 2)]
    assert outcomes[0][:2] == (name, "error") and outcomes[0][2] in ("too_long", "unsupported")
    assert outcomes[1][:2] == ("spare", "ok")
    translated = responses(stage, name, stream=stream)
    assert said(translated, stream=stream) == "from spare"


@pytest.mark.parametrize("stream", [False, True], ids=["buffered", "streaming"])
@pytest.mark.parametrize("name", CANNOT_SERVE)
def test_with_no_other_model_the_code_says_why(each_stage: Stage, name: str, stream: bool) -> None:
    stage = each_stage
    refusal, code = CANNOT_SERVE[name]
    stage.up.script(refusal, refusal, refusal, path=stage.path(name))
    plain = stage.ask(name, alone=True, stream=stream)
    translated = responses(stage, name, alone=True, stream=stream)
    private = stage.ask(name, alone=True, stream=stream, headers={"X-LLR-Sensitivity": "high"})
    for answer in (plain, translated, private):
        assert answer.status == 400
        error = answer.json["error"]
        assert (error["code"], error["type"]) == (code, "invalid_request_error")
        assert ("quoted" in error["message"]) == (answer is not private)
        assert answer.headers["x-should-retry"] == "false"
