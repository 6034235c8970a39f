"""Copies of the project with a line changed: they show that a check can fail, or what a machine cannot play."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.e2e.server import ROOT

_NEEDED = ("app", "gunicorn.conf.py", "wsgi.py")

Edits = Mapping[str, Sequence[tuple[str, str]]]  # file -> pairs of a text that stands there once and its replacement

NO_GATE: Edits = {"app/call.py": [("if private and not is_local:", "if not target:")]}
NO_QUESTION: Edits = {
    "app/call.py": [("if private and (host := backend.host_of_model(target.model)):", "if host := '':")]
}
NO_STAGE: Edits = {
    "app/routing/decide.py": [("        privacy,", "        fit,")],
    "app/routing/match.py": [("not any_local(meaning.targets, choice):", "not meaning.targets:")],
}
# Minutes become seconds: a body that does not come, a client that does not read.
HASTY: Edits = {
    "app/server/senders.py": [("_GRACE_S = 30.0", "_GRACE_S = 2.0")],
    "gunicorn.conf.py": [("_UNREAD_MS = 120_000", "_UNREAD_MS = 2_000")],
}
# On this "machine" 127.0.0.2 is a public address.  Linux answers there without being asked to.
SMALL_LOOPBACK: Edits = {"app/routing/locality.py": [('"127.0.0.0/8"', '"127.0.0.1/32"')]}
ALL = (NO_GATE, NO_QUESTION, NO_STAGE, HASTY, SMALL_LOOPBACK)


def altered_copy(folder: Path, edits: Edits) -> Path:
    """The running part of the project, with `edits`, in `folder`."""
    for name in _NEEDED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    for name, pairs in edits.items():
        text = (folder / name).read_text("utf-8")
        for old, new in pairs:
            assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {name}"
            text = text.replace(old, new)
        (folder / name).write_text(text, "utf-8")
    return folder
