"""The benchmarks can at least be started: nothing else runs them but `make bench`."""

import importlib
import pkgutil
from pathlib import Path

import pytest

import bench
from bench.bench_gpu import multiply
from data.videos import content_sha256, find_videos
from extract.decode.config import DecodeConfig
from extract.decode.open import open_video

MODULES = [module.name for module in pkgutil.iter_modules(bench.__path__) if module.name[0] != "_"]


@pytest.mark.parametrize("name", MODULES)
def test_module_can_be_imported(name):
    importlib.import_module(f"bench.{name}")


def test_multiplied_videos_have_the_frames_but_not_the_content_of_the_first(
    tmp_path: Path, make_video
) -> None:
    source = make_video(tmp_path / "a.mp4", num_frames=5)
    multiply([source], 3, tmp_path / "videos", None)
    found = find_videos(tmp_path / "videos")
    assert len({content_sha256(each) for each in found}) == 3
    for each in found:
        with open_video(each, DecodeConfig()) as stream:
            assert (len(stream.read(9)[0]), stream.read(9)[0].size) == (5, 0)
            assert stream.partial == ""
