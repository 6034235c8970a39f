"""A headless Chromium.  Imported by the fixture alone: `make test` has no selenium."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from tests.documents import ROOT

PICTURES = ROOT / "build" / "page"
AXE = Path(__file__).parent / "node_modules" / "axe-core" / "axe.min.js"
SIZES = {1280: 900, 390: 844}
_ARGUMENTS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars")
_AUDIT = """
axe.run(document).then(found => JSON.stringify(
  found.violations.map(one => [one.id, one.impact, one.nodes.map(node => node.html)])))
"""


def chromium(*, script: bool = True) -> webdriver.Chrome:
    """A running one; starting it takes longer than most of what is tried in it."""
    options = webdriver.ChromeOptions()
    options.binary_location = os.environ.get("CHROMIUM", "/usr/bin/chromium")
    for argument in _ARGUMENTS:
        options.add_argument(argument)
    if not script:
        options.add_experimental_option("prefs", {"profile.managed_default_content_settings.javascript": 2})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options, Service(os.environ.get("CHROMEDRIVER", "/usr/bin/chromedriver")))


class Browser:
    """Its window, as good as new; `requests` are the addresses it asked for, `complaints` what its console says."""

    def __init__(self, driver: webdriver.Chrome, width: int, scheme: str) -> None:
        self.driver = driver
        self._width = width
        driver.get("about:blank")
        driver.execute_cdp_cmd("Network.clearBrowserCookies", {})
        for log in ("browser", "performance"):
            driver.get_log(log)
        self._resize(width, SIZES[width])
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def _resize(self, width: int, height: int) -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def open(self, url: str) -> Browser:
        self.driver.get(url)
        return self

    def find(self, name: str) -> Any:
        return self.driver.find_element(By.ID, name)

    def wait(self, condition: Callable[[], Any]) -> Any:
        """An element that the page replaced meanwhile is looked for again."""
        waiting = WebDriverWait(self.driver, 20, ignored_exceptions=[StaleElementReferenceException])
        return waiting.until(lambda _: condition())

    def picture(self, name: str) -> None:
        """Of the whole page."""
        PICTURES.mkdir(parents=True, exist_ok=True)
        self._resize(self._width, self.driver.execute_script("return document.documentElement.scrollHeight"))
        taken = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True})
        (PICTURES / f"{name}.png").write_bytes(base64.b64decode(taken["data"]))
        self._resize(self._width, SIZES[self._width])

    @property
    def requests(self) -> set[str]:
        messages = (json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance"))
        sent = (one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent")
        return {url for url in sent if not url.startswith("data:")}

    @property
    def complaints(self) -> list[Any]:
        return self.driver.get_log("browser")

    def audit(self) -> list[Any]:
        """What axe-core finds: [rule, impact, elements]."""
        assert AXE.exists(), "make test-page installs axe-core"
        self.driver.execute_cdp_cmd("Runtime.evaluate", {"expression": AXE.read_text("utf-8")})
        answer = self.driver.execute_cdp_cmd(
            "Runtime.evaluate", {"expression": _AUDIT, "awaitPromise": True, "returnByValue": True}
        )
        return json.loads(answer["result"]["value"])
