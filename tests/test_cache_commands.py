import json
import socket
from datetime import UTC, datetime

import pytest
from cache_samples import altered, make_config, make_record, sha256_of
from click.testing import CliRunner

from cache import FeatureCache, NameEntry
from cache.commands.upkeep import cache_group
from cache.records import who_and_when
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


def test_info_of_a_cache_without_its_option_tells_the_option(cache) -> None:
    result = CliRunner().invoke(cache_group, ["info", str(cache.path)])
    assert result.exit_code == 2
    assert f"is a cache, no video; name it with --cache {cache.path}" in result.stderr


def test_info_tells_who_put_it_there_and_when(cache, monkeypatch) -> None:
    made = []
    for number, user in enumerate(("ann", "bob\nforged: 1", "", None)):
        if user is None:
            monkeypatch.delenv("FEAT_USER")
        else:
            monkeypatch.setenv("FEAT_USER", user)
        made.append(who_and_when())
        record = make_record(f"new/{number}.mp4")
        cache.write([altered(record, provenance=made[-1])])
        entry = NameEntry(sha256=record.source.sha256, size=1, mtime_ns=1, origin="ab" * 8)
        cache.set_names({record.source.name: entry})
    monkeypatch.setenv("FEAT_USER", "ann")
    late = altered(make_record("late.mp4"), provenance={**made[0], "time": "2999-01-01T00:00:00Z"})
    cache.write([late])
    assert "by" not in made[2]
    assert made[3]["by"].endswith(f"@{socket.gethostname()}")
    about = json.loads(run("info", "--cache", cache.path, "--json"))
    rgb = about["configs"][1]
    assert rgb["first_written"] == min(one["time"] for one in made)
    assert datetime.fromisoformat(rgb["first_written"]) <= datetime.now(UTC)
    assert rgb["last_written"] == "2999-01-01T00:00:00Z"
    assert rgb["written_by"] == {"ann": 2, "bob\nforged: 1": 1, "unknown": 3, made[3]["by"]: 1}
    assert about["configs"][0]["first_written"] == about["configs"][0]["last_written"] == "unknown"
    assert about["names_by_folder"] == {"ab" * 8: 4, "unknown": 3}
    assert "\nforged" not in run("info", "--cache", cache.path)
    assert made[0] == json.loads(run("info", "new/0.mp4", "--cache", cache.path, "--json"))[
        "streams"
    ][0]["provenance"]  # fmt: skip


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


@pytest.mark.parametrize(
    "arguments",
    [
        ("pull", "nowhere", "--cache", "new"),
        ("import", "nowhere", "--cache", "new", "--origin", "Ann"),
        ("merge", "features", "other", "new"),  # another configuration
    ],
)
def test_a_command_that_fails_makes_no_cache(cache, tmp_path, monkeypatch, arguments) -> None:
    other = FeatureCache.create(tmp_path / "other")
    other.write([make_record("three.mp4", config=make_config(crop="squash"))])
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(cache_group, arguments).exit_code == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["features", "other"]
