"""Read the LLR_* environment variables into frozen Settings.

One table lists the variables; tests compare docs/operations.md with it.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

from app.errors import PolicyError
from app.redaction import excerpt

DEFAULT_POLICY_FILE = "./policy.yaml"
_MAX_DIGITS = 20  # of a whole number; Python reads at most 4300
_MOST_SHOWN = 64  # characters of the name of an unknown variable


@dataclass(frozen=True, slots=True)
class Settings:
    """Hold the settings of this process.  The policy decides about the routing."""

    host: str = "127.0.0.1"
    port: int = 3030
    policy: str = DEFAULT_POLICY_FILE
    db: str = "./metrics.db"
    workers: int = 1
    api_keys: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    max_body_bytes: int = 33_554_432
    connect_timeout_s: float = 3.0
    first_byte_timeout_s: float = 120.0
    idle_timeout_s: float = 60.0
    send_timeout_s: float = 60.0
    cooldown_s: float = 10.0
    graceful_timeout_s: int = 30
    retention_days: float = 30.0
    log_level: str = "info"


def _text(raw: str) -> str:
    if not raw:
        raise ValueError("must not be empty")
    return raw


def _names(raw: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in raw.split(",") if part.strip())


def _keys(raw: str) -> tuple[str, ...]:
    keys = _names(raw)
    if not keys:
        raise ValueError("contains no key; unset it when the router needs no keys")
    return keys


def _whole(low: int, high: int) -> Callable[[str], int]:
    def parse(raw: str) -> int:
        if not raw.isascii() or not raw.isdigit() or len(raw) > _MAX_DIGITS or not low <= int(raw) <= high:
            raise ValueError(f"must be a whole number from {low} to {high}")
        return int(raw)

    return parse


def _above_zero(high: float) -> Callable[[str], float]:
    def parse(raw: str) -> float:
        try:
            number = float(raw)
        except ValueError:
            number = math.nan
        if not 0 < number <= high:
            raise ValueError(f"must be a number above 0, at most {high:g}")
        return number

    return parse


def _level(raw: str) -> str:
    levels = ("debug", "info", "warning", "error")
    if raw.lower() not in levels:
        raise ValueError(f"must be one of {', '.join(levels)}")
    return raw.lower()


@dataclass(frozen=True, slots=True)
class Variable:
    """Hold one row of the table: the variable, its field in Settings, its parser, and its default for the pages."""

    name: str
    field: str
    parse: Callable[[str], object]
    default: str


VARIABLES = (  # docs/operations.md describes each of them
    Variable("LLR_HOST", "host", _text, "127.0.0.1"),
    Variable("LLR_PORT", "port", _whole(1, 65535), "3030"),
    Variable("LLR_POLICY", "policy", _text, DEFAULT_POLICY_FILE),
    Variable("LLR_DB", "db", _text, "./metrics.db"),
    Variable("LLR_WORKERS", "workers", _whole(1, 64), "cores, at most 4"),
    Variable("LLR_API_KEYS", "api_keys", _keys, "unset: open"),
    Variable("LLR_ALLOWED_ORIGINS", "allowed_origins", _names, "loopback names"),
    Variable("LLR_ALLOWED_HOSTS", "allowed_hosts", _names, "loopback names"),
    Variable("LLR_MAX_BODY_BYTES", "max_body_bytes", _whole(1024, 2**31), "33554432"),
    Variable("LLR_CONNECT_TIMEOUT", "connect_timeout_s", _above_zero(3600), "3"),
    Variable("LLR_FIRST_BYTE_TIMEOUT", "first_byte_timeout_s", _above_zero(86400), "120"),
    Variable("LLR_IDLE_TIMEOUT", "idle_timeout_s", _above_zero(86400), "60"),
    Variable("LLR_SEND_TIMEOUT", "send_timeout_s", _above_zero(86400), "60"),
    Variable("LLR_COOLDOWN", "cooldown_s", _above_zero(3600), "10"),
    Variable("LLR_GRACEFUL_TIMEOUT", "graceful_timeout_s", _whole(1, 3600), "30"),
    Variable("LLR_RETENTION_DAYS", "retention_days", _above_zero(36500), "30"),
    Variable("LLR_LOG_LEVEL", "log_level", _level, "info"),
)


def load(environ: Mapping[str, str]) -> Settings:
    """Return the settings in `environ`; an empty value counts as unset.  Raises PolicyError with every problem."""
    values: dict[str, Any] = {}  # field -> value; each parser returns the type of its field
    problems: list[str] = []
    for variable in VARIABLES:
        raw = environ.get(variable.name, "").strip()
        if not raw:
            continue
        try:
            values[variable.field] = variable.parse(raw)
        except ValueError as error:
            problems.append(f"{variable.name}: {error}")
    names = [variable.name for variable in VARIABLES]
    for name in sorted(environ):
        if name.startswith("LLR_") and name not in names:
            near = difflib.get_close_matches(name, names, 1) if len(name) <= _MOST_SHOWN else []
            remedy = f" (did you mean {near[0]}?)" if near else "; unset it (docs/operations.md lists all variables)"
            problems.append(f"{excerpt(name, most=_MOST_SHOWN)}: no such variable{remedy}")
    if problems:
        raise PolicyError([f"environment: {problem}" for problem in problems])
    return Settings(**values)


def database_problem(location: str) -> str | None:
    """Return why LLR_DB cannot work, in one line, or None when it can.  This function opens no connection."""
    if "://" not in location:
        return None
    try:
        parts = urlsplit(location)
        scheme, name = parts.scheme, parts.path.strip("/")
    except ValueError:
        return "is no database URL; write the path of an SQLite file, or postgresql://user:password@host/name"
    if scheme not in ("postgresql", "postgres"):
        return f"{scheme}:// is no supported database; write the path of an SQLite file, or postgresql://user:password@host/name"
    if not name:
        return "names no database; write postgresql://user:password@host/name"
    if not any(find_spec(driver) for driver in ("psycopg", "psycopg2")):
        return "PostgreSQL needs one more package: pip install -r requirements-postgres.txt"
    return None
