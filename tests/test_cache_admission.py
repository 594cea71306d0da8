"""Names in a shared cache belong to the folder they came from: no extraction takes one over."""

import dataclasses
import multiprocessing
import os
import signal
import time
import unicodedata
from collections.abc import Mapping
from pathlib import Path

import pytest
from cache_samples import make_record

from cache import FeatureCache, NameEntry, config_digest
from cache.admission import _place, admit_videos, folder_origin, hold_configs
from cache.exchange.merge import merge_caches
from cache.exchange.remote import Remote
from cache.exchange.transfer import pull_cache, push_cache
from cache.facts import video_facts
from cache.names import NameLine, write_manifest
from cache.upkeep.gc import collect_garbage
from data.errors import CacheError
from data.videos import Stamp, VideoSource, content_sha256, find_videos, source_stamp


@pytest.fixture
def cache(tmp_path: Path) -> FeatureCache:
    return FeatureCache.create(tmp_path / "cache")


class Folder:
    """One colleague's folder of videos; here any bytes will do for a video."""

    def __init__(self, path: Path, files: Mapping[str, bytes]) -> None:
        self.path = path
        for name, data in files.items():
            self.put(name, data)

    def put(self, name: str, data: bytes) -> None:
        (self.path / name).parent.mkdir(parents=True, exist_ok=True)
        (self.path / name).write_bytes(data)

    @property
    def sources(self) -> list[VideoSource]:
        return find_videos(self.path)

    @property
    def stamps(self) -> dict[str, Stamp]:
        return {source.video_id: source_stamp(source) for source in self.sources}

    def admit(self, cache: FeatureCache):
        origin = folder_origin(self.path)
        return admit_videos(cache, self.sources, self.stamps, origin=origin)

    def extract(self, cache: FeatureCache) -> list[str]:
        """Do what `feat extract` does, with numbers for features; return what was not there."""
        with self.admit(cache) as unchanged:
            done = [s for s in self.sources if s.video_id not in unchanged]
            for source in done:
                digest = content_sha256(source)
                stamp = self.stamps[source.video_id]
                cache.write([make_record(source.video_id, sha256=digest, size=stamp.size)])
                entry = NameEntry(
                    sha256=digest,
                    size=stamp.size,
                    mtime_ns=stamp.mtime_ns,
                    origin=folder_origin(self.path),
                )
                cache.set_names({source.video_id: entry})
        return [source.video_id for source in done]


@pytest.fixture
def ann(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "ann", {"cam1.mp4": b"a street", "day/cam2.mp4": b"a yard"})


@pytest.fixture
def bob(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "bob", {"cam1.mp4": b"a kitchen"})


def refusal(folder: Folder, cache: FeatureCache) -> str:
    before = (cache.names(), sorted(os.listdir(cache.path / "claims")))
    with pytest.raises(CacheError) as caught, folder.admit(cache):
        pass
    assert (FeatureCache(cache.path).names(), sorted(os.listdir(cache.path / "claims"))) == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("kitchen", [b"a kitchen", b"a garden"])  # the second is as long as ann's
def test_another_folders_video_does_not_take_a_name(cache, ann, bob, kitchen) -> None:
    ann.extract(cache)
    bob.put("cam1.mp4", kitchen)
    text = refusal(bob, cache)
    here, there = (content_sha256(folder.sources[0])[:12] for folder in (bob, ann))
    assert f"cam1.mp4: content {here} here, {there} in {cache.path}" in text
    assert "--prefix NAME/" in text
    assert collect_garbage(cache, unnamed=True).unnamed_records == 0


def test_the_same_content_is_no_conflict_and_leaves_the_name_where_it_was(cache, ann, bob) -> None:
    ann.extract(cache)
    bob.put("cam1.mp4", b"a street")
    os.utime(bob.path / "cam1.mp4", ns=(1, 1))
    with bob.admit(cache) as unchanged:
        assert unchanged["cam1.mp4"].origin == folder_origin(ann.path)


def test_a_changed_video_of_the_same_folder_is_not_called_unchanged(cache, ann) -> None:
    assert ann.extract(cache) == ["cam1.mp4", "day/cam2.mp4"]
    assert ann.extract(cache) == []
    ann.put("cam1.mp4", b"another street")
    assert ann.extract(cache) == ["cam1.mp4"]
    assert FeatureCache(cache.path).content("cam1.mp4") == content_sha256(ann.sources[0])


def test_a_name_of_unknown_origin_belongs_to_nobody_who_brings_another_video(cache, ann, bob):
    """Caches of earlier builds, and shards that were copied without their names."""
    ann.extract(cache)
    names = cache.names()
    cache.set_names({n: dataclasses.replace(entry, origin="") for n, entry in names.items()})
    assert ann.extract(cache) == []
    assert "cam1.mp4: content" in refusal(bob, cache)
    for file in (cache.path / "names").iterdir():
        file.unlink()
    assert "cam1.mp4: content" in refusal(bob, FeatureCache(cache.path))
    assert ann.extract(FeatureCache(cache.path)) == []


