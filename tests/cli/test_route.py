"""`flask route`: a prompt explained, and the tags of many."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from app import create_app
from app.routing.classify import classify_text
from tests.documents import ROOT

POLICY = """\
backends:
  echo: {type: echo}
routes:
  - match: {difficulty: {min: 0.1}}
    backend: echo
  - default: echo
complexity: {medium: 0.01, high: 0.15}
sensitivity: {detect: [email]}
"""
TAGS = ("task", "complexity", "sensitivity", "modality", "family", "tokens", "difficulty", "confidence")
TAGS += ("client", "tools", "purpose")


def flask(folder: Path, *arguments: str, text: bytes = b"", policy: str | None = POLICY) -> Result:
    """A command in a folder with that policy, or with none."""
    file = folder / "policy.yaml"
    if policy is not None:
        file.write_text(policy, "utf-8")
    environ = {"LLR_POLICY": str(file), "LLR_DB": str(folder / "metrics.db"), "FLASK_RUN_FROM_CLI": "true"}
    return create_app(environ).test_cli_runner().invoke(args=list(arguments), input=text)


def rows(done: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


# --- explain ------------------------------------------------------------------------------------


def test_explain_reads_at_a_glance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "500")  # narrower ones fold the lines
    lines = flask(tmp_path, "route", "explain", "Fix this Python function").stdout.splitlines()
    assert lines[0] == "task        code, confidence 1.00, runner-up web_search"
    assert lines[1].startswith("            tech words (python) +2.6, code noun words (function) +2.5, code noun")
    assert lines[1].endswith(", demonstrative words (this) -0.4")
    assert lines[2] == "complexity  medium, difficulty 0.13"
    assert lines[3] == "            code +1.0, size -1.2"
    sender = "client=other  tools=false  purpose=interactive"
    text = "modality=text  family=qwen-coder  tokens=10"
    assert lines[4] == f"tags        sensitivity=normal  {text}  {sender}"
    assert lines[5:7] == ["route       difficulty=0.1..", "targets     echo/echo"]
    assert lines[7] == "  match     difficulty=0.1..: yes"


WIDE = """\
backends:
  local: {type: ollama, models: ["llama3.1:8b"], p50Ms: 1800, price: {input: 0, output: 0}}
  frontier: {type: openai, model: gpt-4o, price: {input: 2.5, output: 10}}
  sarmalink: {type: sarmalink}
routes:
  - match: {sensitivity: high}
    backend: local
  - default: local
    fallback: frontier
