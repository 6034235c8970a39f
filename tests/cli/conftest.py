"""Fixtures of the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import Result

from app import create_app
from tests.e2e.server import free_port


@pytest.fixture
def examine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """`examine(policy, LLR_HOST=…)`: what `flask doctor` says."""

    def run(policy: dict[str, Any] | str | None, *arguments: str, **environ: str) -> Result:
        file = tmp_path / "policy.yaml"
        if policy is not None:
            file.write_text(policy if isinstance(policy, str) else yaml.safe_dump(policy), "utf-8")
        known = {"LLR_POLICY": str(file), "LLR_DB": str(tmp_path / "metrics.db"), "LLR_PORT": str(free_port())}
        for name in (
            "OPENAI_API_KEY",
            "ANTHROPIC_API_KEY",
            "SARMALINK_API_KEY",
            "HTTP_PROXY",
            "HTTPS_PROXY",
            "ALL_PROXY",
        ):
            monkeypatch.delenv(name.lower(), raising=False)
            monkeypatch.delenv(name, raising=False)
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        application = create_app({**known, "FLASK_RUN_FROM_CLI": "true", **environ})
        return application.test_cli_runner().invoke(args=["doctor", *arguments])

    return run
