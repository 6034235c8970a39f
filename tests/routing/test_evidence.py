"""The doubt of an answer stands in its row when there is evidence about it."""

from __future__ import annotations

from typing import Any

import pytest

from app.routing.judgement import Exchange, judge
from app.types import Verification, Verified

HILLS = ("Palatine", "Capitoline", "Aventine", "Caelian", "Esquiline", "Quirinal", "Viminal")
PROSE = " ".join(f"On the {hill} people built houses of stone {n} centuries ago." for n, hill in enumerate(HILLS * 4))
SURE = (-0.01,) * 20
BOTH, CONFIDENCE = frozenset({"structure", "confidence", "agreement"}), frozenset({"structure", "confidence"})


def exchange(question: str, answer: str, logprobs: tuple[float, ...] = (), **rules: Any) -> Exchange:
    chat = {"messages": [{"role": "user", "content": question}]}
    message = {"role": "assistant", "content": answer}
    return Exchange(chat=chat, message=message, logprobs=logprobs, rules=Verification(**rules))


@pytest.mark.parametrize(
    "question, answer, logprobs, rules, has_doubt",
    [
        ("What is 17 times 3?", "51", (), {"second": "peer"}, True),
        ("What is 17 times 3?", "51", (), {"samples": 2}, True),
        ("What is 17 times 3?", "51", (), {}, False),  # there is no second opinion
        ("What is 17 times 3?", "51", (), {"by": CONFIDENCE, "second": "peer"}, False),
        ("What is 17 times 3?", "51", SURE, {"by": CONFIDENCE}, True),
        ("What is 17 times 3?", "51", SURE, {"by": frozenset({"structure"})}, False),
        ("Tell me about the history of Rome.", PROSE, (), {"second": "peer"}, False),
        ("Tell me about the history of Rome.", PROSE, SURE, {"second": "peer"}, True),
        ("What is 17 times 3?", "", (), {"second": "peer"}, False),  # a fault needs no doubt
    ],
)
def test_a_verdict_has_a_doubt_when_there_is_evidence(
    question: str, answer: str, logprobs: tuple[float, ...], rules: dict[str, Any], has_doubt: bool
) -> None:
    """A replay compares it with the limit of another policy."""
    ruling = judge(exchange(question, answer, logprobs, **{"by": BOTH, **rules}))
    assert (ruling.verdict(Verified.KEPT, 0).doubt is not None) == has_doubt


@pytest.mark.parametrize("limit", [0.0, 0.5])
def test_an_answer_without_evidence_holds(limit: float) -> None:
    assert judge(exchange("Tell me about the history of Rome.", PROSE, second="peer", doubt=limit)).reason == ""
