"""Fold the turns of a conversation into what stands now: the task, and how difficult it is.  Pure.

A turn changes the task only when it clearly asks for another one; all other turns continue what stands.  One turn of
another task may be an aside: when the turn after it does not continue it, what stood before stands again.  Difficulty
may rise at any turn.  It falls with a new task, or by one step after three turns in a row that stand clearly below.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from app.routing.reading import UserTurn
from app.routing.turns import Judge, TurnSigns, difficulty_of, subjects
from app.types import Cuts, Judgement, Step

SYSTEM_SHARE = 0.7  # of the points of a short system prompt
_ASIDE_CHARS = 200  # a longer turn of another task is no aside
_SURE = 0.8  # probability of another task from which on a turn asks for it …
_SURE_IF_SWITCHED = 0.5  # … when the user says that another subject follows
_STILL = 0.25  # probability of what stands from which on a turn may belong to it
_LIKELY, _VERY_LIKELY = 0.75, 0.88  # probability of `general`
_POINTS_FOR_GENERAL = 3  # no words show this task, so a change to it needs other signs
_EASIER_TURNS = 3
_CLEARLY = 0.15  # difficulty


@dataclass(frozen=True, slots=True)
class Standing:
    """Hold what stands after a turn."""

    task: str
    confidence: float
    difficulty: float
    since: int  # the turn that asked for the task, from 1 on
    hardest: int  # the turn that the difficulty comes from
    reading: str = "first"  # how the latest turn was read: first, image, new, back, short, same
    easier: tuple[float, ...] = ()  # difficulties of the latest turns in a row that stand clearly below


_NOTHING = Standing("general", 1.0, 0.0, 1, 1)


def fold(turns: Sequence[UserTurn], system: str, judge: Judge, cuts: Cuts, *, hold: bool = False) -> Standing:
    """Return what stands after the turns.  With `hold`, difficulty falls with a new task only."""
    if not turns:
        return _NOTHING
    opening = ((turns[0].text, 1.0), (system, SYSTEM_SHARE)) if system else ((turns[0].text, 1.0),)
    standing = _begun(turns[0], 1, "first", judge.probabilities(*opening))
    before_aside: Standing | None = None  # what stood before the latest turn, when that may be an aside
    for number, turn in enumerate(turns[1:], 2):
        signs, earlier, before_aside = judge.signs(turn.text), before_aside, None
        if turn.has_image:
            standing = _begun(turn, number, "image", signs.probabilities)
            continue
        if earlier is not None and _leaves_aside(signs, standing, earlier):
            back = _continued(earlier, turn, signs, number, cuts, hold=hold)
            if back.reading != "new":
                standing = replace(back, reading="back")
                continue
            standing = earlier
        after = _continued(standing, turn, signs, number, cuts, hold=hold)
        if after.reading == "new" and len(turn.text) <= _ASIDE_CHARS:
            before_aside = standing
        standing = after
    return standing


def _begun(turn: UserTurn, number: int, reading: str, probabilities: Mapping[str, float], task: str = "") -> Standing:
    """Return what stands after a turn that begins a task."""
    if turn.has_image:
        task, confidence = "vision", 1.0
    else:
        task = task or max(probabilities, key=probabilities.__getitem__)
        confidence = round(probabilities[task], 4)
    return Standing(task, confidence, difficulty_of(turn.text, task, probabilities), number, number, reading)


def _leaves_aside(signs: TurnSigns, aside: Standing, earlier: Standing) -> bool:
    """Return True for a turn that does not go on with an aside."""
    if signs.is_short or signs.task == aside.task != "general":
        return False
    enough = _LIKELY if earlier.task == "general" else _STILL
    is_earlier = signs.probabilities.get(earlier.task, 0.0) >= enough and not signs.refers
    return signs.asks or signs.switches or is_earlier


def _continued(
    standing: Standing, turn: UserTurn, signs: TurnSigns, number: int, cuts: Cuts, *, hold: bool
) -> Standing:
    """Return what stands after a turn that follows others."""
    task = _new_task(standing, turn, signs)
    if task:
        return _begun(turn, number, "new", signs.probabilities, task)
    if signs.is_short:
        return replace(standing, reading="short")
    difficulty = signs.difficulty(standing.task)
    if hold or difficulty > standing.difficulty - _CLEARLY:
        if difficulty > standing.difficulty:
            standing = replace(standing, difficulty=difficulty, hardest=number)
        return replace(standing, reading="same", easier=())
    easier = (*standing.easier, difficulty)
    if len(easier) < _EASIER_TURNS:
        return replace(standing, reading="same", easier=easier)
    lower = _one_step_down(standing.difficulty, max(easier), cuts)
    return replace(standing, difficulty=lower, reading="same", easier=())


def _one_step_down(high: float, low: float, cuts: Cuts) -> float:
    """Return the difficulty `low`, but at most one complexity below that of `high`."""
    return max(low, cuts.medium) if high >= cuts.high else low


def _new_task(standing: Standing, turn: UserTurn, signs: TurnSigns) -> str:
    """Return the task that a turn clearly asks for instead of the one that stands, else ""."""
    task, stands = signs.task, "general" if standing.task == "vision" else standing.task
    if signs.is_short or task == stands:
        return ""
    if task != "general":
        sure = _SURE_IF_SWITCHED if signs.switches else _SURE
        return task if signs.probabilities[task] >= sure and signs.probabilities[stands] < _STILL else ""
    return task if _points_for_general(turn, signs, stands) >= _POINTS_FOR_GENERAL else ""


def _points_for_general(turn: UserTurn, signs: TurnSigns, stands: str) -> int:
    """Return the points for a request that has nothing to do with the task that stands."""
    probability = signs.probabilities["general"]
    points = (probability >= _LIKELY) + (probability >= _VERY_LIKELY) + (signs.words >= 6)
    points -= 2 * (signs.probabilities[stands] >= _STILL)
    if signs.switches:
        return points + 3
    points += 1 if signs.asks else -2
    subjects_before = frozenset().union(*map(subjects, turn.before))
    return points - 2 * signs.refers - signs.definite - min(2, len(signs.subjects & subjects_before))


def origin_step(judgement: Judgement) -> Step:
    """Return the line of the trace that says from which turn the task comes."""
    tags, origin = judgement.tags, judgement.origin
    return Step("tags", _READINGS[origin.reading].format(task=tags.task, turn=origin.turn, last=origin.turns))


_READINGS = {
    "first": "{task}, by turn {turn}",
    "image": "{task}: turn {last} came with an image",
    "new": "{task}: turn {last} asks for another task",
    "back": "{task} stands since turn {turn}: turn {last} goes back to it after an aside",
    "short": "{task} stands since turn {turn}: turn {last} is short and continues it",
    "same": "{task} stands since turn {turn}: turn {last} does not clearly ask for another task",
}
