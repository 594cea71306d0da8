import json

import pytest
from cache_samples import make_config, make_record, sha256_of
from click.testing import CliRunner

from cache import FeatureCache, NameEntry
from cache.commands.upkeep import cache_group
from cache.upkeep.summary import human_size
from data.errors import CacheError


@pytest.fixture
def cache(tmp_path) -> FeatureCache:
    cache = FeatureCache.create(tmp_path / "features")
    cache.write([make_record("a/one.mp4"), make_record("a/one.mp4", "flow")])
    cache.write([make_record("two.mp4", num_frames=33, partial="ends early")])
    cache.set_names(
        {name: NameEntry(sha256=sha256_of(name), size=1, mtime_ns=1) for name in ("two.mp4",)}
    )
    return cache


def run(*args: object) -> str:
    result = CliRunner().invoke(cache_group, [str(arg) for arg in args], catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def test_ls_shows_every_video(cache) -> None:
    lines = run("ls", cache.path).splitlines()
    assert lines[0].split() == ["video", "frames", "clips", "streams", "configurations", "size"]
    assert lines[1].split()[:4] == ["a/one.mp4", "75", "5", "flow,rgb"]
    assert lines[2].split()[:4] == ["two.mp4", "33", "3", "rgb"]
    assert len(lines) == 3


def test_ls_json(cache) -> None:
    listing = json.loads(run("ls", "--cache", cache.path, "--json"))
    assert [video["video"] for video in listing["videos"]] == ["a/one.mp4", "two.mp4"]
    assert listing["videos"][0]["num_clips"] == 5
    total = sum(video["nbytes"] for video in listing["videos"])
    size = sum(path.stat().st_size for path in cache.shards_dir.iterdir())
    assert size - 2 <= total <= size


def test_info_of_a_video(cache) -> None:
    about = json.loads(run("info", "a/one.mp4", "--cache", cache.path, "--json"))
    assert [stream["stream"] for stream in about["streams"]] == ["flow", "rgb"]
    assert about["streams"][1]["config"] == make_config("rgb")
    assert about["streams"][1]["source"]["codec"] == "h264"
    assert about["sha256"] == sha256_of("a/one.mp4")
    assert "codec: h264" in run("info", "a/one.mp4", "--cache", cache.path)


def test_info_of_the_cache(cache) -> None:
    about = json.loads(run("info", "--cache", cache.path, "--json"))
    assert (about["videos"], about["shards"]) == (2, 2)
    assert [(c["stream"], c["videos"], c["clips"]) for c in about["configs"]] == [
        ("flow", 1, 5),
        ("rgb", 2, 8),
    ]
    assert about["configs"][1]["writers"] == {"feat 0.1.0": 2}
    assert about["configs"][1]["partial"] == 1
    assert "digest: " + "ab" * 32 in run("info", "--cache", cache.path)


def test_unknown_video_is_an_error(cache) -> None:
    with pytest.raises(CacheError, match=r"three\.mp4: not in"):
        run("info", "three.mp4", "--cache", cache.path)


def test_the_cache_is_named_once(cache) -> None:
    result = CliRunner().invoke(cache_group, ["ls", "x", "--cache", "y"])
    assert result.exit_code == 2
    assert "name the cache once" in result.stderr


def test_escape_sequences_do_not_reach_the_terminal(cache) -> None:
    config = make_config(note="\x1b]0;owned\x07")
    cache.write([make_record("three.mp4", config=config)])
    assert "\x1b" not in run("info", "--cache", cache.path)
    assert "\x1b" not in run("info", "three.mp4", "--cache", cache.path)


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (999_500, "1.0 MB"), (3.2e13, "32.0 TB")],
)
def test_sizes_as_people_read_them(nbytes, text) -> None:
    assert human_size(int(nbytes)) == text
