"""`feat extract` into a cache that others fill as well. Features are made up, all else is real.

What a folder's videos hold is put into the cache under the keys that `feat extract` asks for, as
if somebody had extracted copies of them: no network runs.
"""

import json
import os
import subprocess
import sys
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cache_samples import make_record
from click.testing import CliRunner, Result

from cache import FeatureCache
from data.labels import read_labels
from data.videos import content_sha256, find_videos
from extract.backbones import BACKBONES
from extract.config import ExtractConfig
from feat import cli

HEAD = "video,split,category,anomaly\n"


@pytest.fixture(scope="module", autouse=True)
def _own_weights_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEAT_WEIGHTS", str(tmp_path_factory.mktemp("weights-folder")))
        yield


class Team:
    """One shared cache, and folders of videos that colleagues extract into it."""

    def __init__(self, home: Path, weights: Path) -> None:
        self.home, self.weights = home, weights
        self.cache = home / "cache"

    def folder(self, name: str, videos: dict[str, bytes], labels: str = "") -> Path:
        for video, data in videos.items():
            path = self.home / name / video
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        if labels:
            (self.home / name / "labels.csv").write_text(HEAD + labels)
        config = ExtractConfig(streams=("rgb",))
        found = {"rgb": BACKBONES["rgb"].find_weights({"rgb": str(self.weights)})}
        made = config.stream_configs(found)["rgb"]
        cache = FeatureCache.create(self.cache)
        for source in find_videos(self.home / name):
            digest = content_sha256(source)
            record = make_record(f"{digest}.mp4", config=made, dim=1024, sha256=digest)
            if not cache.has(record.key):
                cache.write([record])
        return self.home / name

    def extract(self, folder: Path, *options: str) -> Result:
        arguments = ["--videos", folder, "--cache", self.cache, "--streams", "rgb"]
        arguments += ["--rgb-weights", self.weights, *options]
        return CliRunner().invoke(cli, ["extract", *map(str, arguments)])

    def names(self) -> set[str]:
        return {name for name, entry in FeatureCache(self.cache).names().items() if entry.origin}

    def labels(self) -> dict[str, str]:
        return {row.video: row.anomaly for row in read_labels(self.cache / "labels.csv")}


@pytest.fixture
def team(tmp_path: Path, random_rgb_weights: Path) -> Team:
    return Team(tmp_path, random_rgb_weights)


def test_the_second_folder_is_refused_a_name_and_a_prefix_helps(team) -> None:
    ann = team.folder("ann", {"cam1.mp4": b"a street"}, "cam1.mp4,train,,2:5\n")
    bob = team.folder("bob", {"cam1.mp4": b"a kitchen"}, "cam1.mp4,test,,all\n")
    assert team.extract(ann).exit_code == 0
    refused = team.extract(bob)
    assert refused.exit_code == 1
    (error,) = [line for line in refused.stderr.splitlines() if line.startswith("error: ")]
    assert "nothing extracted, 1 conflicts: cam1.mp4: content " in error
    assert "--prefix NAME/" in error
    assert team.labels() == {"cam1.mp4": "2:5"}
    assert team.names() == {"cam1.mp4"}
    helped = team.extract(bob, "--prefix", "bob/")
    assert helped.exit_code == 0, helped.output
    assert team.labels() == {"cam1.mp4": "2:5", "bob/cam1.mp4": "all"}
    assert team.names() == {"cam1.mp4", "bob/cam1.mp4"}
    again = team.extract(bob, "--prefix", "bob/")
    assert "0 done, 1 already there" in again.stdout
    assert team.extract(ann).exit_code == 0


def test_two_that_begin_at_once_on_a_new_cache_do_not_mix_their_options(
    team: Team, make_video: Callable[..., Path]
) -> None:
    for number in range(3):
        make_video(team.home / "videos" / f"{number}.mp4", num_frames=40 + number)
    command = [sys.executable, "-m", "feat", "extract"]
    command += [team.home / "videos", "--cache", team.cache, "--streams", "rgb"]
    command += ["--rgb-weights", team.weights, "--device", "cpu", "--threads", "1", "--resize"]
    ways = ["squash", "crop"]
    both = [
        subprocess.Popen([*map(str, command), way], stderr=subprocess.PIPE, text=True)
        for way in ways
    ]
    said = [process.communicate(timeout=120)[1] for process in both]
    ended = [process.returncode for process in both]
    assert sorted(ended) == [0, 1], said
    refusal = said[ended.index(1)]
    assert "into it with other options" in refusal or "rgb made otherwise" in refusal
    (config,) = FeatureCache(team.cache).configs("rgb")
    assert config["decode"]["resize"] == ways[ended.index(0)]
    assert not list((team.cache / "claims").glob("config-*"))


@pytest.mark.parametrize("prefix", ["/", "../", "a\nb/", "a//"])
def test_a_prefix_that_makes_no_name_is_refused_once(team, prefix) -> None:
    ann = team.folder("ann", {"a.mp4": b"x", "b.mp4": b"y"})
    result = team.extract(ann, "--prefix", prefix)
    assert result.exit_code == 2
    assert result.stderr.count("--prefix") == 1
    assert "a video's name must" in result.stderr
    assert team.names() == set()


def test_labels_of_several_folders_come_together(team) -> None:
    ann = team.folder("ann", {"a.mp4": b"1"}, "a.mp4,train,,0:1\n")
    bob = team.folder("bob", {"b.mp4": b"2"}, "b.mp4,test,,\n")
    assert team.extract(ann).exit_code == 0
    assert team.extract(bob).exit_code == 0
    assert team.labels() == {"a.mp4": "0:1", "b.mp4": ""}
    stamp = (team.cache / "labels.csv").stat().st_mtime_ns
    assert team.extract(ann).exit_code == 0
    assert (team.cache / "labels.csv").stat().st_mtime_ns == stamp


