"""Labels are added to a cache by one rule, whoever brings them."""

import multiprocessing
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from cache import FeatureCache
from cache.commands.upkeep import cache_group
from cache.exchange.merge import merge_caches
from cache.exchange.remote import Remote
from cache.exchange.transfer import pull_cache, push_cache
from cache.labels import LabelsFrom, add_labels
from data.errors import CacheError, FeatError
from data.labels import VideoLabel, read_labels, write_labels

Adding = Callable[[FeatureCache, FeatureCache], object]


def merge(source: FeatureCache, target: FeatureCache) -> None:
    merge_caches([source], target)


def pull(source: FeatureCache, target: FeatureCache) -> None:
    pull_cache(target, Remote(str(source.path)))


def push(source: FeatureCache, target: FeatureCache) -> None:
    push_cache(source, Remote(str(target.path)))


def read_in(source: FeatureCache, target: FeatureCache) -> None:
    add_labels(target, LabelsFrom.file(source.labels_path))


@pytest.fixture(params=[merge, pull, push, read_in])
def add(request: pytest.FixtureRequest) -> Adding:
    return request.param


def label(video: str, **fields) -> VideoLabel:
    return VideoLabel(**{"video": video, "split": "train", "category": "c", **fields})


def test_further_videos_are_added_and_those_there_stay_in_order(add, here, there) -> None:
    write_labels(here.labels_path, [label("b"), label("a")])
    write_labels(there.labels_path, [label("a"), label("c")])
    add(there, here)
    assert read_labels(here.labels_path) == [label("b"), label("a"), label("c")]


def test_nothing_new_rewrites_nothing(add, here, there) -> None:
    # as somebody's spreadsheet may have left it
    here.labels_path.write_bytes(b"video,split,category,anomaly\r\na,train,c,\r\nb,train,c,\r\n")
    write_labels(there.labels_path, [label("a")])
    before = here.labels_path.read_bytes(), here.labels_path.stat().st_mtime_ns
    add(there, here)
    assert (here.labels_path.read_bytes(), here.labels_path.stat().st_mtime_ns) == before


@pytest.mark.parametrize(
    ("theirs", "text"),
    [
        ({"extent": "all"}, "'all'"),
        ({"split": "test"}, "test 'c'"),
        ({"category": "d"}, "'d'"),
        ({"scene": "yard"}, "scene 'yard'"),
        ({"num_frames": 9}, "9 frames"),
        ({"num_seconds": 1.5}, "1.5 s"),
    ],
)
def test_a_label_that_differs_is_refused_with_both_values(add, here, there, theirs, text) -> None:
    write_labels(here.labels_path, [label("a"), label("b")])
    write_labels(there.labels_path, [label("a", **theirs), label("c")])
    before = here.labels_path.read_bytes()
    with pytest.raises(FeatError) as caught:
        add(there, here)
    assert here.labels_path.read_bytes() == before
    assert " a: " in str(caught.value)
    assert "train 'c' ''" in str(caught.value)
    assert text in str(caught.value)
    assert str(here.labels_path) in str(caught.value)
    assert str(there.labels_path) in str(caught.value)
    assert str(caught.value).endswith("; edit one of the labels files, so that they agree")
    assert "\n" not in str(caught.value)


def test_replacing_is_asked_for_and_leaves_other_videos_alone(here) -> None:
    write_labels(here.labels_path, [label("a"), label("b")])
    more = LabelsFrom("x", [label("b", extent="all"), label("c")])
    assert add_labels(here, more, replace=True) == 2
    assert read_labels(here.labels_path) == [label("a"), label("b", extent="all"), label("c")]
    assert add_labels(here, more, replace=True) == 0


def test_a_file_of_the_other_side_is_named_by_its_address(here, there) -> None:
    write_labels(here.labels_path, [label("a")])
    there.labels_path.write_text("video,split,category,anomaly\na,trian,,\n")
    with pytest.raises(CacheError) as caught:
        pull(there, here)
    assert f"{there.path}: labels.csv cannot be used: {there.labels_path}:2" in str(caught.value)


def _add_many(path: Path, first: int) -> None:
    cache = FeatureCache(path)
    for number in range(first, first + 20):
        add_labels(cache, LabelsFrom("x", [label(f"{number}.mp4")]))


def test_several_that_add_at_once_lose_nothing(here) -> None:
    fork = multiprocessing.get_context("fork")
    children = [fork.Process(target=_add_many, args=(here.path, 100 * k)) for k in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join()
        assert child.exitcode == 0
    assert len(read_labels(here.labels_path)) == 60


def test_the_import_command_follows_the_rule(here, tmp_path) -> None:
    import numpy as np

    np.save(tmp_path / "a.npy", np.ones((2, 4), np.float32))
    write_labels(here.labels_path, [label("a.mp4", extent="all"), label("b.mp4")])
    write_labels(tmp_path / "labels.csv", [label("a.mp4")])
    arguments = ["import", tmp_path / "a.npy", "--cache", here.path, "--stream", "x"]
    arguments += ["--origin", "a test", "--labels", tmp_path / "labels.csv"]
    result = CliRunner().invoke(cache_group, [str(argument) for argument in arguments])
    assert isinstance(result.exception, CacheError)
    assert "a.mp4: train 'c' ''" in str(result.exception)
    assert read_labels(here.labels_path) == [label("a.mp4", extent="all"), label("b.mp4")]
