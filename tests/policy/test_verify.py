"""`verify` of a route: its normal form, and every mistake in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from app import policy
from app.errors import PolicyError
from app.settings import Settings
from app.types import Verification

BACKENDS = """
backends:
  local: {type: ollama}
  twin: {type: ollama, endpoint: "http://127.0.0.1:11435"}
  frontier: {type: openai, model: gpt}
  own: {type: openai, model: gpt, local: true, endpoint: "http://127.0.0.1:9/v1"}
pools:
  paid: {members: [frontier, local]}
  mine: {members: [local, twin]}
routes:
"""


def load(route: str) -> policy.Loaded:
    return policy.load(f"{BACKENDS}  - {route}\n  - default: local\n", "p", Settings(policy=Path("p")))


@pytest.mark.parametrize(
    ("keys", "rules"),
    [
        ("fallback: [frontier, twin], verify: {}", Verification(escalate="frontier")),
        ("verify: {escalate: paid}", Verification(escalate="paid")),
        ("fallback: twin, verify: {escalate: frontier}", Verification(escalate="frontier")),
        (
            "fallback: frontier, verify: {by: structure, second: 'twin/gemma3:12b', doubt: 0, maxHoldMs: 1,"
            " maxHoldTokens: 9, dailyShare: 1}",
            Verification(
                by=frozenset({"structure"}),
                second="twin",
                second_model="gemma3:12b",
                escalate="frontier",
                doubt=0,
                max_hold_ms=1,
                max_hold_tokens=9,
                daily_share=1,
            ),
        ),
        (
            "fallback: frontier, verify: {by: [agreement, structure], second: own}",
            Verification(by=frozenset({"agreement", "structure"}), second="own", escalate="frontier"),
        ),
        ("fallback: frontier, verify: {samples: 2}", Verification(samples=2, escalate="frontier")),
    ],
)
def test_the_normal_form(keys, rules):
    assert load(f"{{match: {{task: code}}, backend: local, {keys}}}").policy.routes[0].verify == rules


def test_a_route_without_verify_has_none():
    assert load("{match: {task: code}, backend: local, fallback: frontier}").policy.routes[0].verify is None


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        (
            "verify: {}",
            ".verify: has no backend for an answer that does not hold; add `escalate: NAME`, or a `fallback`",
        ),
        ("verify: {escalate: local}", ".verify.escalate: 'local' is asked first already"),
        ("fallback: local, verify: {}", ".verify: 'local' is asked first already"),
        ("verify: {escalate: frontir}", ".verify.escalate: no backend is called 'frontir' (did you mean frontier?)"),
        (
            "fallback: frontier, verify: {second: twn}",
            ".verify.second: no backend is called 'twn' (did you mean twin?)",
        ),
        ("fallback: frontier, verify: {second: frontier}", ".verify.second: a second opinion must be local, and 'fron"),
        ("fallback: frontier, verify: {second: 'twin/glm:cloud'}", ".verify.second: a second opinion must be local, a"),
        (
            "fallback: frontier, verify: {second: paid}",
            ".verify.second: 'paid' is a pool, and a second opinion comes f",
        ),
        ("fallback: frontier, verify: {second: twin, samples: 2}", ".verify.samples: cannot stand beside `second`"),
        ("fallback: frontier, verify: {samples: 3}", ".verify.samples: must be a whole number of at least 1 and at mo"),
        ("fallback: frontier, verify: {samples: 0}", ".verify.samples: must be a whole number of at least 1"),
        ("fallback: frontier, verify: {by: []}", ".verify.by: must not be empty"),
        ("fallback: frontier, verify: {by: [structure, judge]}", ".verify.by[1]: 'judge' is not one of structure, con"),
        ("fallback: frontier, verify: {doubt: 1.1}", ".verify.doubt: must be a number of at least 0 and at most 1"),
        ("fallback: frontier, verify: {doubt: yes}", ".verify.doubt: must be a number"),
        ("fallback: frontier, verify: {maxHoldMs: 0}", ".verify.maxHoldMs: must be a number above 0"),
        ("fallback: frontier, verify: {maxHoldTokens: 0.5}", ".verify.maxHoldTokens: must be a whole number"),
        ("fallback: frontier, verify: {dailyShare: -1}", ".verify.dailyShare: must be a number of at least 0"),
        ("fallback: frontier, verify: {dayshare: 1}", ".verify.dayshare: unknown key"),
        ("fallback: frontier, verify: true", ".verify: must be a mapping of keys to values"),
        ("fallback: frontier, verify: {second: 1}", ".verify.second: must be text"),
    ],
)
def test_each_mistake_has_its_line(keys, says):
    with pytest.raises(PolicyError) as caught:
        load(f"{{match: {{task: code}}, backend: local, {keys}}}")
    (problem,) = caught.value.problems
    assert f"routes[0]{says}" in problem


def test_the_whole_pool_asked_first_is_no_escalation_but_a_part_of_it_is():
    assert load("{match: {task: code}, backend: local, verify: {escalate: paid}}")
    with pytest.raises(PolicyError, match="'twin' is asked first already"):
        load("{match: {task: code}, backend: mine, verify: {escalate: twin}}")


def test_a_private_route_escalates_to_a_local_backend_only():
    with pytest.raises(PolicyError, match="may use local backends only, and 'frontier' is not local"):
        load("{match: {sensitivity: high}, backend: local, verify: {escalate: frontier}}")


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ("by: [agreement]", "by: `agreement` has no effect without `second: BACKEND` or `samples: 2`"),
        ("by: agreement", "by: `agreement` has no effect without `second: BACKEND` or `samples: 2`"),
        ("by: structure, second: twin", "second: `second` has no effect without `agreement` in `by`"),
        ("by: [structure, confidence], samples: 2", "samples: `samples` has no effect without `agreement` in `by`"),
    ],
)
def test_a_key_without_effect_is_a_warning(keys, says):
    loaded = load(f"{{match: {{task: code}}, backend: local, fallback: frontier, verify: {{{keys}}}}}")
    (warning,) = loaded.warnings
    assert f"routes[0].verify.{says}" in warning


@pytest.mark.parametrize("keys", ["", "second: twin", "samples: 2", "by: structure", "by: [agreement], samples: 2"])
def test_no_warning(keys):
    loaded = load(f"{{match: {{task: code}}, backend: local, fallback: frontier, verify: {{{keys}}}}}")
    assert loaded.warnings == ()
