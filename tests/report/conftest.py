"""An installed Chromium for the tests that look at pages."""

import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A browser of Playwright; skipped without one, which fails under REQUIRE_BROWSER=1."""
    required = os.environ.get("REQUIRE_BROWSER") == "1"
    path = next(filter(None, map(shutil.which, NAMES)), None)
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        path = None
    if path is None:
        reason = f"needs playwright and one of {', '.join(NAMES)}"
        (pytest.fail if required else pytest.skip)(reason)
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield launched
        launched.close()
