"""A backend that is silent for long: comment lines keep the client's connection alive, a fallback stays possible."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.e2e.server import content, parse_events
from tests.e2e.stage import Stage
from tests.fakes.replies import CLOSE, Step, delta, error, error_document, event, pause_after_head, sse

pytestmark = pytest.mark.e2e

SILENT_S = 11  # one second more than the router waits before its first comment
ANSWER = sse("from the backend")
SECOND = event(delta("the backend"))
SCENES: dict[str, list[Step]] = {
    "late_answer": [SILENT_S, *ANSWER],
    "late_events": pause_after_head(ANSWER, SILENT_S),
    "late_503": [SILENT_S, *error(503)],
    "late_cut": pause_after_head(sse(CLOSE, finish=False), SILENT_S),
    "late_error_event": pause_after_head(sse(error_document("no memory"), finish=False), SILENT_S),
    "pause_between_events": sse("from ", SILENT_S, "the backend"),
    "pause_inside_an_event": sse("from ", SECOND[:40], SILENT_S, SECOND[40:]),
    "late_400": [SILENT_S, *error(400, "bad temperature")],
}
FALLS_BACK = ("late_503", "late_cut", "late_error_event")


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with Stage(tmp_path_factory.mktemp("silence"), {name: {} for name in SCENES}) as made:
        yield made


@pytest.fixture(scope="module")
def played(stage: Stage) -> dict:
    """All scenes at once: each is mostly waiting."""
    for name, steps in SCENES.items():
        stage.up.script(steps, path=stage.path(name))
    with ThreadPoolExecutor(len(SCENES)) as pool:
        return dict(zip(SCENES, pool.map(lambda name: stage.ask(name, stream=True), SCENES), strict=True))


@pytest.mark.parametrize("name", [name for name in SCENES if name not in ("late_400", "pause_inside_an_event")])
def test_comments_first_then_the_answer(stage: Stage, played: dict, name: str):
    answer = played[name]
    expected = "from spare" if name in FALLS_BACK else "from the backend"
    assert answer.status == 200
    assert (content(answer.events), answer.events[-1]) == (expected, "[DONE]")
    comments = [block for block in answer.body.split(b"\n\n") if block.startswith(b":")]
    assert len(comments) == 1
    if name == "pause_between_events":
        assert answer.body.startswith(b"data: ")
    else:
        assert answer.body.startswith(comments[0] + b"\n\n")
    outcomes = [(row["backend"], row["outcome"]) for row in stage.rows(answer, 2 if name in FALLS_BACK else 1)]
    assert outcomes == [(name, "error"), ("spare", "ok")] if name in FALLS_BACK else [(name, "ok")]


def test_no_comment_is_put_inside_an_event(played: dict):
    answer = played["pause_inside_an_event"]
    assert content(answer.events) == "from the backend"


def test_an_error_behind_a_comment_is_an_event(stage: Stage, played: dict):
    """The status was sent with the comment."""
    answer = played["late_400"]
    assert answer.status == 200
    (problem,) = parse_events(answer.body)
    assert problem["error"]["message"] == "bad temperature"
    assert stage.only_row(answer)["error"] == "http_400"
