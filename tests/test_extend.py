"""docs/EXTEND.md is right: each example is one short file and one entry, and works."""

import json
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

import data.datasets
import extract
import model.measures
import model.methods
from cache import FeatureCache
from data.labels import read_labels
from data.videos import VideoSource
from extract.decode.config import DecodeConfig
from extract.decode.open import open_video
from feat import cli

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "EXTEND.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"^`(\S+\.py)`:\n\n```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE))
DIFFS = re.findall(r"^```diff\n--- (\S+)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
PACKAGES = (data.datasets, extract, model.measures, model.methods)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def added(tmp_path_factory) -> Any:
    """The four files in their packages, as far as Python sees, and the four entries."""
    folder = tmp_path_factory.mktemp("added")
    with pytest.MonkeyPatch.context() as patch:
        for name, code in FILES.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(code, encoding="utf-8")
        for package in PACKAGES:
            own = folder / package.__name__.replace(".", "/")
            patch.setattr(package, "__path__", [*package.__path__, str(own)])
        for file, diff in DIFFS:
            registry, entries = parsed(file, diff)
            for name, entry in entries.items():
                assert name not in registry
                patch.setitem(registry, name, entry)
        yield folder
    for name in FILES:
        module = name.removesuffix(".py").replace("/", ".")
        package, _, attribute = module.rpartition(".")
        if sys.modules.pop(module, None):
            delattr(import_module(package), attribute)