def test_an_edited_label_is_reset_by_nobody_who_does_not_ask(team) -> None:
    ann = team.folder("ann", {"a.mp4": b"1", "b.mp4": b"2"}, "a.mp4,train,,0:1\nb.mp4,train,,\n")
    assert team.extract(ann).exit_code == 0
    edited = HEAD + "a.mp4,train,,0:3\nb.mp4,train,,\n"
    (team.cache / "labels.csv").write_text(edited)
    refused = team.extract(ann)
    assert refused.exit_code == 1
    assert "a.mp4: train '' '0:1', in " in refused.stderr
    assert "train '' '0:3'" in refused.stderr
    assert "--labels-of" in refused.stderr
    assert (team.cache / "labels.csv").read_text() == edited
    assert team.extract(ann, "--labels-of", "cache").exit_code == 0
    assert (team.cache / "labels.csv").read_text() == edited
    assert team.extract(ann, "--labels-of", "videos").exit_code == 0
    assert team.labels() == {"a.mp4": "0:1", "b.mp4": ""}


def test_a_touched_video_is_no_changed_one(team) -> None:
    ann = team.folder("ann", {"a.mp4": b"1"})
    assert team.extract(ann).exit_code == 0
    os.utime(ann / "a.mp4", ns=(1, 1))
    result = team.extract(ann)
    assert "0 done, 1 already there" in result.stdout
    assert "changed" not in result.stderr
    assert FeatureCache(team.cache).names()["a.mp4"].mtime_ns == 1


def test_as_old_and_as_large_as_another_folders_video(team) -> None:
    """Nobody compares contents then; if a video has to be read for another reason, it shows."""
    ann = team.folder("ann", {"a.mp4": b"1"})
    bob = team.folder("bob", {"a.mp4": b"2"})
    for folder in (ann, bob):
        os.utime(folder / "a.mp4", ns=(7, 7))
    assert team.extract(ann).exit_code == 0
    shard = FeatureCache(team.cache).find("a.mp4", "rgb").shard
    (team.cache / "shards" / shard).unlink()
    result = team.extract(bob)
    assert result.exit_code == 1
    assert "its name is that of another video" in result.stdout
    assert FeatureCache(team.cache).content("a.mp4") == content_sha256(find_videos(ann)[0])


# Names


def test_names_that_cannot_be_kept_fail_before_the_work(team) -> None:
    ann = team.folder("ann", {"good.mp4": b"1"})
    for raw in (b"latin-\xe9.mp4", b"two\nlines.mp4", b"\x1b[31mred.mp4"):
        with open(os.path.join(os.fsencode(ann), raw), "wb") as file:
            file.write(b"not a video")
    result = team.extract(ann, "--json")
    report = json.loads(result.stdout)
    assert result.exit_code == 1
    assert (report["skipped"], len(report["failed"])) == (1, 3)
    assert all("rename it" in each["error"] for each in report["failed"])
    assert team.names() == {"good.mp4"}


def test_accents_are_composed_and_two_spellings_of_one_name_refused(team) -> None:
    composed = unicodedata.normalize("NFC", "café.mp4")
    decomposed = unicodedata.normalize("NFD", "café.mp4")
    ann = team.folder("ann", {decomposed: b"1"}, f"{composed},train,,0:1\n")
    assert team.extract(ann).exit_code == 0
    assert team.names() == {composed}
    assert team.labels() == {composed: "0:1"}
    (ann / composed).write_bytes(b"2")
    both = team.extract(ann)
    assert both.exit_code == 1
    assert f"both go by the name {composed}" in both.stderr
    assert team.names() == {composed}


def test_odd_but_good_names(team) -> None:
    odd = {" blank .mp4": b"1", "back\\slash.mp4": b"2", "=1+1.mp4": b"3", "ü/日本 語.mp4": b"4"}
    ann = team.folder("ann", odd)
    assert team.extract(ann).exit_code == 0
    # as labels.csv can name them: blanks at the ends and backslashes would not survive it
    assert team.names() == {"blank .mp4", "back/slash.mp4", "=1+1.mp4", "ü/日本 語.mp4"}


# A cache that can only be read


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="setpriv is of Linux")
def test_a_complete_cache_may_be_read_only(team) -> None:
    ann = team.folder("ann", {"a.mp4": b"1"}, "a.mp4,train,,0:1\n")
    assert team.extract(ann).exit_code == 0
    command = [sys.executable, "-m", "feat", "extract", "--videos", str(ann), "--streams", "rgb"]
    command += ["--device", "cpu", "--rgb-weights", str(team.weights), "--cache", str(team.cache)]
    if os.geteuid() == 0:  # root obeys no modes unless it gives that power up
        powers = "-dac_override,-dac_read_search,-fowner"
        command = ["setpriv", f"--bounding-set={powers}", f"--inh-caps={powers}", *command]
    (team.cache / "claims").rmdir()  # as in a copy, which leaves work in progress out
    places = [team.cache, *(path for path in team.cache.rglob("*") if path.is_dir())]
    try:
        for place in places:
            place.chmod(0o555)
        for mtime in (None, (9, 9)):
            if mtime:
                os.utime(ann / "a.mp4", ns=mtime)  # its name is the only thing to note
            done = subprocess.run(command, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            assert "0 done, 1 already there" in done.stdout
    finally:
        for place in places:
            place.chmod(0o755)
