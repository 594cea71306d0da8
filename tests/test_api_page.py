"""docs/API.md is right: its code runs, one block after the other, and what it names is there."""

import contextlib
import io
import re
from pathlib import Path

from model_cache import demo_rows, make_cache

from cache import FeatureCache

PAGE_FOLDER = Path(__file__).resolve().parents[1] / "docs"
PAGE = (PAGE_FOLDER / "API.md").read_text(encoding="utf-8")
CODE = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def test_every_example_runs(tmp_path, monkeypatch) -> None:
    make_cache(tmp_path / "features", demo_rows()[:2])
    monkeypatch.chdir(tmp_path)
    said = []
    for number, block in enumerate(CODE):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile(block, f"docs/API.md, example {number}", "exec"), {})
        said.append(out.getvalue().splitlines())
    reading, writing, errors, labels = said
    assert reading == [
        "bad/0.mp4 flow (10, 32) frames 0:160 160",
        "bad/0.mp4 rgb (10, 32) frames 0:160 160",
        "bad/1.mp4 flow (10, 32) frames 0:160 160",
        "bad/1.mp4 rgb (10, 32) frames 0:160 160",
    ]
    assert writing == []
    assert FeatureCache(tmp_path / "own-features").videos() == ["street/a.mp4"]
    assert errors[0].startswith("nowhere: no feature cache here")
    assert labels[0] == "bad/0.mp4 train run ((32, 64),)"


def test_every_method_in_the_table_is_there() -> None:
    rows = re.findall(r"^\| (`.*?) \|", PAGE, re.MULTILINE)
    methods = re.findall(r"(\w+)\(", " ".join(rows))
    assert {"videos", "write", "refresh"} <= set(methods)
    assert [name for name in methods if not hasattr(FeatureCache, name)] == []
    reference = PAGE_FOLDER.joinpath("REFERENCE.md").read_text(encoding="utf-8")
    (listed,) = re.findall(r"cache\.FeatureCache\n +:members: (.*?)\n```", reference, re.DOTALL)
    assert set(methods) - set(re.split(r",\s+", listed)) == set(), "docs/REFERENCE.md leaves it out"