def parsed(file: str, diff: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the registry that a diff of the page is of, and what it adds to it."""
    opening = next(line[1:] for line in diff.splitlines() if re.match(r" \w+.* = \{", line))
    assert opening in (ROOT / file).read_text(encoding="utf-8")
    lines = [line[1:] for line in diff.splitlines() if line.startswith("+")]
    imports = [line for line in lines if line.startswith("from ")]
    (entry,) = [line for line in lines if line not in imports]
    names: dict[str, Any] = {}
    exec("\n".join(imports), names)
    registry = getattr(
        import_module(file.removesuffix(".py").replace("/", ".")), opening.split(":")[0].split()[0]
    )
    return registry, eval(f"{{{entry}}}", names)


@pytest.fixture(scope="module")
def user(added, tmp_path_factory, make_video) -> Path:
    """A user's folder with eight videos, no two alike, four of them with an event."""
    folder = tmp_path_factory.mktemp("user")
    for index in range(8):
        make_video(folder / "videos" / f"{index}.mp4", num_frames=40 + 8 * index)
    rows = [
        "video,start,end",
        "0.mp4,8,24",
        "2.mp4,0,16",
        "2.mp4,32,40",
        "4.mp4,16,60",
        "6.mp4,20,30",
    ]
    (folder / "videos" / "events.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder


def feat(*arguments: str, cwd: Path) -> Result:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(cwd)
        return CliRunner().invoke(cli, arguments)


@pytest.fixture(scope="module")
def labelled(user) -> Result:
    return feat("data", "street", "--root", "videos", "--out", "labels.csv", cwd=user)


@pytest.fixture(scope="module")
def extracted(user, labelled) -> Result:
    return feat("extract", "--videos", "videos", "--streams", "colour",
                "--device", "cpu", "--workers", "1", cwd=user)  # fmt: skip


@pytest.fixture(scope="module")
def trained(user, extracted) -> Result:
    return feat(
        "train",
        "--method",
        "centroid",
        "--set",
        "min_std=0.05",
        "--labels",
        "labels.csv",
        "--out",
        "run",
        cwd=user,
    )


@pytest.fixture(scope="module")
def evaluated(user, trained) -> Result:
    return feat("eval", "--run", "run", "--json", cwd=user)


def test_there_are_four_and_each_is_short():
    assert list(FILES) == ["data/datasets/street.py", "extract/colour.py",
                           "model/measures/events.py", "model/methods/centroid.py"]  # fmt: skip
    assert [file for file, _ in DIFFS] == [
        "data/datasets/registry.py",
        "extract/backbones.py",
        "model/measures/registry.py",
        "model/methods/registry.py",
    ]
    for name, code in FILES.items():
        assert code.count("\n") < 80, name
        assert not (ROOT / name).exists(), "the page says it is new"


def test_the_linter_finds_nothing(added):
    options = ["--no-cache", "--config", str(ROOT / "pyproject.toml"), str(added)]
    for task in (["check"], ["format", "--diff"]):
        command = [sys.executable, "-m", "ruff", *task, *options]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_dataset_is_a_command(user, labelled):
    assert labelled.exit_code == 0, labelled.output
    assert "labels.csv: 8 videos" in labelled.stdout
    labels = {label.video: label for label in read_labels(user / "labels.csv")}
    assert labels["2.mp4"].intervals == ((0, 16), (32, 40))
    assert labels["1.mp4"].extent == "normal"
    parts = [(row.split, row.is_abnormal) for row in labels.values()]
    assert [parts.count((s, a)) for s in ("train", "test") for a in (True, False)] == [2] * 4
    assert "Street: videos and events.csv." in feat("data", "--help", cwd=user).stdout
    assert "--debug" in feat("data", "street", "--help", cwd=user).stdout


def test_the_dataset_says_what_is_missing(user, tmp_path):
    events = (user / "videos" / "events.csv").read_text()
    (tmp_path / "events.csv").write_text(events + "9.mp4,0,10\n")
    (tmp_path / "0.mp4").write_bytes((user / "videos" / "0.mp4").read_bytes())
    command = ("data", "street", "--root", ".", "--out", "labels.csv")
    refused = feat(*command, cwd=tmp_path)
    assert refused.exit_code == 1
    assert "4 videos of events.csv not found: 2.mp4, 4.mp4, 6.mp4, 9.mp4" in refused.stderr
    (tmp_path / "events.csv").write_text("video,start,end\n0.mp4,one,2\n")
    assert "events.csv:2: found" in feat(*command, cwd=tmp_path).stderr


def test_the_backbone_fills_a_stream_of_the_cache(user, extracted):
    assert extracted.exit_code == 0, extracted.output
    features = FeatureCache(user / "features").read("0.mp4", "colour")
    assert (features.shape, features.dtype) == ((3, 96), np.float32)
    path = user / "videos" / "0.mp4"
    source = VideoSource(video_id="0.mp4", path=path, kind="file")
    with open_video(source, DecodeConfig(), threads=1) as stream:
        frames, _ = stream.read(16)
    corner = frames[:, :56, :56].reshape(-1, 3) / 255.0
    expected = [*corner.mean(axis=0), *corner.std(axis=0)]
    np.testing.assert_allclose(features[0, :6], expected, rtol=1e-3)


def test_the_method_trains_and_keeps_its_setting(user, trained, evaluated):
    assert trained.exit_code == 0, trained.output
    assert evaluated.exit_code == 0, evaluated.output
    report = json.loads(evaluated.stdout)
    assert report["protocol"].startswith("centroid, unsupervised (features, no labels, of 2 normal")
    cache = FeatureCache(user / "features")
    labels = read_labels(user / "labels.csv")
    normal = [r.video for r in labels if r.split == "train" and not r.is_abnormal]
    clips = np.concatenate([cache.read(video, "colour") for video in normal]).astype(np.float64)
    video = next(row.video for row in labels if row.split == "test")
    offsets = (cache.read(video, "colour") - clips.mean(axis=0)) / np.maximum(
        clips.std(axis=0), 0.05
    )
    distance = np.sqrt((offsets**2).mean(axis=1))
    scores = np.loadtxt(user / "run/eval/scores" / f"{video}.csv", delimiter=",", skiprows=1)[:, 1]
    np.testing.assert_allclose(scores[::16], distance / (1 + distance), atol=1e-4)


def test_the_measure_stands_with_the_others(user, evaluated):
    report = json.loads(evaluated.stdout)
    scores = np.load(user / "run" / "eval" / "scores.npz")
    edges = np.cumsum(scores["num_frames"])[:-1]
    found = []
    for curve, truth in zip(
        np.split(scores["scores"], edges), np.split(scores["labels"], edges), strict=True
    ):
        runs = "".join(map(str, truth))
        found += [bool((curve[m.start() : m.end()] >= 0.5).any()) for m in re.finditer("1+", runs)]
    assert report["events_found"] == pytest.approx(np.mean(found))
    low, high = report["intervals"]["events_found"]
    assert low <= report["events_found"] <= high
    held = json.loads((user / "run" / "eval" / "metrics.json").read_text())
    assert held["events_found"] == report["events_found"]
    page = (user / "run" / "eval" / "report.html").read_text()
    assert "Share of the labelled events in which at least one frame scores 0.5 or more." in page
    assert "1000 draws (200 for events_found)" in page
    assert "\nevents_found    " in feat("eval", "--run", "run", cwd=user).stdout
