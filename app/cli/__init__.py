"""Register the commands.  Each command or group has a module of its own, and a line in the table below."""

from __future__ import annotations

from flask import Flask

from app.cli.ab import ab_group
from app.cli.backends import backends_group
from app.cli.common import PROBLEM
from app.cli.doctor import doctor
from app.cli.egress import egress
from app.cli.init import init
from app.cli.metrics import metrics_group
from app.cli.policy import policy_group
from app.cli.route import route_group
from app.cli.verify import verify_group

__all__ = ["PROBLEM", "register"]

COMMANDS = (
    init,
    doctor,
    policy_group,
    route_group,
    backends_group,
    metrics_group,
    ab_group,
    egress,
    verify_group,
)


def register(app: Flask) -> None:
    for command in COMMANDS:
        app.cli.add_command(command)
