"""How large the pages of very many videos are, and how soon headless Chromium shows them.

The report is measured with pictures as well, as many as a page has room for.

Open: from asking for the file until the first score curves are drawn and every control works.
CPU: what the page's process has used by then, which other work on the machine changes less.
Slider and sorting: until the page is laid out again. Each is the middle of several rounds.

Run: python -m bench.bench_report [--videos N] [--frames N] [--rounds N]
"""

import argparse
import base64
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench.chromium import open_chromium, why_no_chromium
from extract.thumbnails import encode
from model.evaluation.comparison import EvaluatedRun, write_comparison
from model.evaluation.report import write_report
from model.evaluation.why import MAX_PICTURES, NUM_NEIGHBOURS, PAGE_BYTES
from model.measures.metrics import VideoResult
from model.measures.table import measure_all

CATEGORIES = ("assault", "fall", "fire", "run", "theft")
LAID_OUT = """(() => {
    const begun = performance.now();
    %s;
    document.body.offsetHeight;
    return performance.now() - begun;
})()"""
STEP, SORT = (LAID_OUT % what for what in ("setThreshold(level + 1)", "arrange()"))


def draw_results(num_videos: int, num_frames: int, seed: int) -> list[VideoResult]:
    """Return restless curves; every second video has up to three events, the same for all seeds."""
    truth, noise = np.random.default_rng(0), np.random.default_rng(seed)
    results = []
    for index in range(num_videos):
        labels = np.zeros(num_frames, np.uint8)
        for start in truth.integers(num_frames, size=3) if index % 2 else ():
            labels[start : start + num_frames // 20] = 1
        walk = np.convolve(noise.normal(size=num_frames + 30), np.ones(31) / 31, "valid") * 6
        category = CATEGORIES[index % len(CATEGORIES)]
        results.append(
            VideoResult(
                video=f"camera-{index % 40:02d}/recording-{index:05d}.mp4",
                scores=1 / (1 + np.exp(-(walk + 3 * labels - 2))),
                labels=labels,
                category=category,
                predicted=category,
                probabilities=np.full(len(CATEGORIES), 1 / len(CATEGORIES)),
                frame_rate=25.0,
            )
        )
    return results


def draw_why(results: list[VideoResult]) -> dict[str, Any]:
    """Return pictures and nearest clips of the videos, the first ones until the page is full."""
    draw = np.random.default_rng(2)
    images: list[str] = []
    room, cards = PAGE_BYTES, []
    for result in results:
        numbers = []
        for _ in range(MAX_PICTURES + NUM_NEIGHBOURS):
            # about as smooth as a camera's picture: 3 to 4 kB
            coarse = draw.integers(256, size=(30, 40, 3), dtype=np.uint8)
            picture = np.kron(coarse, np.ones((3, 4, 1), np.uint8))
            text = "data:image/jpeg;base64," + base64.b64encode(encode(picture, (160, 90))).decode()
            if len(text) > room:
                break
            room -= len(text)
            numbers.append(len(images))
            images.append(text)
        peak = int(result.scores.argmax())
        near = {"video": result.video, "frame": 0, "seconds": 0.0, "label": "normal"}
        cards.append(
            {
                "pictures": [
                    {"frame": peak, "what": "peak", "image": number}
                    for number in numbers[:MAX_PICTURES]
                ],
                "neighbours": [
                    {**near, "distance": 0.5, "image": number} for number in numbers[MAX_PICTURES:]
                ],
                "far": None,
            }
        )
    return {"images": images, "cards": cards, "is_full": len(numbers) <= NUM_NEIGHBOURS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--videos", type=int, default=1000)
    parser.add_argument("--frames", type=int, default=5000, help="of each video")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    if missing := why_no_chromium():
        raise SystemExit(missing)
    runs = [draw_results(options.videos, options.frames, seed) for seed in (1, 2)]
    found = {**measure_all(runs[0][:20], CATEGORIES).to_dict(), "protocol": "drawn"}
    with tempfile.TemporaryDirectory(prefix="feat-bench-") as root, open_chromium() as browser:
        folder = Path(root)
        begun = time.process_time()
        pages = {"report": write_report(folder, runs[0], found, title="drawn", settings={})}
        written = [time.process_time() - begun]
        why = draw_why(runs[0])
        (folder / "pictures").mkdir()
        begun = time.process_time()
        pages[f"report with {len(why['images'])} pictures"] = write_report(
            folder / "pictures", runs[0], found, title="drawn", settings={}, why=why
        )
        written.append(time.process_time() - begun)
        compared = [
            EvaluatedRun(path=Path(name), name=name, protocol="drawn", results=results)
            for name, results in zip(("first", "second"), runs, strict=True)
        ]
        begun = time.process_time()
        pages["two runs compared"] = write_comparison(compared, out=folder / "comparison.html")
        written.append(time.process_time() - begun)
        print(f"{options.videos} videos of {options.frames} frames; Chromium {browser.version}\n")
        print("| page | written, CPU s | MB | elements | open, s | CPU s | slider, ms | sort, ms |")
        print("|---|---:|---:|---:|---:|---:|---:|---:|")
        for (name, path), seconds in zip(pages.items(), written, strict=True):
            rows = []
            for _ in range(options.rounds):
                page = browser.new_page(viewport={"width": 1400, "height": 900})
                session = page.context.new_cdp_session(page)
                session.send("Performance.enable")
                begun = time.perf_counter()
                page.goto(path.as_uri())
                page.wait_for_selector(".plot svg")
                opened = time.perf_counter() - begun
                metrics = session.send("Performance.getMetrics")["metrics"]
                (busy,) = (each["value"] for each in metrics if each["name"] == "ProcessTime")
                step = page.evaluate(STEP) if name.startswith("report") else float("nan")
                rows.append((opened, busy, step, page.evaluate(SORT)))
                count = page.evaluate("document.querySelectorAll('*').length")
                page.close()
            middle = [statistics.median(column) for column in zip(*rows, strict=True)]
            opened, busy, step, sort = middle
            stepped = f"{step:.0f}" if name.startswith("report") else ""
            print(
                f"| {name} | {seconds:.1f} | {path.stat().st_size / 1e6:.1f} | {count} | "
                f"{opened:.2f} | {busy:.2f} | {stepped} | {sort:.0f} |"
            )


if __name__ == "__main__":
    main()
