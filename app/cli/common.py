"""Give a command its services, and print its values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace

import click
from flask import current_app

from app.cli.report import store_to_read
from app.services import Services
from app.types import Timeouts

PROBLEM = "policy_error"  # extensions: the error when there are no services
TIMEOUTS = Timeouts(connect_s=2.0, first_byte_s=4.0, idle_s=4.0)  # for the questions of commands to backends


def get_services() -> Services:
    """Return the services with their metrics opened for reading, so that a report changes no database.

    Raises ClickException with every problem of the policy when there are no services."""
    if PROBLEM in current_app.extensions:
        raise click.ClickException(current_app.extensions[PROBLEM].message)
    services: Services = current_app.extensions["services"]
    return replace(services, store=store_to_read(services.settings.db))


def print_json(document: object) -> None:
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))


def cells(row: Mapping[str, object]) -> tuple[object, ...]:
    """Return a row of a table, with yes and no for True and False."""
    return tuple({True: "yes", False: "no"}[value] if isinstance(value, bool) else value for value in row.values())


def percent(share: float | None) -> str | None:
    return None if share is None else f"{share:.1%}"


def counted(number: int, word: str) -> str:
    """Return `1 call` or `2 calls`."""
    return f"{number} {word}{'' if number == 1 else 's'}"
