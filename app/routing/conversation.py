"""Fold the turns of a conversation into what stands now: the task, and how difficult it is.  Pure.

A turn changes the task only when it clearly asks for another one; all other turns continue what stands.  One turn of
another task may be an aside: when the turn after it does not continue it, what stood before stands again.  Difficulty
may rise at any turn.  It falls with a new task, or by one step after three turns in a row that stand clearly below.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from app.routing.memo import Recent
from app.routing.reading import UserTurn
from app.routing.turns import Judge, TurnSigns, difficulty_of, subjects
from app.types import Cuts, Judgement, Step

SYSTEM_SHARE = 0.7  # of the points of a short system prompt
_ASIDE_CHARS = 200  # a longer turn of another task is no aside
_SURE = 0.8  # probability of another task from which on a turn asks for it …
_SURE_IF_SWITCHED = 0.5  # … when the user says that another subject follows
_SURE_IF_STATED = 0.93  # … when the turn holds no request
_STILL = 0.25  # probability of what stands from which on a turn may belong to it
_LIKELY, _VERY_LIKELY = 0.8, 0.88  # probability of `general`
_ENOUGH = 2  # points for leaving an aside
_POINTS_FOR_GENERAL = 3  # no words show this task, so a change to it needs other signs
_EASIER_TURNS = 3
_CLEARLY = 0.15  # difficulty
_LONG = 8  # turns, from which on looking up a state costs less than finding it anew


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


@dataclass(frozen=True, slots=True)
class _State:
    """Hold what the fold knows after a turn."""

    standing: Standing
    before_aside: Standing | None = None  # what stood before the task that stands, when this may be an aside


states: Recent[_State] = Recent()  # by the hash of all turns up to the one that the state comes after


def fold(turns: Sequence[UserTurn], system: str, judge: Judge, cuts: Cuts, *, hold: bool = False) -> Standing:
    """Return what stands after the turns.  With `hold`, difficulty falls with a new task only.

    A client sends a long conversation again with each turn, so the state after its latest turns is cached.
    """
    if not turns:
        return _NOTHING
    keys = list(accumulate(turns, _key_after, initial=hash((judge, system, cuts, hold)))) if len(turns) >= _LONG else []
    latest, state = _latest_state(keys)
    if not state:
        latest, state = 1, _first(turns[0], system, judge)
    for number in range(latest + 1, len(turns) + 1):
        state = _after(turns, number, judge, cuts, state, hold=hold)
    if keys:
        states.put(keys[-1], state)
    return state.standing


def _key_after(key: int, turn: UserTurn) -> int:
    return hash((key, turn))


def _latest_state(keys: Sequence[int]) -> tuple[int, _State | None]:
    """Return the latest turn whose state is cached, and this state."""
    for number in range(len(keys) - 1, 0, -1):
        if state := states.get(keys[number]):
            return number, state
    return 0, None


def _first(turn: UserTurn, system: str, judge: Judge) -> _State:
    """Return the state after the first turn."""
    opening = ((turn.text, 1.0), (system, SYSTEM_SHARE)) if system else ((turn.text, 1.0),)
    return _State(_begun(turn, 1, "first", judge.probabilities(*opening)))


def _after(turns: Sequence[UserTurn], number: int, judge: Judge, cuts: Cuts, state: _State, *, hold: bool) -> _State:
    """Return the state after the turn of a number, from the state before it."""
    turn = turns[number - 1]
    signs, standing = judge.signs(turn.text), state.standing
    if turn.has_image:
        return _State(_begun(turn, number, "image", signs.probabilities))
    opening = turns[number - 2] if standing.since == number - 1 else None
    if state.before_aside and _leaves_aside(turn, opening, judge, standing, state.before_aside):
        standing = state.before_aside
        back = _continued(standing, turn, signs, number, cuts, hold=hold)
        if back.reading != "new":
            return _State(replace(back, reading="back"))
    after = _continued(standing, turn, signs, number, cuts, hold=hold)
    if after.reading != "new":
        return _State(after, state.before_aside)
    return _State(after, standing if len(turn.text) <= _ASIDE_CHARS else None)


def _begun(turn: UserTurn, number: int, reading: str, probabilities: Mapping[str, float], task: str = "") -> Standing:
    """Return what stands after a turn that begins a task."""
    if turn.has_image:
        task, confidence = "vision", 1.0
    else:
        task = task or max(probabilities, key=probabilities.__getitem__)
        confidence = round(probabilities[task], 4)
    return Standing(task, confidence, difficulty_of(turn.text, task, probabilities), number, number, reading)


def _leaves_aside(turn: UserTurn, opening: UserTurn | None, judge: Judge, aside: Standing, earlier: Standing) -> bool:
    """Return True for a turn that goes back from an aside.  `opening` is the turn before it when that one opened the
    aside: when other turns went on with it, it is none, unless the user says so."""
    signs = judge.signs(turn.text)
    if signs.is_short or signs.task == aside.task != "general":
        return False
    if signs.returns or opening is None:
        return signs.returns
    return signs.switches or _points_for_leaving(turn, opening, judge, aside, earlier) >= _ENOUGH


def _points_for_leaving(turn: UserTurn, opening: UserTurn, judge: Judge, aside: Standing, earlier: Standing) -> int:
    """Return the points for a turn that belongs to what stood before an aside."""
    signs, opened = judge.signs(turn.text), judge.signs(opening.text)
    points = opened.interrupts + signs.acknowledges + (signs.asks and aside.task != "general") - signs.refers
    points -= 2 * (opened.switches and not opened.interrupts)
    probability = signs.probabilities.get(earlier.task, 0.0)
    if earlier.task == "general":
        points += probability >= _LIKELY and not signs.refers
    else:
        points += 2 * (probability >= _STILL)
    if "code" in (earlier.task, aside.task):
        points += 2 * signs.technical * (1 if earlier.task == "code" else -1)
    begin = len(turn.before) - 1 - turn.before[::-1].index(opening.text) if opening.text in turn.before else 0
    before, since = turn.before[:begin], turn.before[begin:]
    points += min(2, len(signs.subjects & _subjects(before)))
    return points - 2 * (not signs.subjects.isdisjoint(_subjects(since)))


def _subjects(texts: Sequence[str]) -> frozenset[str]:
    return frozenset().union(*map(subjects, texts))


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
    if not (signs.asks or signs.edits):
        return replace(standing, reading="same")
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
        sure = _SURE_IF_SWITCHED if signs.switches else _SURE if signs.asks else _SURE_IF_STATED
        if signs.probabilities[task] < sure or signs.probabilities[stands] >= _STILL:
            return ""
        return "" if task == "web_search" and _is_about_what_was_said(turn, signs) else task
    return task if _points_for_general(turn, signs, stands) >= _POINTS_FOR_GENERAL else ""


def _is_about_what_was_said(turn: UserTurn, signs: TurnSigns) -> bool:
    """Return True for a question that the texts before it answer: "When does it open?" about a text on a pool."""
    return not signs.switches and signs.definite and not signs.subjects.isdisjoint(_subjects(turn.before))


def _points_for_general(turn: UserTurn, signs: TurnSigns, stands: str) -> int:
    """Return the points for a request that has nothing to do with the task that stands."""
    probability = signs.probabilities["general"]
    points = (probability >= _LIKELY) + (probability >= _VERY_LIKELY) + (signs.words >= 6)
    points -= 2 * (signs.probabilities[stands] >= _STILL)
    if signs.switches:
        return points + 3
    points += (1 if signs.asks else -2) - signs.edits
    points -= 2 * (signs.technical and stands == "code")
    points -= 2 * signs.refers + signs.definite
    if points < _POINTS_FOR_GENERAL:  # the subjects of the texts before it need not be found
        return points
    return points - min(2, len(signs.subjects & _subjects(turn.before)))


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
