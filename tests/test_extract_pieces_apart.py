"""Pieces of long videos in processes of their own, some of which are killed."""

import signal
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from cluster_servers import Dask
from test_extract_concurrent import extract, finish, start

from cache import FeatureCache
from cache.upkeep.verify import verify_cache

pytestmark = pytest.mark.slow

VIDEOS = ("long.mp4", "short.mp4")
TINY = ("-c", "import extract.run.runner as r, feat; r.PIECE_CLIPS = 2; feat.main()")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, make_video, random_rgb_weights: Path) -> Path:
    """A video of six pieces and a short one, and the cache `whole` that one process made."""
    folder = tmp_path_factory.mktemp("pieces")
    make_video(folder / "videos" / "long.mp4", num_frames=8 * 12 + 3)
    make_video(folder / "videos" / "short.mp4", num_frames=10)
    assert extract(folder, "whole", random_rgb_weights)["done"] == 2
    return folder


def assert_as_whole(folder: Path, cache: str) -> None:
    ours, whole = FeatureCache(folder / cache), FeatureCache(folder / "whole")
    assert verify_cache(ours).problems == []
    assert sorted(ours.videos()) == sorted(whole.videos()) == list(VIDEOS)
    for video in VIDEOS:
        assert ours.find(video, "rgb").source == whole.find(video, "rgb").source
        np.testing.assert_array_equal(ours.read(video, "rgb"), whole.read(video, "rgb"))
        pictures = [one.read_images(one.find(video, "thumbnails").key) for one in (ours, whole)]
        assert pictures[0] == pictures[1]
    assert not list((folder / cache / "partial").iterdir())


def wait_for_blocks(process: subprocess.Popen[str], cache: Path, number: int) -> None:
    deadline = time.monotonic() + 300
    while len(list(cache.glob("partial/*/*.block"))) < number:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_workers_of_one_machine_and_a_killed_run_goes_on(
    folder: Path, random_rgb_weights: Path
) -> None:
    options = ("--workers", "2", "--threads", "2")
    run = start(folder, "two", random_rgb_weights, *options, command=TINY)
    wait_for_blocks(run, folder / "two", 2)
    run.send_signal(signal.SIGKILL)
    run.communicate()
    assert "long.mp4" not in FeatureCache(folder / "two").videos()
    report = finish(start(folder, "two", random_rgb_weights, *options, command=TINY))
    assert (report["done"] + report["skipped"], report["failed"]) == (2, [])
    assert_as_whole(folder, "two")


def test_a_worker_of_a_cluster_dies_at_a_piece(
    folder: Path, random_rgb_weights: Path, tmp_path: Path
) -> None:
    pytest.importorskip("distributed", reason="needs Dask: pip install distributed")
    with ExitStack() as killed:
        dask = Dask(tmp_path, killed)
        workers = [dask.start_worker(), dask.start_worker()]
        run = start(folder, "dask", random_rgb_weights, *dask.options, command=TINY)
        wait_for_blocks(run, folder / "dask", 2)
        workers[0].kill()
        report = finish(run)
    assert (report["done"] + report["skipped"], report["failed"]) == (2, [])
    assert_as_whole(folder, "dask")
