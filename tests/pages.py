"""What the tests of the HTML pages share: a page in Chromium, and what holds for all pages."""

import os
import re
from pathlib import Path

import numpy as np
import pytest

from model.measures.metrics import VideoResult

SIZES = [
    pytest.param(1400, "light", marks=pytest.mark.slow),
    pytest.param(1400, "dark", marks=pytest.mark.slow),
    pytest.param(400, "light", marks=pytest.mark.slow),
    (400, "dark"),
]
HOSTILE = "b/<script>hacked=1</script>\"'&$x$ ü日本.mp4"


def made_results() -> list[VideoResult]:
    """Videos of every kind: noisy, normal, weak, without a frame rate, one frame long."""
    rng = np.random.default_rng(5)

    def made(video: str, num_frames: int, spans=(), **more) -> VideoResult:
        labels = np.zeros(num_frames, np.uint8)
        for start, end in spans:
            labels[start:end] = 1
        noise = np.convolve(rng.normal(size=num_frames + 40), np.ones(41) / 41, "valid") * 9
        scores = 1 / (1 + np.exp(-(noise + 3.5 * labels - 2)))
        known = {"scores": scores, "labels": labels, "frame_rate": 25.0}
        return VideoResult(video=video, probabilities=np.full(2, 0.5), **{**known, **more})

    return [
        made("a/10.mp4", 900, [(100, 300), (600, 640)], category="fall", predicted="fall"),
        made("a/9.mp4", 400, category="", predicted="run"),
        made(HOSTILE, 300, [(0, 80)], category="<b>run", predicted="fall"),
        made("weak.mp4", 200, labels=None),
        made("no rate.mp4", 500, [(250, 500)], frame_rate=0.0, category="fall", predicted="fall"),
        made("missed.mp4", 300, [(20, 90), (150, 200)], scores=np.linspace(0.0, 0.3, 300)),
        made("long.mp4", 5000, [(1000, 1200), (4000, 4500)], frame_rate=12.5),
        made("one.mp4", 1),
    ]  # fmt: skip


class Opened:
    """A page in a browser, with all that it asked for and complained of."""

    def __init__(
        self, browser, path: Path, *, width: int = 1400, scheme: str = "light",
        ready: str = ".plot svg",
    ) -> None:  # fmt: skip
        self.page = browser.new_page(
            viewport={"width": width, "height": 900}, color_scheme=scheme, bypass_csp=False
        )
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())
        self.page.wait_for_selector(ready)

    def texts(self, selector: str) -> list[str]:
        return list(self.page.locator(selector).all_text_contents())

    def names(self) -> list[str]:
        return self.texts(".card:not([hidden]) h3")

    def unfold(self, is_open: bool) -> None:
        value = "true" if is_open else "false"
        self.page.evaluate(
            f"document.querySelectorAll('details').forEach((node) => (node.open = {value}))"
        )

    def set(self, index: int) -> None:
        self.page.locator("#threshold").evaluate(
            "(node, value) => { node.value = value;"
            " for (const kind of ['input', 'change']) node.dispatchEvent(new Event(kind)) }", index
        )  # fmt: skip


def check_layout(opened: Opened, name: str, width: int, scheme: str) -> None:
    """Nothing is wider than the window, too small to read or bright in the dark.

    FEAT_SCREENSHOTS names a folder that keeps a picture of the page as `<name>-<size>.png`.
    """
    page = opened.page
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    opened.unfold(True)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    opened.unfold(False)
    check_edges(page, "h3, .tags, .plot, .each, .measures > div, #control, figure", width)
    ground, ink = (
        sum(map(int, re.findall(r"\d+", page.evaluate(f"getComputedStyle(document.body).{name}"))))
        for name in ("backgroundColor", "color")
    )
    assert (ground > ink) == (scheme == "light")
    sizes = page.evaluate(
        "[...document.querySelectorAll('p, dt, dd, h3, th, td, select, figcaption')]"
        ".map((node) => parseFloat(getComputedStyle(node).fontSize))"
    )
    assert min(sizes) >= 12
    if folder := os.environ.get("FEAT_SCREENSHOTS"):
        page.set_viewport_size({"width": width, "height": 2400})
        page.wait_for_selector(".plot svg")
        page.screenshot(path=Path(folder) / f"{name}-{width}-{scheme}.png")


def check_edges(page, selector: str, width: int) -> None:
    """No element ends to the right of the window."""
    edges = page.evaluate(
        "(selector) => [...document.querySelectorAll(selector)]"
        ".map((node) => node.getBoundingClientRect().right)", selector
    )  # fmt: skip
    assert 0 < max(edges) <= width


def axe_violations(opened: Opened) -> list[tuple[str, str]]:
    """Return the rules of accessibility that axe-core finds broken, each with its first place."""
    from axe_playwright_python.sync_playwright import Axe

    opened.unfold(True)
    size = opened.page.viewport_size
    opened.page.set_viewport_size({**size, "height": 6000})  # what is out of sight is not judged
    opened.page.wait_for_selector(".plot svg")
    found = Axe().run(opened.page).response["violations"]
    return [(one["id"], one["nodes"][0]["html"]) for one in found]
