"""Tables: numbers to the right, words folded, never wider than the terminal."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from app import create_app
from app.cli.table import folded, shortened, table, usd, wrapped
from app.metrics.store import Store
from app.storage import now_ms
from app.types import Basis, Observations, Target
from tests import build
from tests.documents import ROOT

LONG = "complexity=high,confidence=0.5..,family=qwen-coder,task=code|general"


def test_numbers_stand_to_the_right() -> None:
    rows = [("a", 1, None, "12.3k"), ("longer", 123, 4.5, "7")]
    assert table(("name", "n", "x", "in"), rows, 80).splitlines() == [
        "name      n    x     in",
        "a         1    -  12.3k",
        "longer  123  4.5      7",
    ]


def test_nothing() -> None:
    assert table(("a",), []) == "nothing yet"


def test_long_words_are_folded_at_commas_and_slashes() -> None:
    assert table(("rule", "calls"), [(LONG, 7), ("default", 8)], 32).splitlines() == [
        "rule                       calls",
        "complexity=high,               7",
        "confidence=0.5..,",
        "family=qwen-coder,",
        "task=code|general",
        "default                        8",
    ]
    address = "https://models.office.example/v1"
    folded = table(("endpoint", "n"), [(address, 7)], 30)
    assert "".join(line.split()[0] for line in folded.splitlines()[1:]) == address


@pytest.mark.parametrize("width", [50, 60, 80, 120])
def test_it_fits(width: int) -> None:
    rows = [(LONG, "z" * 70, "some words and some more of them, folded", 123_456, "54.2M")] * 2
    text = table(("rule", "model", "words", "calls", "in"), rows, width)
    assert max(map(len, text.splitlines())) <= width
    assert "".join(text.split()).count("z") == 140, "nothing is cut off"


def test_numbers_are_never_folded() -> None:
    text = table(("n",) * 6, [(123_456_789,) * 6], 40)
    assert text.splitlines()[1].split() == ["123456789"] * 6


def test_a_decimal_number_is_folded_before_it_or_behind_it() -> None:
    folded = table(("route", "n"), [("difficulty=0.65..", 7)], 19).splitlines()
    assert [line.split()[0] for line in folded[1:]] == ["difficulty=", "0.65.."]


@pytest.mark.parametrize(
    "cost, words",
    [
        (None, None),
        (0.0, "0"),
        (0.00001, "0.00001"),
        (0.000172, "0.000172"),
        (0.0033, "0.0033"),
        (0.88924, "0.8892"),
        (12.3456, "12.35"),
        (-0.002, "-0.002"),
    ],
)
def test_money(cost: float | None, words: str | None) -> None:
    assert usd(cost) == words


@pytest.mark.parametrize(
    "number, words", [(0, "0"), (9999, "9999"), (12_345, "12.3k"), (54_200_000, "54.2M"), (3e9, "3G")]
)
def test_large_numbers(number: float, words: str) -> None:
    assert shortened(number) == words


def commands(group: click.Group, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], click.Command]]:
    found = []
    for name, command in group.commands.items():
        below = commands(command, (*path, name)) if isinstance(command, click.Group) else [((*path, name), command)]
        found += below
    return found


@pytest.fixture
def app(tmp_path: Path) -> Any:
    """A busy office: long names, large numbers."""
    backends = {
        "workstation-under-the-desk": {"type": "echo", "price": {"input": 0, "output": 0}, "models": ["echo"]},
        "frontier": {"type": "openai", "model": "gpt-4o-mini-2024-07-18", "price": {"input": 2.5, "output": 10}},
    }
    policy = {
        "backends": backends,
        "routes": [
            {"match": {"task": ["code", "general"], "complexity": "high", "tokens": {"max": 4000}},
             "backend": "frontier", "fallback": "workstation-under-the-desk",
             "reason": "hard code needs the strong model, everything else does not"},
            {"default": "workstation-under-the-desk"},
        ],
        "ab": {"enabled": True, "sampleRate": 0.1, "candidates": {"workstation-under-the-desk": "frontier"}},
        "savings": {"against": "frontier"},
    }  # fmt: skip
    (tmp_path / "policy.yaml").write_text(yaml.safe_dump(policy), "utf-8")
    store, now = Store(str(tmp_path / "metrics.db")), now_ms()
    known = {"ts_ms": now, "input_tokens": 123_456, "output_tokens": 98_765, "latency_ms": 123_456}
    route = "complexity=high,task=code|general,tokens=..4000"
    away = {"backend": "frontier", "model": "gpt-4o-mini-2024-07-18", "destination": "api.openai.com:443"}
    for n in range(3):
        store.write([build.record(**known, backend="workstation-under-the-desk", cost_usd=0, request_id=f"a{n}")] * 900)
        store.write([build.record(**known, **away, route=route, cost_usd=1234.5678, sent_bytes=1_234_567)] * 900)
        store.write([build.record(**known, **away, kind="shadow", reason="shadow", cost_usd=1.5)] * 30)
    basis = Basis(
        policy="0123456789ab", asked_model="", output_tokens=500, observations=Observations(), measured=False,
        targets=(Target("workstation-under-the-desk", "qwen2.5-coder:7b-instruct-q4_K_M"),),
    )  # fmt: skip
    tags = {"sensitivity": "normal", "modality": "text", "family": "any", "tokens": 900, "confidence": 0.9}
    routed = {"route": route, "task": "code", "basis": basis, "backend": "workstation-under-the-desk", **tags}
    for n in range(40):
        store.write([build.record(**known, **routed, difficulty=0.9, cost_usd=0, request_id=f"replayed-{n:024d}")])
    store.close()
    environ = {"LLR_POLICY": str(tmp_path / "policy.yaml"), "LLR_DB": str(tmp_path / "metrics.db")}
    return create_app({**environ, "FLASK_RUN_FROM_CLI": "true"})


def test_every_command_has_json(app: Any) -> None:
    ours = [(path, command) for path, command in commands(app.cli) if path[0] not in ("run", "shell", "routes")]
    assert len(ours) >= 14
    for path, command in ours:
        assert "--json" in [option for parameter in command.params for option in parameter.opts], path


@pytest.mark.parametrize(
    "command",
    [
        ("policy", "show"), ("backends", "list"), ("metrics", "summary"), ("ab", "report"), ("egress",),
        ("route", "explain", "Fix this Python function"), ("metrics", "prune"), ("backends", "probe"),
        ("policy", "replay", "{policy}"), ("policy", "replay", "{policy}", "--list"), ("egress", "--all"), ("doctor",),
    ],
    ids=" ".join,
)  # fmt: skip
def test_output_fits_80_columns_and_is_json_when_asked(
    app: Any, tmp_path: Path, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for name, file in (("LLR_DB", "metrics.db"), ("LLR_POLICY", "policy.yaml")):  # replay reads the environment
        monkeypatch.setenv(name, str(tmp_path / file))
    command = tuple(word.format(policy=tmp_path / "policy.yaml") for word in command)
    done = app.test_cli_runner().invoke(args=command)
    assert done.exit_code == (command[0] == "doctor" or command[1:] == ("probe",)), done.output
    wide = [line for line in done.stdout.splitlines() if len(line) > 80]
    assert not wide, "\n".join(wide)
    assert json.loads(app.test_cli_runner().invoke(args=[*command, "--json"]).stdout) is not None


def test_completion_knows_the_commands() -> None:
    environ = {
        "PATH": "/usr/bin:/bin",
        "_FLASK_COMPLETE": "bash_complete",
        "COMP_WORDS": "flask pol",
        "COMP_CWORD": "1",
    }
    command = [str(Path(sys.executable).with_name("flask"))]
    done = subprocess.run(command, cwd=ROOT, env=environ, text=True, capture_output=True, check=False)
    assert "plain,policy" in done.stdout.splitlines()


def test_the_reference_as_json_names_every_key(app: Any) -> None:
    rows = json.loads(app.test_cli_runner().invoke(args=["policy", "docs", "--json"]).stdout)
    assert {"section": "savings", "key": "against", "value": "text", "default": "**required**"}.items() <= rows[
        -1
    ].items()
    assert {row["key"] for row in rows if row["section"] == "routes[n]"} >= {"match", "backend", "latencyBudgetMs"}


def test_the_check_as_json(app: Any, tmp_path: Path) -> None:
    run = app.test_cli_runner().invoke
    good = json.loads(run(args=["policy", "check", "--json", str(tmp_path / "policy.yaml")]).stdout)
    assert good["ok"] is True and good["problems"] == [] and len(good["version"]) == 12
    (tmp_path / "bad.yaml").write_text("backends: {}\nroutes: []\n")
    bad = run(args=["policy", "check", "--json", str(tmp_path / "bad.yaml")])
    assert bad.exit_code == 1
    assert json.loads(bad.stdout)["problems"]


@pytest.mark.parametrize(
    "command", [("policy", "replay", "{policy}"), ("egress",), ("metrics", "summary")], ids=" ".join
)
def test_no_word_is_broken_at_80_columns(
    app: Any, tmp_path: Path, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LLR_DB", str(tmp_path / "metrics.db"))
    text = app.test_cli_runner().invoke(args=[word.format(policy=tmp_path / "policy.yaml") for word in command]).stdout
    words = [word for line in text.splitlines() for word in re.split(r"[\s,/|=:@._-]+", line)]
    known = {"workstation", "under", "desk", "complexity", "general", "frontier", "destination", "requests"}
    assert {word for word in words for whole in known if len(word) > 3 and whole.startswith(word)} <= known


def test_a_line_for_a_pipe_stays_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    line = "a word and another " * 9
    assert wrapped(line, 2) == line
    monkeypatch.setenv("COLUMNS", "60")
    first, *rest = wrapped(line, 2).splitlines()
    assert len(first) <= 60 and rest and all(more.startswith("  a") or more.startswith("  ") for more in rest)


def test_a_title_and_its_text_stay_apart() -> None:
    assert folded("  match", "yes", 12) == "  match     yes"
    assert folded("  capabilities", "dropped", 12) == "  capabilities dropped"
    assert folded("", "a total", 0) == "a total"
