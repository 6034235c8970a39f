"""deploy/ and the Dockerfile say the same as the program."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import yaml

from app.errors import BodyTooLarge
from app.policy import load
from app.settings import VARIABLES, Settings

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "deploy"
NGINX = (DEPLOY / "nginx.conf").read_text(encoding="utf-8")


def test_nginx_takes_what_the_router_takes() -> None:
    [mebibytes] = re.findall(r"client_max_body_size (\d+)m;", NGINX)
    assert int(mebibytes) * 2**20 == Settings().max_body_bytes
    assert f'"code": "{BodyTooLarge.code}"' in NGINX


def test_nginx_does_not_hold_tokens_back() -> None:
    assert "proxy_buffering off;" in NGINX
    assert "proxy_http_version 1.1;" in NGINX


def test_nginx_loses_no_header_that_says_private() -> None:
    assert "underscores_in_headers on;" in NGINX
    assert 'header_map = "dangerous"' in (ROOT / "gunicorn.conf.py").read_text(encoding="utf-8")


def test_what_stops_the_router_waits_longer_than_the_router() -> None:
    unit = configparser.RawConfigParser(strict=False)  # systemd repeats keys
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read(DEPLOY / "local-llm-router.service", encoding="utf-8")
    assert int(unit["Service"]["TimeoutStopSec"]) > Settings().graceful_timeout_s

    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
    assert int(compose["services"]["router"]["stop_grace_period"].removesuffix("s")) > Settings().graceful_timeout_s


def test_variables_exist() -> None:
    known = {variable.name for variable in VARIABLES}
    for file in [ROOT / "Dockerfile", *DEPLOY.iterdir()]:
        named = set(re.findall(r"\bLLR_[A-Z_]+\b", file.read_text(encoding="utf-8")))
        assert named <= known, f"{file.name} names {sorted(named - known)}"


def test_the_image_gets_only_files_that_exist() -> None:
    kept = re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(encoding="utf-8"), re.M)
    assert {"app", "wsgi.py", "gunicorn.conf.py", "requirements.txt"} <= set(kept)
    missing = [name for name in kept if not (ROOT / name).exists()]
    assert not missing


def test_the_compose_policy_loads() -> None:
    name = "policy.compose.yaml"
    loaded = load((DEPLOY / name).read_text(encoding="utf-8"), name, Settings())
    assert not loaded.warnings
    assert loaded.policy.backends["local"].local  # the sensitive route needs it proven before the container is up
    assert f"/config/{name}" in (DEPLOY / "compose.yaml").read_text(encoding="utf-8")
