"""deploy/ and the Dockerfile say the same as the program."""

from __future__ import annotations

import configparser
import json
import re
from pathlib import Path

import yaml
from prometheus_client.parser import text_string_to_metric_families

from app.errors import BodyTooLarge
from app.metrics.aggregates import Aggregate, Key, Spread
from app.metrics.prometheus import Snapshot, exposition
from app.metrics.servers import servers
from app.policy import load
from app.settings import VARIABLES, Settings
from tests import build
from tests.documents import Document, names

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


# --- Prometheus and Grafana ---------------------------------------------------------------------

DASHBOARD = json.loads((DEPLOY / "grafana-dashboard.json").read_text(encoding="utf-8"))
ALERTS = yaml.safe_load((DEPLOY / "prometheus-alerts.yaml").read_text(encoding="utf-8"))


def exported() -> dict[str, set[str]]:
    """Every sample name of /metrics with its labels, and those that a recording of it goes by."""
    some = Aggregate(1, latency=spread(50), ttfb=spread(5), wait=spread(5), load=spread(5), held=spread(5))
    workers = {"w": build.worker_report("e", expires_ms=0)}
    live, *others = (Key("e", "m", "default", kind, verified="kept") for kind in ("live", "shadow", "verify"))
    now = servers(["e"], list(workers.values()), 0)
    totals = dict.fromkeys((live, *others), some)
    text = exposition(Snapshot(totals, {live: some}, workers, 0, {"not_found": 1}, servers=now))
    samples = (sample for family in text_string_to_metric_families(text.decode()) for sample in family.samples)
    found: dict[str, set[str]] = {}
    for sample in samples:
        found.setdefault(sample.name, set()).update(sample.labels)
    return found


def spread(value: float) -> Spread:
    made = Spread()
    made.add(value)
    return made


def dashboard_expressions() -> list[str]:
    return [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


def alert_expressions() -> list[str]:
    return [rule["expr"] for group in ALERTS["groups"] for rule in group["rules"]]


def test_expressions_name_only_what_is_exported() -> None:
    known = exported()
    for expression in [*dashboard_expressions(), *alert_expressions()]:
        named = set(re.findall(r"\bllr_\w+", expression))
        assert named and named <= known.keys(), expression
        labels = set().union(*(known[name] for name in named))
        for used in re.findall(r"by \(([^)]*)\)", expression):
            assert {label.strip() for label in used.split(",")} <= labels, expression
        assert set(re.findall(r"(\w+)=~?\"", expression)) <= labels, expression


def test_the_dashboard_shows_every_metric() -> None:
    shown = set(re.findall(r"\bllr_\w+", " ".join(dashboard_expressions())))
    missing = {re.sub(r"_(bucket|sum|count)$", "", name) for name in exported()} - {
        re.sub(r"_bucket$", "", name) for name in shown
    }
    assert not missing


def test_the_dashboard_is_whole() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert place["x"] + place["w"] <= 24 and not cells & taken, panel["title"]
        taken |= cells
        assert panel["datasource"]["uid"] == "${datasource}" and panel["title"]
    assert {variable["name"] for variable in DASHBOARD["templating"]["list"]} == {"datasource", "backend"}


def test_alerts_say_what_and_why() -> None:
    rules = [rule for group in ALERTS["groups"] for rule in group["rules"]]
    assert len({rule["alert"] for rule in rules}) == len(rules) >= 8
    for rule in rules:
        assert rule["labels"]["severity"] in ("info", "warning", "critical")
        assert rule["annotations"].keys() == {"summary", "description"}
    listed = {name for row in Document.read("docs/operations.md").rows("alert") for name in names(row[0])}
    assert listed == {rule["alert"] for rule in rules}
