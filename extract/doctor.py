"""What `feat doctor` looks at: is all there that feat needs, and what is to be done if not?"""

import importlib
import os
import platform
import shutil
import tempfile
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from cache import FeatureCache
from cache.upkeep.summary import human_size
from data.errors import FeatError
from data.ffmpeg import ffmpeg_version, find_ffmpeg
from data.visible import one_line
from extract.kernels.choice import use_kernels
from extract.weights.convert import read_weights
from extract.weights.fetch import RGB_URL
from extract.weights.listing import look_for_weights
from extract.weights.resolve import usable_folder, weights_folder

State = Literal["ok", "warn", "fail"]

NETWORK_SECONDS = 3.0
_NO_KERNELS = (
    "not used: extraction on a CPU takes tens of times as long; reinstall numba, unless "
    "FEAT_KERNELS=0 is meant"
)
LITTLE_BYTES, NO_BYTES = 5_000_000_000, 100_000_000
"""Free disk space that is worth a warning, and with which nothing can be done."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that was looked at: what was found, and what to do about it, if anything."""

    name: str
    state: State
    found: str
    todo: str = ""

    def to_lines(self) -> list[str]:
        """Return a line of what was found, and one of what to do."""
        lines = [f"{self.state:<5} {self.name:<13} {self.found}"]
        return [*lines, f"{'':<19} -> {self.todo}"] if self.todo else lines


def run_checks(cache_dir: Path | None = None, *, url: str = RGB_URL) -> list[Check]:
    """Look at everything; nothing is changed, and what fails does not keep the rest from it.

    Args:
        cache_dir: the feature cache; None for `features`, which need not be there.
        url: of the weights, to see whether their host can be reached; empty: do not try.
    """
    network = check_network(url) if url else None
    online = network is None or network.state == "ok"
    return [
        *check_versions(),
        check_ffmpeg(),
        check_gpu(),
        *check_weights_there(online=online),
        check_cache(cache_dir),
        *check_disks({"cache": cache_dir or Path("features"), "runs": Path("runs")}),
        *([network] if network else []),
    ]


def check_versions() -> Iterator[Check]:
    """Yield the versions of feat, Python, PyTorch and numba, loading the latter two."""
    try:
        yield Check(name="feat", state="ok", found=version("feat"))
    except ImportError:  # a checkout on PYTHONPATH
        yield Check(name="feat", state="fail", found="not installed", todo="pip install -e .")
    where = f"{platform.python_version()} on {platform.platform()}"
    yield Check(name="python", state="ok", found=where)
    try:
        torch = importlib.import_module("torch")
        build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "built for CPUs alone"
        yield Check(name="torch", state="ok", found=f"{torch.__version__}, {build}")
    except (ImportError, OSError) as error:
        todo = "install it again: pip install --force-reinstall torch"
        yield Check(name="torch", state="fail", found=one_line(str(error)), todo=todo)
    try:
        kernels = use_kernels()
        yield Check(name="numba", state="ok" if kernels else "warn", found=version("numba"),
                    todo="" if kernels else _NO_KERNELS)  # fmt: skip
    except ImportError:
        yield Check(name="numba", state="warn", found="not installed", todo=_NO_KERNELS)
    except FeatError as error:
        yield _failed("numba", error)


def check_ffmpeg() -> Check:
    """Return which ffmpeg decodes the videos."""
    try:
        return Check(name="ffmpeg", state="ok", found=f"{ffmpeg_version()}, {find_ffmpeg()}")
    except FeatError as error:
        return _failed("ffmpeg", error)


def check_gpu() -> Check:
    """Return the GPUs that feat computes on, or why there is none."""
    cores = f"feat computes on {len(os.sched_getaffinity(0))} CPU cores"
    try:
        import torch
    except (ImportError, OSError):
        return Check(name="gpu", state="warn", found="unknown without torch")
    with warnings.catch_warnings(record=True) as causes:
        warnings.simplefilter("always")
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count:
        cards = [torch.cuda.get_device_properties(number) for number in range(count)]
        named = ", ".join(f"{card.name} ({human_size(card.total_memory)})" for card in cards)
        return Check(name="gpu", state="ok", found=named)
    if torch.backends.mps.is_available():
        return Check(name="gpu", state="ok", found=f"Apple's, which feat does not use; {cores}")
    if not Path("/proc/driver/nvidia/version").exists():
        return Check(name="gpu", state="ok", found=f"none (no NVIDIA driver); {cores}")
    why = "torch is built for CPUs alone" if torch.version.cuda is None else "torch sees no card"
    if causes:
        why = one_line(str(causes[0].message)).partition(". ")[0]
    todo = "install a build of torch for the driver's CUDA (nvidia-smi shows it)"
    return Check(name="gpu", state="warn", found=f"a driver, but {why}; {cores}", todo=todo)


