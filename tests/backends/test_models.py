"""What servers tell of their models, whatever shape it has."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from app.backends import BACKEND_TYPES
from app.background.discovery import models_of
from app.types import BackendConfig, Timeouts
from tests.fakes.replies import reply
from tests.fakes.upstream import Upstream

KINDS = {"ollama": ("/api/tags", "models", "name"), "llamacpp": ("/v1/models", "data", "id")}
ODD = [["odd-name", "odd-id"], [5, None, True, ["id", "name"]], {"id": 1, "name": 2}, "id name", 5, None, [{}]]


@pytest.fixture
def up() -> Iterator[Upstream]:
    with Upstream(models=["m"]) as running:
        yield running


def told(up: Upstream, kind: str) -> dict[str, tuple[str, ...] | None]:
    """What is discovered at an odd server, and at a good one behind it."""
    configs = {
        name: BackendConfig(name=name, type=kind, endpoint=up.url + path, timeouts=Timeouts(2, 2, 2))
        for name, path in (("odd", "/odd"), ("good", ""))
    }
    backends = {name: BACKEND_TYPES[kind](config, {}) for name, config in configs.items()}
    try:
        return {name: models_of(backend) for name, backend in backends.items()}
    finally:
        for backend in backends.values():
            backend.close()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("entries", ODD, ids=repr)
def test_a_list_of_models_that_is_none_hides_no_other_backend(up: Upstream, kind: str, entries: Any) -> None:
    path, member, _ = KINDS[kind]
    up.script(reply(200, {member: entries}), path="/odd" + path)
    assert told(up, kind) == {"odd": (), "good": ("m",)}


@pytest.mark.parametrize("kind", KINDS)
def test_the_good_ones_among_odd_ones_count(up: Upstream, kind: str) -> None:
    path, member, name = KINDS[kind]
    up.script(reply(200, {member: ["x", {name: "a"}, {name: None}]}), path="/odd" + path)
    assert told(up, kind)["odd"] == ("a",)
