"""Every command before a policy that cannot be served: some clear lines, no traceback, whatever the policy holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from app import create_app
from tests.policy.hostile import WRONG

NAMES = (
    "a huge key that looks like a token",
    "a huge model",
    "a number of 5000 digits",
    "half a character in a key",
    "an empty label of a host",
    "patterns that are too much together",
)
TEXTS = {
    **{name: WRONG[name].encode() for name in NAMES},
    "no UTF-8": b"backends: \xff",
    "an escape sequence in a key": b'"\\e[31mred\\nsecond line": 1\n',
    "larger than any policy": b"#" * 300_000,
}
COMMANDS = (
    ("policy", "check"),
    ("policy", "show"),
    ("doctor",),
    ("route", "explain", "hello"),
    ("route", "classify", "--jsonl", "-"),
    ("backends", "list"),
    ("backends", "probe"),
    ("metrics", "summary"),
    ("metrics", "prune"),
    ("ab", "report"),
    ("egress",),
)
OF_A_FILE = (("policy", "check", "-"), ("policy", "replay", "-"), ("policy", "check", "p.yaml"))


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("command", [*COMMANDS, *OF_A_FILE], ids=" ".join)
def test_it_is_told_in_some_clear_lines(
    command: tuple[str, ...], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "p.yaml").write_bytes(TEXTS[name])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLASK_RUN_FROM_CLI", "true")
    monkeypatch.setenv("LLR_DB", str(tmp_path / "metrics.db"))
    if command in OF_A_FILE:
        monkeypatch.setenv("LLR_POLICY", "none.yaml")
    else:
        monkeypatch.setenv("LLR_POLICY", "p.yaml")
    result = create_app().test_cli_runner().invoke(args=list(command), input=TEXTS[name])
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 1
    lines = result.output.splitlines()
    assert 1 <= len(lines) <= 43 and all(len(line) <= 800 and line.isprintable() for line in lines), result.output