@pytest.mark.parametrize("bring", ["merge", "pull"])
def test_names_keep_their_folder_on_the_way_to_another_cache(cache, ann, bob, bring, tmp_path):
    ann.extract(cache)
    target = FeatureCache.create(tmp_path / "target")
    if bring == "merge":
        merge_caches([cache], target)
    else:
        pull_cache(target, Remote(str(cache.path)))
    assert "cam1.mp4: content" in refusal(bob, target)
    ann.put("cam1.mp4", b"another street")
    assert ann.extract(target) == ["cam1.mp4"]


@pytest.mark.parametrize("bring", ["merge", "pull", "push"])
def test_who_brings_the_same_video_does_not_take_its_name_over(cache, ann, bring, tmp_path) -> None:
    ann.extract(cache)
    eve = Folder(tmp_path / "eve", {"cam1.mp4": b"a street", "own.mp4": b"a hall"})
    hers = FeatureCache.create(tmp_path / "hers")
    eve.extract(hers)

    def brought() -> FeatureCache:
        if bring == "merge":
            merge_caches([hers], cache)
        elif bring == "pull":
            pull_cache(cache, Remote(str(hers.path)))
        else:
            push_cache(hers, Remote(str(cache.path)))
        return FeatureCache(cache.path)

    names = brought().names()
    assert names["cam1.mp4"].origin == folder_origin(ann.path)
    assert names["own.mp4"].origin == folder_origin(eve.path)
    files = sorted(os.listdir(cache.path / "names"))
    assert brought().names() == names
    assert sorted(os.listdir(cache.path / "names")) == files  # again brings nothing
    if bring == "pull":
        assert pull_cache(FeatureCache(cache.path), Remote(str(hers.path))).names == 0
    ann.put("cam1.mp4", b"another street")
    assert ann.extract(FeatureCache(cache.path)) == ["cam1.mp4"]


def test_a_name_that_was_removed_is_free(cache, ann, bob) -> None:
    ann.extract(cache)
    cache.set_names({"cam1.mp4": None})
    assert bob.extract(cache) == ["cam1.mp4"]


def test_many_taken_names_are_counted(cache, tmp_path) -> None:
    files = {f"{number}.mp4": b"x" * (number + 1) for number in range(8)}
    Folder(tmp_path / "one", files).extract(cache)
    other = Folder(tmp_path / "two", {name: data + b"y" for name, data in files.items()})
    text = refusal(other, cache)
    assert "8 conflicts" in text
    assert "and 3 more" in text


@pytest.mark.parametrize(("mtime_ns", "refused"), [(1_700_000_000_000_000_000, True), (7, False)])
def test_a_time_of_whole_seconds_proves_nothing_of_another_folder(
    cache, ann, tmp_path, mtime_ns, refused
) -> None:
    same_size = Folder(tmp_path / "carl", {"cam1.mp4": b"a stREET"})
    for folder in (ann, same_size):
        os.utime(folder.path / "cam1.mp4", ns=(mtime_ns, mtime_ns))
    ann.extract(cache)
    assert ann.extract(cache) == []  # its own is not compared
    if refused:
        assert "cam1.mp4: content" in refusal(same_size, cache)
        same_size.put("cam1.mp4", (ann.path / "cam1.mp4").read_bytes())
        os.utime(same_size.path / "cam1.mp4", ns=(mtime_ns, mtime_ns))
    assert same_size.extract(cache) == []


# While an extraction runs


