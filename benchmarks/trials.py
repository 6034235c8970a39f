"""`make bench-trials`: how often, and how soon, a simulated A/B trial recommends the candidate.

Each trial has at most 2,000 pairs, and its report is read after every pair.  The same seed gives the same figures.
"""

from __future__ import annotations

import argparse
from random import Random
from statistics import quantiles

from tests.metrics.trials import Trial, first_promotion, promoted_in_window

_MOST_PAIRS = 2000
_AT_MARGIN = "doubt +0.02 (the margin), time x 0.5"
_TRIALS = {
    "A = A": Trial(),
    "A = A, with a price": Trial(cost=1.0),
    "as good, time x 0.7": Trial(time=0.7),
    "as good, time x 1.5, price x 0.5": Trial(time=1.5, cost=0.5),
    "doubt -0.03, time x 0.7": Trial(-0.03, 0.7),
    "doubt -0.10, time x 0.7": Trial(-0.10, 0.7),
    _AT_MARGIN: Trial(0.02, 0.5),
    "doubt +0.03 (10 % more), time x 0.5": Trial(0.03, 0.5),
    "doubt +0.10, time x 0.5": Trial(0.10, 0.5),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=1000)
    number = parser.parse_args().trials
    print(f"{number} trials each, at most {_MOST_PAIRS} pairs; pairs until 10 %, 50 %, 90 % of the promotions")
    for name, trial in _TRIALS.items():
        ends = [first_promotion(trial.pairs(Random(seed)), _MOST_PAIRS) for seed in range(number)]
        promoted = sorted(end for end in ends if end is not None)
        share, marks = len(promoted) / number, quantiles(promoted, n=10) if len(promoted) > 1 else promoted
        print(
            f"{name:38} promoted {share:6.1%}  pairs {', '.join(str(round(mark)) for mark in marks[::4])}", flush=True
        )
    pairs = (_TRIALS[_AT_MARGIN].pairs(Random(seed)) for seed in range(number // 5))
    share = sum(promoted_in_window(each, 5 * _MOST_PAIRS, _MOST_PAIRS, 100) for each in pairs) / (number // 5)
    print(f"{_AT_MARGIN}: reports on the newest {_MOST_PAIRS} of {5 * _MOST_PAIRS} pairs: promoted {share:.1%}")


if __name__ == "__main__":
    main()
