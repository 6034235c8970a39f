"""Find the `doubt` to write in a policy, from answers whose correctness is known.  Pure.

Answers are counted by their doubt, in steps of 0.001, so memory does not grow with them.  An answer with a fault in its
structure is escalated in any case.  An answer without evidence (no log-probabilities, and nothing to compare) is kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from app.types import JsonDict

ENOUGH = 200  # answers: the 95 % interval of a share then ends 0.07 above and below it, at most
_STEPS = 1000  # of the doubt
_BINS = 10  # of the calibration error
_Z = 1.96  # standard deviations of a 95 % interval


@dataclass(slots=True)
class Group:
    """Count answers, and how many of them and of the strong model's answers are right."""

    answers: int = 0
    right: int = 0
    strong_right: int = 0

    def add(self, other: Group) -> None:
        self.answers += other.answers
        self.right += other.right
        self.strong_right += other.strong_right


@dataclass(frozen=True, slots=True)
class Limit:
    """Hold a `doubt` of the policy, and what it gives."""

    doubt: float
    escalated: int
    right: int  # answers that the client gets and that are right

    def document(self, answers: int) -> JsonDict:
        quality = self.right / answers
        low, high = _interval(self.right, answers)
        return {
            "doubt": self.doubt,
            "share": round(self.escalated / answers, 4),
            "quality": round(quality, 4),
            "quality_low": round(low, 4),
            "quality_high": round(high, 4),
        }


@dataclass(slots=True)
class Labelled:
    """Count labelled answers by their doubt."""

    faults: Group = field(default_factory=Group)
    without_evidence: Group = field(default_factory=Group)
    assumed: int = 0  # answers without `strong_correct`: the strong model is assumed to be right
    _steps: list[Group] = field(default_factory=lambda: [Group() for _ in range(_STEPS + 1)])
    _bins: list[Group] = field(default_factory=lambda: [Group() for _ in range(_BINS)])
    _sums: list[float] = field(default_factory=lambda: [0.0] * _BINS)  # of the doubts

    def add(self, doubt: float, right: bool, strong_right: bool | None) -> None:
        """Add an answer with evidence."""
        answer = self._answer(right, strong_right)
        self._steps[_step(doubt)].add(answer)
        place = min(int(doubt * _BINS), _BINS - 1)
        self._bins[place].add(answer)
        self._sums[place] += doubt

    def add_fault(self, right: bool, strong_right: bool | None) -> None:
        """Add an answer with a fault in its structure."""
        self.faults.add(self._answer(right, strong_right))

    def add_without_evidence(self, right: bool, strong_right: bool | None) -> None:
        """Add an answer that is kept whatever its doubt is."""
        self.without_evidence.add(self._answer(right, strong_right))

    @property
    def all(self) -> Group:
        total = Group()
        for group in (self.faults, self.without_evidence, *self._steps):
            total.add(group)
        return total

    def by_share(self, share: float) -> Limit:
        """Return the limit that escalates at most this share of the answers, and as many as possible.  When the faults
        alone are more, it escalates nothing else."""
        most = share * self.all.answers
        return self._middle(next((limit for limit in self._limits() if limit.escalated <= most), None))

    def by_quality(self, quality: float) -> Limit | None:
        """Return the limit that escalates the fewest answers while this share of all is right; None = there is none."""
        least = quality * self.all.answers
        limits = [limit for limit in self._limits() if limit.right >= least]
        return self._middle(limits[-1]) if limits else None

    def best(self) -> Limit:
        """Return the limit with the most right answers."""
        return self._middle(max(self._limits(), key=lambda limit: (limit.right, -limit.escalated)))

    def calibration_error(self) -> float | None:
        """Return the expected calibration error: the mean difference between the doubt and the share of wrong answers,
        in ten bins; None without answers that have evidence."""
        answers = sum(group.answers for group in self._bins)
        gaps = (abs(total - (group.answers - group.right)) for total, group in zip(self._sums, self._bins, strict=True))
        return sum(gaps) / answers if answers else None

    def auroc(self) -> float | None:
        """Return the probability that a wrong answer has more doubt than a right one; None without both kinds."""
        below = wins = 0.0
        for group in self._steps:
            wrong = group.answers - group.right
            wins += wrong * (below + group.right / 2)
            below += group.right
        wrong = sum(group.answers - group.right for group in self._steps)
        return wins / (wrong * below) if wrong and below else None

    def _answer(self, right: bool, strong_right: bool | None) -> Group:
        self.assumed += strong_right is None
        return Group(1, int(right), int(strong_right is not False))

    def _limits(self) -> Iterator[Limit]:
        """Yield every limit, from 0 on: the higher it is, the fewer answers are escalated."""
        total, below = self.all, Group()
        below.add(self.without_evidence)
        for step, group in enumerate(self._steps):
            below.add(group)
            right = below.right + total.strong_right - below.strong_right
            yield Limit(step / _STEPS, total.answers - below.answers, right)

    def _middle(self, limit: Limit | None) -> Limit:
        """Return the limit in the middle of those with the same effect, so that answers that are nearly the same have
        the same result; None stands for the highest one."""
        limits = list(self._limits())
        limit = limit or limits[-1]
        same = [other for other in limits if other.escalated == limit.escalated]
        return same[(len(same) - 1) // 2]


def _step(doubt: float) -> int:
    """Return the lowest step at or above a doubt: a limit of so many steps accepts it."""
    step = min(max(round(doubt * _STEPS), 0), _STEPS)
    return step + 1 if step < _STEPS and doubt > step / _STEPS else step


def _interval(hits: int, number: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share."""
    share, square = hits / number, _Z * _Z / number
    middle = (share + square / 2) / (1 + square)
    width = _Z * math.sqrt(share * (1 - share) / number + square / (4 * number)) / (1 + square)
    return max(0.0, middle - width), min(1.0, middle + width)
