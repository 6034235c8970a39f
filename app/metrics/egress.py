"""Write the egress ledger, `/v1/egress`: calls to backends that are not local, without their content.  Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from app.metrics.queries import SentCall, Source
from app.types import JsonDict


class Ledger:
    """Turn calls into entries, and add them up by destination and by reason."""

    def __init__(self) -> None:
        self._sums: dict[str, dict[str, dict[str, int]]] = {"destinations": {}, "reasons": {}}

    def entries(self, calls: Iterable[SentCall]) -> list[JsonDict]:
        """Return the entries of some calls, and count these calls in `totals`."""
        return [self._entry(call) for call in calls]

    def totals(self) -> JsonDict:
        """Return the sums of the calls so far."""
        sums = self._sums["destinations"].values()
        return {"total": {name: sum(each[name] for each in sums) for name in ("calls", "sent_bytes")}, **self._sums}

    def _entry(self, call: SentCall) -> JsonDict:
        for group, name in (("destinations", call.destination), ("reasons", call.reason)):
            sums = self._sums[group].setdefault(name or "unknown", {"calls": 0, "sent_bytes": 0})
            sums["calls"] += 1
            sums["sent_bytes"] += call.sent_bytes or 0
        entry = call._asdict()
        del entry["id"]
        return entry


def ledger_text(pages: Iterable[Iterable[SentCall]], hours: float, source: Source) -> Iterator[str]:
    """Yield the whole ledger as JSON, in pieces: there may be a million calls.  So the totals come last."""
    ledger, between = Ledger(), ""
    yield f'{json.dumps({"window_hours": hours, **source.document()})[:-1]}, "calls": ['
    for page in pages:
        if entries := ", ".join(map(json.dumps, ledger.entries(page))):
            yield between + entries
            between = ", "
    yield f"], {json.dumps(ledger.totals())[1:]}"
