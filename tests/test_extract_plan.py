"""`feat extract DIR`, `--dry-run` and `--limit`: what is told, what is done, and what is not."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cache import FeatureCache
from data.labels import read_labels
from feat import cli

pytestmark = pytest.mark.usefixtures("one_thread", "small_frames")


@pytest.fixture
def home(tmp_path: Path, make_video, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three videos of two frames, one of them in a folder of its own, with labels."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEAT_WEIGHTS", str(tmp_path / "weights"))
    for name in ("a.mp4", "b.mp4", "sub/c.mp4"):
        make_video(tmp_path / "clips" / name, num_frames=2 + len(name) + ord(name[0]) % 2)
    labels = "video,split,category,anomaly\na.mp4,train,,\nb.mp4,test,,\n"
    (tmp_path / "clips" / "labels.csv").write_text(labels)
    return tmp_path


def extract(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["extract", "--streams", "rgb", *map(str, arguments)])


def plan(*arguments: object) -> dict:
    found = extract("clips", "--dry-run", "--json", *arguments)
    assert found.stdout, found.output
    return json.loads(found.stdout)


def test_limit_takes_the_first_that_are_missing_and_dry_run_tells_them(
    home: Path, random_rgb_weights: Path
) -> None:
    weights = ("--rgb-weights", random_rgb_weights)
    assert plan() == {
        "dry_run": True,
        "cache": "features",
        "new": ["a.mp4", "b.mp4", "sub/c.mp4"],
        "there": [],
        "thumbnails": [],
        "refused": [],
        "left": 0,
    }
    assert sorted(path.name for path in home.iterdir()) == ["clips"]  # no cache, no weights
    first = extract("clips", *weights, "--limit", 1, "--json")
    assert first.exit_code == 0, first.output
    assert (json.loads(first.stdout)["done"], json.loads(first.stdout)["left"]) == (1, 2)
    cache = FeatureCache("features")
    assert cache.videos() == ["a.mp4"]
    before = sorted(path for path in home.rglob("*") if path.parts[-2] != "index")
    found = plan(*weights, "--limit", 1)
    assert (found["there"], found["new"], found["left"]) == (["a.mp4"], ["b.mp4"], 1)
    assert sorted(path for path in home.rglob("*") if path.parts[-2] != "index") == before
    text = extract("clips", "--dry-run", *weights, "--limit", 1).stdout
    assert text.splitlines() == [
        "new: b.mp4",
        "would extract 1, 1 already there, 0 refused, 1 more left by --limit -> features; nothing "
        "was done",
    ]
    # other features of the same videos are refused before any work, as without --dry-run
    other = extract("clips", "--dry-run", *weights, "--resize", "crop")
    assert other.exit_code == 1
    assert "decode.resize: crop here, squash in the cache" in other.stderr


def test_dry_run_names_what_would_be_refused(home: Path) -> None:
    FeatureCache.create("features")
    unusable = (home / "clips/sub/c.mp4").rename(home / "clips/sub/x\\..\\c.mp4")
    found = extract("clips/sub", "--dry-run")
    unusable.rename(home / "clips/sub/c.mp4")
    assert found.exit_code == 1
    first, last = found.stdout.splitlines()
    assert first.startswith("refused: x/../c.mp4: ")
    assert last.startswith("would extract 0, 0 already there, 1 refused -> features")
    (home / "features" / "labels.csv").write_text(
        "video,split,category,anomaly\na.mp4,test,,\n"  # another split than beside the videos
    )
    conflict = extract("clips", "--dry-run")
    assert conflict.exit_code == 1
    assert "--labels-of videos or --labels-of cache" in conflict.stderr
    assert extract("clips", "--dry-run", "--labels-of", "videos").exit_code == 0
    assert len(read_labels(home / "features" / "labels.csv")) == 1


@pytest.mark.parametrize("arguments", [(), ("clips", "--videos", "clips")])
def test_the_folder_is_named_once(home: Path, arguments: tuple[str, ...]) -> None:
    refused = extract(*arguments)
    assert refused.exit_code == 2
    assert "name the folder of videos once" in refused.stderr
