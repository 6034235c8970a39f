"""LLR_DB: what it may be, and what is said of the rest."""

from __future__ import annotations

import subprocess
import sys

import pytest

from app import settings, storage
from tests.e2e.server import ROOT, RouterDied


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is installed here, as if psycopg was."""
    monkeypatch.setattr(settings, "find_spec", lambda name: name == "psycopg" or None)


@pytest.fixture
def no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "find_spec", lambda _: None)


@pytest.mark.usefixtures("no_driver")
@pytest.mark.parametrize("location", ["./metrics.db", "/var/lib/llr/metrics.db", ":memory:"])
def test_a_path_needs_nothing(location: str) -> None:
    assert settings.database_problem(location) is None


@pytest.mark.usefixtures("driver")
@pytest.mark.parametrize(
    "location", ["postgresql://u:p@host:5432/llr", "postgres://host/llr", "postgresql:///llr?host=/run"]
)
def test_postgresql_needs_its_driver(location: str) -> None:
    assert settings.database_problem(location) is None


@pytest.mark.usefixtures("no_driver")
def test_without_a_driver_it_says_what_to_install() -> None:
    said = settings.database_problem("postgresql://user:secret@host/llr")
    assert said == "PostgreSQL needs one more package: pip install -r requirements-postgres.txt"
    with pytest.raises(storage.StoreError, match=r"requirements-postgres\.txt"):
        storage.connect("postgresql://user:secret@host/llr")


@pytest.mark.usefixtures("driver")
@pytest.mark.parametrize(
    ("location", "said"),
    [
        ("mysql://user:secret@host/llr", "mysql:// is no supported database"),
        ("sqlite:///metrics.db", "sqlite:// is no supported database"),
        ("postgresql://user:secret@host", "names no database"),
        ("postgresql://[secret/llr", "is no database URL"),
    ],
)
def test_what_cannot_work_is_named_without_its_password(location: str, said: str) -> None:
    problem = settings.database_problem(location)
    assert problem is not None and said in problem and "secret" not in problem and "\n" not in problem


@pytest.mark.e2e
def test_the_start_ends_with_status_3_and_one_line(router) -> None:
    policy = {"backends": {"echo": {"type": "echo"}}, "routes": [{"default": "echo"}]}
    with pytest.raises(RouterDied) as caught:
        router(policy, env={"LLR_DB": "mysql://user:secret@host/llr"})
    assert "exit status 3" in str(caught.value)
    lines = [line for line in str(caught.value).splitlines() if "LLR_DB" in line]
    assert len(lines) == 1 and "secret" not in str(caught.value)


def test_a_command_says_it_too(tmp_path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("backends: {echo: {type: echo}}\nroutes: [{default: echo}]\n", "utf-8")
    environment = {"LLR_POLICY": str(policy), "LLR_DB": "mysql://user:secret@host/llr", "PATH": ""}
    command = [sys.executable, "-m", "flask", "policy", "check"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "LLR_DB: mysql:// is no supported database" in done.stderr and "Traceback" not in done.stderr
