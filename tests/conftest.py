"""Fixtures every test file may use."""

import contextlib
import gc
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest
from safetensors.numpy import save_file

from bench.chromium import open_chromium, why_no_chromium
from bench.faults.sound import random_state_dict
from cache import FeatureCache
from cache.shard.hdf5_view import Hdf5Viewer
from data.ffmpeg import find_ffmpeg
from data.process import ENVIRONMENT
from extract.decode.config import DecodeConfig

if TYPE_CHECKING:
    from playwright.sync_api import Browser

# As `feat` does before PyTorch is loaded: threads that wait must not keep the others' cores busy.
for _name, _value in ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)

# On a busy machine a sound example takes any time; a hang is found by pytest's own limit.
hypothesis.settings.register_profile("feat", deadline=None)
hypothesis.settings.load_profile("feat")

# What is imported stays: looking through a million objects for garbage takes half a second a time.
gc.disable()

# A shell that starts the tests in the background has them, and all their children, ignore Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# What takes longest, and before it the two files that compile the kernels of flow and network: as
# the last one it would keep one core busy, and the others waiting. Of the slow tests it is the
# tutorial.
FIRST = [
    "test_docs_pages",
    *("test_extract_tvl1", "test_extract_i3d", "test_model_methods", "test_report_page"),
    *("test_extract_runner", "test_predict", "test_extract_concurrent", "test_extract_weights"),
    *("test_comparison_page", "test_model_train", "test_model_seeds", "test_model_commands"),
    *("test_cache_transfer", "test_model_ablate", "test_extract_decode_real"),
    *("test_model_evaluate", "test_extract_without_kernels", "test_model_compare"),
    *("test_model_snapshots", "test_model_smoothing", "test_model_resume", "test_model_threshold"),
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest files first; `make test` keeps this order."""
    order = {name: place for place, name in enumerate(FIRST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


def pytest_collection_finish() -> None:
    """From here on garbage is looked for, among what the tests themselves make."""
    gc.collect()
    gc.freeze()
    gc.enable()


def pytest_unconfigure() -> None:
    """Let libraries end in order: nanobind counts what is left as leaks."""
    gc.unfreeze()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data; the test is skipped where it is absent."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("FEAT_SHARED_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"real data not found at {folder}: set FEAT_SHARED_DATA")
    return folder


@pytest.fixture(autouse=True, scope="session")
def _no_wait_for_the_disk() -> Iterator[None]:
    """No test cuts the power: what the kernel holds is there for whoever reads it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(scope="session")
def _viewer() -> Iterator[Hdf5Viewer]:
    with Hdf5Viewer() as viewer:
        yield viewer


@pytest.fixture
def one_viewer(_viewer: Hdf5Viewer) -> Iterator[None]:
    """`verify_cache` asks one child for all tests: it takes longer to start than to answer."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cache.upkeep.verify.Hdf5Viewer", lambda: contextlib.nullcontext(_viewer))
        yield


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Networks as small as those of the tests only wait for each other's threads."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def small_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames of 64 instead of 224 pixels: where features go is tested, not what they are."""
    monkeypatch.setitem(DecodeConfig.__init__.__kwdefaults__, "size", 64)


@pytest.fixture
def here(tmp_path: Path) -> FeatureCache:
    return FeatureCache.create(tmp_path / "here")


@pytest.fixture
def there(tmp_path: Path) -> FeatureCache:
    return FeatureCache.create(tmp_path / "there")


@pytest.fixture(scope="session")
def rgb_cache(tmp_path_factory: pytest.TempPathFactory) -> FeatureCache:
    """A cache of one stream to train from; nobody writes into it."""
    from model_cache import demo_rows, make_cache

    path = tmp_path_factory.mktemp("demo") / "features"
    return make_cache(path, demo_rows(), streams={"rgb": 32})


@pytest.fixture(scope="session")
def make_video() -> Callable[..., Path]:
    """A function that makes a small moving test video with ffmpeg."""

    def make(path: Path, *, num_frames: int, size: str = "64x48", codec: str = "libx264") -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        command = [find_ffmpeg(), "-v", "error", "-y", "-f", "lavfi"]
        command += ["-i", f"testsrc2=size={size}:rate=10", "-frames:v", str(num_frames)]
        subprocess.run([*command, "-c:v", codec, str(path)], check=True)
        return path

    return make


@pytest.fixture(scope="session")
def random_rgb_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An RGB I3D checkpoint with seeded random weights: a real network, only untrained."""
    path = tmp_path_factory.mktemp("weights") / "random-rgb.safetensors"
    save_file(random_state_dict(), path)
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    """Chromium; without it tests are skipped, or fail where FEAT_CI_BROWSER is 1."""
    missing = why_no_chromium()
    if missing and os.environ.get("FEAT_CI_BROWSER") == "1":
        pytest.fail(missing)
    if missing:
        pytest.skip(missing)
    with open_chromium() as browser:
        yield browser


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of 2 MB of our own; skipped where mounting is not allowed."""
    folder = Path(tempfile.mkdtemp(prefix="feat-disk-"))
    command = ["mount", "-t", "tmpfs", "-o", "size=2m,mode=777", "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, check=False)
    except FileNotFoundError:
        done = None
    if done is None or done.returncode:
        folder.rmdir()
        pytest.skip("cannot mount a small file system here (needs root)")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)
    folder.rmdir()
