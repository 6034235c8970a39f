"""A policy that passes the check can be served; one that does not is told in some clear lines, however odd it is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from app import policy
from app.errors import PolicyError
from app.factory import POLICY_TEXT, create_app
from app.settings import Settings
from tests.policy.hostile import GOOD, WRONG
from tests.policy.test_policy import MISTAKES, WHOLE_FILES
from tests.test_settings import WRONG as VARIABLES

MOST_CHARS = 700
# A message says what must be, or what to do.
WAY_OUT = re.compile(
    r"\b(must|needs|add|remove|give|put|name|named|use|move|keep|swap|write|save|rename|shorten|say|correct"
    r"|make|unset|did you mean|is not one of)\b"
)


def problems(text: str) -> list[str]:
    with pytest.raises(PolicyError) as caught:
        policy.load(text, "policy.yaml", Settings())
    return list(caught.value.problems)


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_policy_ends_in_some_clear_lines(name: str) -> None:
    found = problems(WRONG[name])
    assert 1 <= len(found) <= 40
    for line in found:
        assert line.isprintable() and len(line) <= MOST_CHARS, line
        assert line.startswith("policy.yaml") or line == found[-1]
        assert WAY_OUT.search(line) or line.startswith("… and "), line


@pytest.mark.parametrize("name", GOOD)
def test_what_passes_the_check_can_be_served(name: str, tmp_path: Path) -> None:
    loaded = policy.load(GOOD[name], "policy.yaml", Settings())
    assert loaded.backends.keys() == loaded.policy.backends.keys()
    app = create_app({POLICY_TEXT: GOOD[name], "LLR_DB": str(tmp_path / "metrics.db")})
    runtime = app.extensions["services"]
    runtime.detectors.find({"text": "nothing private"})
    assert loaded.detectors.find({"text": "-"}) is None


def test_keys_of_backends_come_from_the_environment() -> None:
    text = "backends: {cloud: {type: openai, model: m}}\nroutes: [default: cloud]\n"
    for environ, missing in (({}, "OPENAI_API_KEY"), ({"OPENAI_API_KEY": "k"}, "")):
        loaded = policy.load(text, "policy.yaml", Settings(), environ=environ)
        assert loaded.backends["cloud"].missing_key == missing


def messages() -> list[str]:
    table = [line for case in MISTAKES for line in case["says"].splitlines()]
    files = [line for _, lines in WHOLE_FILES.values() for line in lines]
    return [*table, *files, *(says for _, _, says in VARIABLES)]


@pytest.mark.parametrize("message", dict.fromkeys(messages()))
def test_every_message_says_what_to_do(message: str) -> None:
    assert WAY_OUT.search(message), message
