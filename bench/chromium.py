"""Headless Chromium through Playwright: for the benchmark of the pages, and for their tests."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Browser


def find_chromium() -> str | None:
    """Return the path of the browser: FEAT_CHROMIUM, or Debian's."""
    return os.environ.get("FEAT_CHROMIUM") or shutil.which("chromium")


def why_no_chromium() -> str:
    """Return what is missing to open a page; empty if nothing is."""
    if not find_spec("playwright"):
        return "playwright is not installed (pip install playwright)"
    if not find_chromium():
        return "no chromium on the PATH (apt install chromium, or FEAT_CHROMIUM)"
    return ""


@contextmanager
def open_chromium() -> Iterator["Browser"]:
    """Give a browser to a block, and close it behind."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=["--no-sandbox"])
        yield browser
        browser.close()