def check_weights_there(*, online: bool) -> Iterator[Check]:
    """Yield for each stream whether its weights are there, all bytes read.

    Those of C3D, which few need, are looked at where they are.

    Args:
        online: missing ones can be fetched.
    """
    folder = weights_folder()
    try:
        with usable_folder(folder):
            streams = look_for_weights(folder)
    except FeatError as error:
        yield _failed("weights", error)
        return
    for one in streams:
        name = f"{one.stream} weights"
        if one.file is None and one.stream == "c3d":
            continue
        if one.file is None:
            names = ", ".join(path.name for path in one.looked_for)
            # without RGB nothing can be extracted; flow can do with a copy of RGB
            bad: State = "warn" if online or one.stream == "flow" else "fail"
            yield Check(name=name, state=bad, found=f"no {names} in {folder}", todo=one.get)
            continue
        try:
            if one.file.suffix == ".safetensors":
                read_weights(one.file)
            yield Check(name=name, state="ok", found=str(one.file))
        except (FeatError, OSError) as error:
            yield _failed(name, error)


def check_cache(cache_dir: Path | None) -> Check:
    """Return what the cache holds and what is wrong with it, as far as its index tells."""
    path = cache_dir or Path("features")
    if cache_dir is None and not path.exists():
        return Check(name="cache", state="ok", found=f"no {path} here yet; feat extract makes it")
    try:
        cache = FeatureCache(path)
        count, bad = len(cache.videos()), cache.bad_shards
    except (FeatError, OSError) as error:
        return _failed("cache", error)
    labels = "with" if cache.labels_path.exists() else "without"
    found = f"{path}: {count} videos, {labels} labels.csv"
    if bad:
        name, why = next(iter(bad.items()))
        return Check(
            name="cache",
            state="fail",
            found=f"{found}; {len(bad)} damaged shards: {name}: {why}",
            todo=f"run feat cache verify {path} --repair, then feat extract again",
        )
    return Check(name="cache", state="ok", found=found)


def check_disks(folders: dict[str, Path]) -> Iterator[Check]:
    """Yield the free space where some folders are or will be, and where temporary files go."""
    for name, folder in {**folders, "TMPDIR": None}.items():
        try:
            place = (folder or Path(tempfile.gettempdir())).absolute()
            while not place.exists():
                place = place.parent
            free = shutil.disk_usage(place).free
        except OSError as error:  # gettempdir finds no folder that may be written
            yield _failed(f"disk {name}", error)
            continue
        state: State = "fail" if free < NO_BYTES else "warn" if free < LITTLE_BYTES else "ok"
        todo = "make room, or choose a folder on another disk" if state != "ok" else ""
        found = f"{human_size(free)} free at {place}"
        if not os.access(place, os.W_OK):
            state, found = "warn", f"{found}, which may not be written"
            todo = "ask its owner, or choose a folder of your own"
        yield Check(name=f"disk {name}", state=state, found=found, todo=todo)


def check_network(url: str, seconds: float = NETWORK_SECONDS) -> Check:
    """Return whether a file can be asked for, with the client and the proxy of `feat weights`."""
    import requests

    answers: list[str] = []

    def ask() -> None:
        try:
            with requests.head(url, timeout=seconds, allow_redirects=True) as response:
                answers.append("" if response.ok else f"{response.status_code} {response.reason}")
        except requests.RequestException as error:
            answers.append(type(error).__name__)

    # looking up a name has no time limit of its own
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(seconds)
    why = answers[0] if answers else f"no answer within {seconds:g} s"
    host = urlsplit(url).hostname
    if not why:
        return Check(name="network", state="ok", found=f"{host} has the weights")
    todo = "needed for weights that are missing only; behind a proxy set HTTPS_PROXY"
    return Check(name="network", state="warn", found=f"{host}: {why} ({url})", todo=todo)


def _failed(name: str, error: FeatError | OSError) -> Check:
    """Return an error as a check: the last part of its line says what to do."""
    found, _, todo = str(error).rpartition("; ")
    return Check(name=name, state="fail", found=found or todo, todo=todo if found else "")
