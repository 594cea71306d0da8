"""Videos that change while they are read, and those that cannot be read: each fails alone."""

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from file_modes import as_a_user
from PIL import Image
from test_extract_backbones import COLOUR, CPU, SMALL

import extract.run.worker
from cache import FeatureCache
from extract.backbones import BACKBONES
from extract.config import ExtractConfig
from extract.run.report import ExtractReport
from extract.run.runner import run_extraction

TINT = replace(COLOUR, stream="tint")  # a name of its own: workers keep networks by name
GAP = ("gap/1.jpg", "gap/2.jpg", "gap/4.jpg")


@pytest.fixture
def videos(tmp_path: Path, make_video: Callable[..., Path]) -> Path:
    make_video(tmp_path / "videos" / "a.mp4", num_frames=40)
    return tmp_path / "videos"


def append(videos: Path) -> None:
    with (videos / "a.mp4").open("ab") as file:
        file.write(b"more")


def rewrite_in_place(videos: Path) -> None:
    path = videos / "a.mp4"
    path.write_bytes(path.read_bytes()[:-1] + b"x")


def exchange(videos: Path) -> None:
    """Put a file of the same size and time in its place, as rsync -t does."""
    path = videos / "a.mp4"
    other = videos / "other"
    other.write_bytes(path.read_bytes()[:-1] + b"x")
    stat = path.stat()
    os.utime(other, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    other.replace(path)


def extract_while(
    videos: Path, patch: pytest.MonkeyPatch, change: Callable[[Path], None]
) -> tuple[ExtractReport, FeatureCache]:
    """Extract the videos; `change` happens when the first clip goes through the network."""
    done: list[bool] = []
    changing = threading.Lock()  # no other thread's clip is finished before the change

    def network(clips: torch.Tensor) -> torch.Tensor:
        with changing:
            if not done:
                done.append(True)
                change(videos)
        return TINT.function(clips)

    patch.setitem(BACKBONES, "tint", replace(TINT, function=network))  # type: ignore[misc]
    extract.run.job._extractors.clear()
    cache = videos.parent / "features"
    config = ExtractConfig(streams=("tint",), decode=SMALL)
    report = run_extraction(videos, cache, config, resources=CPU)
    assert done
    return report, FeatureCache(cache)


@pytest.mark.parametrize("change", [append, rewrite_in_place, exchange])
@pytest.mark.parametrize("checkpoint_seconds", [0.0, 120.0])
def test_a_file_that_changes_while_it_is_read_is_not_stored(
    videos: Path, monkeypatch: pytest.MonkeyPatch, change, checkpoint_seconds
) -> None:
    monkeypatch.setattr(extract.run.worker, "CHECKPOINT_SECONDS", checkpoint_seconds)
    report, cache = extract_while(videos, monkeypatch, change)
    assert report.failed == [
        {
            "video": "a.mp4",
            "error": "changed while it was read; run again when it is complete",
        }
    ]
    assert len(cache) == 0
    assert cache.names() == {}
    assert not list(cache.path.glob("partial/*/*.block"))  # its clips would be taken up again
    report, cache = extract_while(videos, monkeypatch, lambda _: None)
    assert (report.done, report.failed) == (1, [])
    assert cache.videos() == ["a.mp4"]


def test_a_frame_folder_that_grows_while_it_is_read_is_not_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "videos" / "clip"
    folder.mkdir(parents=True)
    for number in range(3):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / f"{number}.png")

    def add(_: Path) -> None:
        shutil.copy(folder / "2.png", folder / "3.png")

    report, cache = extract_while(tmp_path / "videos", monkeypatch, add)
    assert [each["video"] for each in report.failed] == ["clip"]
    assert "changed while it was read" in report.failed[0]["error"]
    assert len(cache) == 0


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("")])
def test_want_of_memory_fails_alone_and_says_what_to_do(
    videos: Path, make_video: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Python's own error has no text."""
    make_video(videos / "b.mp4", num_frames=17)

    def fail(_: Path) -> None:
        raise error

    report, cache = extract_while(videos, monkeypatch, fail)
    (failed,) = report.failed
    assert failed["error"].startswith(f"{type(error).__name__}: no more is known")
    assert ("try fewer --workers" in failed["error"]) == isinstance(error, MemoryError)
    assert report.done == 1
    assert len(cache.videos()) == 1


def test_what_cannot_be_read_fails_alone(videos: Path, make_video: Callable[..., Path]) -> None:
    make_video(videos / "denied" / "b.mp4", num_frames=2)
    for name in ("secret.mp4", "images/1.jpg", *GAP):
        (videos / name).parent.mkdir(exist_ok=True)
        shutil.copy(videos / "a.mp4", videos / name)
    for name in ("denied", "secret.mp4", "images/1.jpg"):
        (videos / name).chmod(0)
    script = f"""if True:
        import sys
        sys.path[:0] = [{str(Path(__file__).parent)!r}]
        from pathlib import Path
        from test_extract_changing import BACKBONES, TINT, CPU, SMALL, ExtractConfig, run_extraction
        BACKBONES["tint"] = TINT
        cache = Path({str(videos.parent / "features")!r})
        config = ExtractConfig(streams=("tint",), decode=SMALL)
        report = run_extraction(Path({str(videos)!r}), cache, config, resources=CPU)
        assert report.done == 1, report
        for each in report.failed:
            print(each["video"], each["error"], sep=": ")
    """
    command = [*as_a_user(), sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True)
    (videos / "denied").chmod(0o755)
    assert done.returncode == 0, done.stderr
    lines = sorted(done.stdout.splitlines())
    assert [line.split(": ")[0] for line in lines] == ["denied", "gap", "images", "secret.mp4"]
    assert all(": Permission denied; " in lines[i] for i in (0, 2, 3)), lines
    assert "images/1.jpg: " in lines[2]
    assert "no image between 2.jpg and 4.jpg" in lines[1]
