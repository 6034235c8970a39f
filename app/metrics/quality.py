"""Compare the doubts of a candidate's and a primary's answers to the same requests.  Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from app.metrics.interval import Interval, interval
from app.metrics.queries import SampledCall
from app.types import JsonDict
from app.words import rounded

# The candidate's mean doubt may be higher by so much, and its answers still count as no worse.  Among answers with the
# doubt d about the share d is wrong, so this is one more wrong answer in fifty.
MARGIN = 0.02
# When two answers differ, doubt tells badly which of them is right.  So it does not decide when most of them differ.
LEAST_AGREEMENT = 0.5
NOT_JUDGED, UNDECIDED, NO_WORSE = "not judged", "undecided", "no worse"


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """Hold what is known about the answers of both backends."""

    pairs: int  # with a doubt of both answers
    agreement: float | None  # the mean, 0 to 1; None = no two answers could be compared
    doubt: float | None  # the means, 0 to 1; None = no pair was judged
    primary_doubt: float | None
    difference: Interval | None  # bounds for the mean of the candidate's doubt minus the primary's

    @property
    def word(self) -> str:
        if self.difference is None:
            return NOT_JUDGED
        differ = self.agreement is not None and self.agreement < LEAST_AGREEMENT
        return UNDECIDED if differ or self.difference[1] > MARGIN else NO_WORSE

    @property
    def is_worse(self) -> bool:
        """Return True when the candidate's answers have more doubt, beyond chance and beyond the margin."""
        return self.difference is not None and self.difference[0] > 0 and self.difference[1] > MARGIN

    def document(self) -> JsonDict:
        """Return the member `quality` of an entry in `/v1/ab`."""
        return {
            "n": self.pairs,
            "agreement": rounded(self.agreement, 3),
            "doubt": rounded(self.doubt, 3),
            "primaryDoubt": rounded(self.primary_doubt, 3),
            "difference": self.difference and [rounded(bound, 3) for bound in self.difference],
            "margin": MARGIN,
        }


def quality(shadow_calls: Iterable[SampledCall]) -> Quality:
    """Return the quality by the verdicts in the rows of shadow calls.  Rows of older versions have none."""
    calls = list(shadow_calls)
    doubts = [(one.doubt, one.live_doubt) for one in calls if one.doubt is not None and one.live_doubt is not None]
    return Quality(
        pairs=len(doubts),
        agreement=_mean([one.agreement for one in calls if one.agreement is not None]),
        doubt=_mean([doubt for doubt, _ in doubts]),
        primary_doubt=_mean([live for _, live in doubts]),
        difference=interval([doubt - live for doubt, live in doubts]) if doubts else None,
    )


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
