"""LLR_* variables: defaults, values, and every mistake with its line."""

from __future__ import annotations

import dataclasses

import pytest

from app import settings
from app.errors import PolicyError
from app.settings import VARIABLES, Settings


def test_without_variables_the_defaults_hold() -> None:
    assert settings.load({}) == Settings()
    assert settings.load({"LLR_PORT": "", "LLR_API_KEYS": "  ", "PATH": "/bin"}) == Settings()
    assert Settings() == Settings(
        host="127.0.0.1",
        port=3030,
        policy="./policy.yaml",
        db="./metrics.db",
        workers=1,
        api_keys=(),
        allowed_origins=(),
        allowed_hosts=(),
        max_body_bytes=33554432,
        connect_timeout_s=3,
        first_byte_timeout_s=120,
        idle_timeout_s=60,
        cooldown_s=10,
        graceful_timeout_s=30,
        retention_days=30,
        log_level="info",
    )


def test_the_table_has_one_row_for_each_setting_and_shows_its_real_default() -> None:
    assert [row.field for row in VARIABLES] == [field.name for field in dataclasses.fields(Settings)]
    for row in VARIABLES:
        value = getattr(Settings(), row.field)
        if row.field not in ("workers", "api_keys", "allowed_origins", "allowed_hosts"):
            assert row.parse(row.default) == value, row.name


GOOD = [
    ("LLR_HOST", " 0.0.0.0 ", "host", "0.0.0.0"),
    ("LLR_PORT", "1", "port", 1),
    ("LLR_PORT", "65535", "port", 65535),
    ("LLR_POLICY", "/etc/llr/p.yaml", "policy", "/etc/llr/p.yaml"),
    ("LLR_DB", "postgresql://u@h/db", "db", "postgresql://u@h/db"),
    ("LLR_WORKERS", "64", "workers", 64),
    ("LLR_API_KEYS", "one, two ,,three", "api_keys", ("one", "two", "three")),
    ("LLR_ALLOWED_ORIGINS", "https://a.example,", "allowed_origins", ("https://a.example",)),
    ("LLR_ALLOWED_HOSTS", "gpu.lan", "allowed_hosts", ("gpu.lan",)),
    ("LLR_MAX_BODY_BYTES", "1024", "max_body_bytes", 1024),
    ("LLR_CONNECT_TIMEOUT", "0.25", "connect_timeout_s", 0.25),
    ("LLR_FIRST_BYTE_TIMEOUT", "86400", "first_byte_timeout_s", 86400.0),
    ("LLR_IDLE_TIMEOUT", "1e2", "idle_timeout_s", 100.0),
    ("LLR_COOLDOWN", "3600", "cooldown_s", 3600.0),
    ("LLR_GRACEFUL_TIMEOUT", "3600", "graceful_timeout_s", 3600),
    ("LLR_RETENTION_DAYS", "0.5", "retention_days", 0.5),
    ("LLR_LOG_LEVEL", "WARNING", "log_level", "warning"),
]


@pytest.mark.parametrize("name, raw, field, value", GOOD)
def test_a_value_reaches_its_setting(name: str, raw: str, field: str, value: object) -> None:
    assert settings.load({name: raw}) == dataclasses.replace(Settings(), **{field: value})


PORT = "must be a whole number from 1 to 65535"
SECONDS = "must be a number above 0, at most 3600"
WRONG = [
    ("LLR_PORT", "0", PORT),
    ("LLR_PORT", "65536", PORT),
    ("LLR_PORT", "-1", PORT),
    ("LLR_PORT", "3030.0", PORT),
    ("LLR_PORT", "http", PORT),
    ("LLR_PORT", "３０３０", PORT),
    ("LLR_PORT", "1_000", PORT),
    ("LLR_WORKERS", "0", "must be a whole number from 1 to 64"),
    ("LLR_WORKERS", "65", "must be a whole number from 1 to 64"),
    ("LLR_API_KEYS", ",", "contains no key; unset it when the router needs no keys"),
    ("LLR_MAX_BODY_BYTES", "1023", "must be a whole number from 1024 to 2147483648"),
    ("LLR_CONNECT_TIMEOUT", "0", SECONDS),
    ("LLR_CONNECT_TIMEOUT", "-3", SECONDS),
    ("LLR_CONNECT_TIMEOUT", "nan", SECONDS),
    ("LLR_CONNECT_TIMEOUT", "inf", SECONDS),
    ("LLR_CONNECT_TIMEOUT", "3601", SECONDS),
    ("LLR_COOLDOWN", "soon", SECONDS),
    ("LLR_IDLE_TIMEOUT", "86401", "must be a number above 0, at most 86400"),
    ("LLR_GRACEFUL_TIMEOUT", "2.5", "must be a whole number from 1 to 3600"),
    ("LLR_RETENTION_DAYS", "0", "must be a number above 0, at most 36500"),
    ("LLR_LOG_LEVEL", "verbose", "must be one of debug, info, warning, error"),
    ("LLR_POLCY", "x", "no such variable (did you mean LLR_POLICY?)"),
    ("LLR_API_KEY", "x", "no such variable (did you mean LLR_API_KEYS?)"),
    ("LLR_XYZZY_FROBNICATE", "x", "no such variable; unset it (docs/operations.md lists all variables)"),
]


@pytest.mark.parametrize("name, raw, said", WRONG)
def test_a_wrong_variable_is_named(name: str, raw: str, said: str) -> None:
    with pytest.raises(PolicyError) as caught:
        settings.load({name: raw})
    assert caught.value.problems == (f"environment: {name}: {said}",)


def test_all_problems_are_told_at_once_and_no_value_is_shown() -> None:
    with pytest.raises(PolicyError) as caught:
        settings.load({"LLR_PORT": "x", "LLR_KEYS": "sk-secret-123456789", "LLR_WORKERS": "sk-secret-123456789"})
    assert caught.value.problems == (
        f"environment: LLR_PORT: {PORT}",
        "environment: LLR_WORKERS: must be a whole number from 1 to 64",
        "environment: LLR_KEYS: no such variable (did you mean LLR_API_KEYS?)",
    )