ab: {enabled: true, sampleRate: 0.05, candidates: {local: frontier}}
"""


def test_explain_says_what_would_be_sent_in_80_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = flask(tmp_path, "route", "explain", "hello", policy=WIDE).stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[lines.index("  model     frontier: gpt-4o") + 1 :] == [
        "first       local/llama3.1:8b, local, about 1.8 s (p50Ms), free",
        "            POST http://localhost:11434/v1/chat/completions",
        "            74 bytes, unchanged except for the model; no key",
        "then        frontier/gpt-4o, NOT LOCAL, time unknown, $0.000015 in, $10.00 per",
        "            1M tokens out",
        "            POST https://api.openai.com/v1/chat/completions",
        "            69 bytes, unchanged except for the model; OPENAI_API_KEY is not set:",
        "            the call would fail",
        "beside      frontier/gpt-4o, NOT LOCAL: 5 % of what local answers, for the A/B",
        "            trial",
        "never       sarmalink: the route default does not name it",
    ]
    private = flask(tmp_path, "route", "explain", "--sensitivity", "high", "hello", policy=WIDE).stdout
    assert private.endswith("never       frontier, sarmalink: the request is private and it is not local\n")


def test_explain_logs_nothing(tmp_path: Path) -> None:
    """Finding that `localhost` is local is news for the log of a router, not for whoever asks."""
    (tmp_path / "policy.yaml").write_text("backends: {local: {type: ollama, model: m}}\nroutes: [{default: local}]\n")
    environ = {**os.environ, "LLR_POLICY": str(tmp_path / "policy.yaml"), "LLR_DB": str(tmp_path / "metrics.db")}
    command = [sys.executable, "-m", "flask", "route", "explain", "hello"]
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=True)
    assert "local/m" in done.stdout and done.stderr == ""


def test_explain_as_json(tmp_path: Path) -> None:
    found = json.loads(flask(tmp_path, "route", "explain", "--json", "mail me: tim@corp.example").stdout)
    assert list(found)[:5] == ["classification", "evidence", "route", "targets", "trace"]
    assert tuple(found["classification"]) == TAGS
    assert found["classification"]["sensitivity"] == "high", "the detector is asked as well"
    assert set(found["evidence"]) == {"runner_up", "task", "difficulty"}
    assert {"sign", "points"} == set(found["evidence"]["difficulty"][0])


TALK = [
    {"role": "user", "content": "Fix this Python function: def f(x): return y"},
    {"role": "assistant", "content": "Done."},
    {"role": "user", "content": "shorter"},
]


def test_explain_names_the_turn_of_a_conversation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "500")
    body = json.dumps({"model": "echo", "messages": TALK}).encode()
    done = flask(tmp_path, "route", "explain", "--body", "-", text=body)
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.splitlines()[1].startswith("            by turn 1 of 2; turn 2 alone: general 0.")
    assert "  tags      code stands since turn 1: turn 2 is short and continues it" in done.stdout.splitlines()


@pytest.mark.parametrize("arguments", [(), ("hi", "--body", "-")])
def test_explain_wants_one_prompt(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = flask(tmp_path, "route", "explain", *arguments, text=b"{}")
    assert (done.exit_code, done.stderr.splitlines()[-1]) == (2, "Error: Give either PROMPT or --body FILE.")


@pytest.mark.parametrize(("text", "problem"), [(b"[1]", "The top level must be an object"), (b"{}", "`messages` must")])
def test_explain_names_what_is_wrong_with_a_body(tmp_path: Path, text: bytes, problem: str) -> None:
    done = flask(tmp_path, "route", "explain", "--body", "-", text=text)
    assert done.exit_code == 1 and problem in done.stderr


# --- classify -----------------------------------------------------------------------------------


def test_the_same_lines_come_out_with_their_tags(tmp_path: Path) -> None:
    chat = {"model": "auto", "messages": [{"role": "user", "content": "What's the weather in Rome today?"}]}
    lines = [b'{"id": 12345678901234567890123, "text": "git rebase fails", "n": 1.10}', json.dumps(chat).encode()]
    done = flask(tmp_path, "route", "classify", "--jsonl", "-", text=b"\r\n".join(lines), policy=None)
    assert (done.exit_code, done.stderr) == (0, "")
    for line, out, row in zip(lines, done.stdout.splitlines(), rows(done), strict=True):
        assert out.encode().endswith(line[1:]), "what was there stays byte for byte"
        assert tuple(row)[: len(TAGS)] == TAGS
        assert json.loads(line).items() <= row.items()
    tags = classify_text("git rebase fails")
    assert [rows(done)[0][name] for name in TAGS] == [getattr(tags, name) for name in TAGS]
    assert rows(done)[1]["task"] == "web_search"


def test_a_tag_that_is_there_already_is_replaced(tmp_path: Path) -> None:
    done = flask(tmp_path, "route", "classify", "--jsonl", "-", text=b'{"task": "x", "text": "hi", "task": "y"}')
    assert rows(done)[0]["task"] == "general"


def test_bad_lines_are_named_and_do_not_stop_the_rest(tmp_path: Path) -> None:
    text = b"\n".join(
        (b'{"text": "hi"}', b"", b"nope", b'{"text": 3}', b"[1]", b'{"text": "\xff"}', b'{"messages": []}')
    )
    done = flask(tmp_path, "route", "classify", "--jsonl", "-", text=text + b'\n{"text": "\\ud800"}', policy=None)
    assert [row["task"] for row in rows(done)] == ["general", "general"]
    assert done.exit_code == 1
    assert done.stderr.splitlines() == [
        "line 3: it is not valid JSON: Expecting value at character 0.",
        "line 4: it has none of `text`, `messages` and `body`.",
        "line 5: it is not valid JSON: The top level must be an object at character 0.",
        "line 6: it is not UTF-8 (byte 10).",
        "line 7: `messages` must be a non-empty array of objects.",
    ]


def test_the_policys_cuts_and_detectors_count(tmp_path: Path) -> None:
    (row,) = rows(flask(tmp_path, "route", "classify", "--jsonl", "-", text=b'{"text": "write to tim@corp.example"}'))
    assert (row["complexity"], row["sensitivity"]) == ("medium", "high")


def test_conversations_and_clients_are_read_as_the_router_reads_them(tmp_path: Path) -> None:
    chat = {"messages": TALK}
    lines = [
        chat,
        {"id": 3, "headers": {"User-Agent": "opencode/1.2", "Other": 5}, "body": chat},
        {"body": {"messages": 1}},
    ]
    text = b"\n".join(json.dumps(line).encode() for line in lines)
    done = flask(tmp_path, "route", "classify", "--jsonl", "-", text=text)
    assert [(row["task"], row["client"], row["purpose"]) for row in rows(done)] == [
        ("code", "other", "interactive"),
        ("code", "opencode", "agent"),
    ]
    assert done.stderr == "line 3: `messages` must be a non-empty array of objects.\n"
    alone = POLICY + "conversations: {sticky: false}\n"
    assert rows(flask(tmp_path, "route", "classify", "--jsonl", "-", text=text, policy=alone))[0]["task"] == "general"


def test_a_wrong_policy_or_file_is_told(tmp_path: Path) -> None:
    done = flask(tmp_path, "route", "classify", "--jsonl", "-", text=b'{"text": "hi"}', policy="backends: {}")
    assert done.exit_code == 1 and "routes: is missing" in done.stderr
    assert flask(tmp_path, "route", "classify", "--jsonl", str(tmp_path / "none")).exit_code == 2


@pytest.mark.e2e
def test_each_line_is_answered_before_the_next_one_is_read(tmp_path: Path) -> None:
    environ = {**os.environ, "LLR_POLICY": str(tmp_path / "none.yaml")}
    command = [sys.executable, "-m", "flask", "route", "classify", "--jsonl", "-"]
    with subprocess.Popen(command, cwd=ROOT, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin and process.stdout
        watch = threading.Timer(30, process.kill)
        watch.start()
        for text in ("first", "second"):
            process.stdin.write(json.dumps({"text": text}).encode() + b"\n")
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["text"] == text
        process.stdin.close()
        assert process.wait(10) == 0
        watch.cancel()