def test_names_of_a_running_extraction_are_held_until_it_ends(cache, ann, bob) -> None:
    with ann.admit(cache):
        assert "cam1.mp4: another video of this name" in refusal(bob, cache)
        bob.put("cam1.mp4", b"a street")
        stamp = (ann.path / "cam1.mp4").stat()
        os.utime(bob.path / "cam1.mp4", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
        with bob.admit(cache):  # the same folder, seen from another machine
            pass
    bob.put("cam1.mp4", b"a kitchen")
    assert bob.extract(cache) == ["cam1.mp4"]  # ann's failed, and has no name
    assert os.listdir(cache.path / "claims") == []


def test_names_of_a_stopped_extraction_stay_held_until_gc(cache, ann, bob) -> None:
    with pytest.raises(KeyboardInterrupt), ann.admit(cache):
        raise KeyboardInterrupt
    assert "or was until somebody stopped that" in refusal(bob, cache)
    with ann.admit(cache):
        pass
    assert len(collect_garbage(cache, days=0).removed) == 1
    assert bob.extract(cache) == ["cam1.mp4"]


def test_a_failed_extraction_holds_nothing(cache, ann) -> None:
    with pytest.raises(CacheError, match="full"), ann.admit(cache):
        raise CacheError("full")
    assert os.listdir(cache.path / "claims") == []


def test_a_damaged_list_of_held_names_is_not_used(cache, ann) -> None:
    lines = {"cam1.mp4": NameLine(time.time_ns(), None, 1, 1, "f" * 16)}
    path = cache.path / "claims" / write_manifest(cache.path / "claims", lines)
    refusal(ann, cache)
    path.write_bytes(path.read_bytes()[:-9])
    assert len(ann.extract(cache)) == 2


def _race(cache: Path, folder: Folder, barrier, results) -> None:
    barrier.wait()
    try:
        with folder.admit(FeatureCache(cache)):
            time.sleep(0.5)
        results.put("admitted")
    except CacheError:
        results.put("refused")


def test_of_several_that_begin_at_once_one_gets_the_name(cache, tmp_path) -> None:
    folders = [Folder(tmp_path / f"{n}", {"cam1.mp4": b"x" * (n + 1)}) for n in range(4)]
    fork = multiprocessing.get_context("fork")
    barrier, results = fork.Barrier(len(folders)), fork.Queue()
    children = [
        fork.Process(target=_race, args=(cache.path, folder, barrier, results))
        for folder in folders
    ]
    for child in children:
        child.start()
    found = sorted(results.get(timeout=60) for _ in children)
    for child in children:
        child.join()
    assert found == ["admitted", "refused", "refused", "refused"]


# Origins


def test_a_second_configuration_waits_for_an_extraction_that_has_no_features_yet(cache) -> None:
    one, other, third = (
        {"stream": stream, "n": n} for stream, n in (("rgb", 1), ("rgb", 2), ("flow", 2))
    )
    with hold_configs(cache, [one], allow_mixed=False):
        refused = pytest.raises(
            CacheError, match=r"process \d+ is extracting rgb into it with other"
        )
        with refused, hold_configs(cache, [third, other], allow_mixed=False):
            pass
        for config, mixed in ((one, False), (third, False), (other, True)):
            with hold_configs(cache, [config], allow_mixed=mixed):
                pass
        # what is there contradicts nobody
        cache.write([make_record(config=other)])
        with hold_configs(cache, [other], allow_mixed=False):
            pass
    assert not list((cache.path / "claims").glob("config-*"))


def test_a_configuration_whose_extraction_was_killed_is_held_no_more(cache) -> None:
    one, other = ({"stream": "rgb", "n": n} for n in (1, 2))

    def die() -> None:
        with hold_configs(cache, [one], allow_mixed=False):
            os.kill(os.getpid(), signal.SIGKILL)

    process = multiprocessing.get_context("fork").Process(target=die)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert len(list((cache.path / "claims").glob("config-rgb-*"))) == 1
    with hold_configs(cache, [other], allow_mixed=False):
        (left,) = (cache.path / "claims").glob("config-rgb-*")
        assert config_digest(other) in left.name


def test_an_origin_tells_folders_apart_and_no_path(tmp_path, monkeypatch) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    origin = folder_origin(tmp_path / "a")
    assert len(origin) == 16
    assert int(origin, 16) >= 0
    assert folder_origin(tmp_path / "link") == origin
    monkeypatch.chdir(tmp_path)
    assert folder_origin(Path("a")) == origin
    assert folder_origin(tmp_path) != origin
    monkeypatch.setattr("socket.gethostname", lambda: "another-machine")
    assert folder_origin(tmp_path / "a") != origin


def test_the_machines_of_a_cluster_see_one_folder_on_their_server(monkeypatch) -> None:
    mounts = [
        ("/", "/dev/sda1"),
        ("/home", "nas:/export/home"),
        ("/home/local", "/dev/sdb1"),
        ("/mnt/win", "//server/share"),
    ]

    def places(*folders: str) -> list[str]:
        return [_place(Path(folder), mounts) for folder in folders]

    folders = ("/home/ann/v", "/mnt/win/v", "/data/v", "/home/local/v", "/homes/v")
    monkeypatch.setattr("socket.gethostname", lambda: "node1")
    first = places(*folders)
    monkeypatch.setattr("socket.gethostname", lambda: "node2")
    second = places(*folders)
    assert [a == b for a, b in zip(first, second, strict=True)] == [True, True, False, False, False]
    assert len(set(first)) == len(folders)
    assert _place(Path("/a"), []) == "node2\n/a"


def test_lines_without_an_origin_have_the_bytes_of_earlier_builds(cache) -> None:
    cache.set_names({"a.mp4": NameEntry(sha256="0" * 64, size=1, mtime_ns=2)})
    (file,) = (cache.path / "names").iterdir()
    assert "origin" not in file.read_text()


# Accents


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_names_that_differ_by_normalisation_are_one(cache, form) -> None:
    stored, asked = "Überfall/café.mp4", unicodedata.normalize(form, "Überfall/café.mp4")
    decomposed = unicodedata.normalize("NFD", stored)
    cache.write([make_record(decomposed)])
    assert FeatureCache(cache.path).videos() == [stored]  # told by its record
    assert cache.find(asked, "rgb").source.name == decomposed
    entry = dataclasses.replace(cache.names()[stored], mtime_ns=7)
    cache.set_names({decomposed: entry})
    again = FeatureCache(cache.path)
    assert again.names() == {stored: entry}
    assert again.content(asked) == entry.sha256
    assert video_facts(again, [asked])[asked].num_frames > 0
    again.set_names({asked: None})
    assert stored not in again.names()
