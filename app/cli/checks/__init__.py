"""List the checks of `flask doctor`.  A check reads the facts and yields the problems that it finds, with a fix.  Pure.

There is a module for each subject; the table below names every check.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from app.cli.checks import backends, history, models, policy, process, verify
from app.cli.checks.facts import Discovery, Facts, Finding

__all__ = ["CHECKS", "Discovery", "Facts", "Finding", "findings"]

CHECKS: tuple[Callable[[Facts], Iterator[Finding]], ...] = (
    backends.keys,
    backends.key_forms,
    backends.reachable,
    backends.models,
    backends.aliases,
    backends.locality,
    backends.cloud_models,
    models.windows,
    models.versions,
    models.offload,
    models.preloads,
    models.abilities,
    backends.exposed,
    policy.private_requests,
    policy.budgets,
    policy.echo,
    history.failing,
    history.circuits,
    history.spilling,
    history.pins,
    history.unpriced,
    history.refusals,
    models.unloading,
    models.switching,
    models.queues,
    verify.evidence,
    verify.daily_shares,
    verify.releases,
    verify.second_opinions,
    process.access,
    process.database,
    process.file_system,
    process.clock,
    process.reload,
    process.descriptors,
    process.proxies,
)


def findings(facts: Facts) -> list[Finding]:
    """Return what all checks find, in the order of the table."""
    return [finding for check in CHECKS for finding in check(facts)]
