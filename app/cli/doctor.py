"""`flask doctor`: find problems of the router and everything that it depends on, and print a fix for each."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from itertools import groupby

import click
from flask import current_app
from flask.cli import with_appcontext

from app.cli.checks import CHECKS, Finding, findings
from app.cli.common import PROBLEM, counted, print_json
from app.cli.inspection import inspect
from app.cli.options import as_json
from app.cli.table import wrapped
from app.errors import NoPolicy, PolicyError

_FIX_POLICY = "correct this line; docs/policy.md describes every key"
_FIX_VARIABLE = "correct this variable; docs/operations.md describes them all"


@click.command()
@as_json
@with_appcontext
def doctor(as_json: bool) -> None:
    """Find problems, and print a fix for each.

    Checks the configuration, the servers, the database, the machine and the last hour.  Asks every backend for its
    models.  The exit status is 1 when there is a problem.
    """
    if PROBLEM in current_app.extensions:
        problems = _policy_problems(current_app.extensions[PROBLEM])
    else:
        problems = findings(inspect(current_app.extensions["services"], os.environ))
    if as_json:
        print_json({"ok": not problems, "findings": [dataclasses.asdict(problem) for problem in problems]})
    else:
        for line in _lines(problems):
            click.echo(line)
        checks = len(CHECKS) + 1  # the policy is one more
        click.echo(counted(len(problems), "problem") if problems else f"ok: no problem found ({checks} checks)")
    if problems:
        raise SystemExit(1)


def _lines(problems: Sequence[Finding]) -> Iterator[str]:
    """Number the problems; print a fix once for neighbours that have the same fix."""
    for fix, group in groupby(enumerate(problems, 1), key=lambda numbered: numbered[1].fix):
        numbers = []
        for number, problem in group:
            numbers.append(number)
            yield wrapped(f"{number}. {problem.where}: {problem.what}", 3)
        scope = "" if len(numbers) == 1 else f" for {numbers[0]} to {numbers[-1]}"
        yield wrapped(f"   fix{scope}: {fix}", 3)


def _policy_problems(error: PolicyError) -> list[Finding]:
    """Return the problems of the policy and the variables; without them no other check can run."""
    if isinstance(error, NoPolicy):
        what = error.message.partition(". ")[0]
        fix = "run `flask init`, which writes a first policy, or name your policy in LLR_POLICY"
        return [Finding("policy", "LLR_POLICY", what, fix)]
    problems = []
    for line in error.problems:
        where, _, what = line.partition(": ")
        problems.append(Finding("policy", where, what, _FIX_VARIABLE if where == "environment" else _FIX_POLICY))
    return problems
