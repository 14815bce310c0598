"""An installed Chromium for tests of pages, or the reason to skip them."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def find_chromium() -> str | None:
    """Return the path of an installed Chromium, or None."""
    return next(filter(None, map(shutil.which, _NAMES)), None)


def require_chromium() -> str:
    """Return the path of Chromium. Without one, skip the test, or fail if REQUIRE_BROWSER=1."""
    found = find_chromium()
    if found is None:
        reason = f"no Chromium on PATH ({', '.join(_NAMES)})"
        if os.environ.get("REQUIRE_BROWSER") == "1":
            pytest.fail(f"{reason}, and REQUIRE_BROWSER=1")
        pytest.skip(reason)
    return found


@pytest.fixture(scope="session")
def browser() -> "Iterator[Browser]":
    """A headless Chromium, or a reason to skip; see `require_chromium`.

    One for the whole process: Playwright's synchronous interface cannot be opened twice.
    """
    executable = require_chromium()
    # Started here once: within Playwright, a test that must start no process could not be skipped.
    subprocess.run([executable, "--version"], check=True, stdout=subprocess.DEVNULL)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=executable, args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()
