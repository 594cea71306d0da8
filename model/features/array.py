"""How much memory there is, and room for feature arrays: in memory, or else in a mapped file."""

import logging
import os
import tempfile
from pathlib import Path

import numpy as np
import psutil
from numpy.typing import NDArray

from data.errors import ModelError

logger = logging.getLogger(f"feat.{__name__}")

MEMORY_SHARE = 0.5
"""Of the memory that is available, what one feature array may take."""
CGROUPS = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")


def empty_features(
    shape: tuple[int, int], *, memory_bytes: int | None = None
) -> NDArray[np.float32]:
    """Return a writable (N, D) float32 array whose values are arbitrary.

    It lies in memory if that has room, else in a file without a name, which the system reads and
    writes as needed and which goes with the array. The file is made in the folder that the
    environment's TMPDIR names or, without that, in /var/tmp: /tmp is memory on many systems.

    Args:
        shape: N and D.
        memory_bytes: at most so much of it may be in memory; default: half of what is available.

    Raises:
        ModelError: the disk has no room either.
    """
    num_bytes = shape[0] * shape[1] * np.dtype(np.float32).itemsize
    allowed = int(MEMORY_SHARE * available_memory()) if memory_bytes is None else memory_bytes
    if num_bytes <= allowed or num_bytes == 0:
        return np.empty(shape, np.float32)
    folder = os.environ.get("TMPDIR") or _default_folder()
    logger.info(
        "features of %.1f GB do not fit into memory (%.1f GB for them): mapped from a file in %s",
        num_bytes / 1e9,
        allowed / 1e9,
        folder,
    )
    try:
        # The mapping keeps the file.
        with tempfile.TemporaryFile(dir=folder) as file:
            if hasattr(os, "posix_fallocate"):  # a full disk now, not a crash when it is written to
                os.posix_fallocate(file.fileno(), 0, num_bytes)
            return np.memmap(file, np.float32, "r+", shape=shape)
    except OSError as error:
        raise ModelError(
            f"features of {num_bytes / 1e9:.1f} GB fit neither into memory ({allowed / 1e9:.1f} GB "
            f"for them) nor into {folder}: {error.strerror}; set TMPDIR to a folder with room"
        ) from error


def available_memory(*, cgroups: Path = CGROUPS, own_groups: Path = OWN_GROUPS) -> int:
    """Return the bytes that can be taken before the machine, or the container, is out of memory.

    Containers and batch systems set limits that the machine's own figures do not show: those of
    control groups, version 1 or 2, count.

    Args:
        cgroups: where control groups are mounted.
        own_groups: names those of this process.
    """
    available = int(psutil.virtual_memory().available)
    for folder in _memory_groups(cgroups, own_groups):
        available = min(available, _left_in(folder, available))
    return available


def _memory_groups(cgroups: Path, own_groups: Path) -> list[Path]:
    """Return the folders of this process's memory groups, innermost first."""
    try:
        lines = own_groups.read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return []
    folders = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            mount = cgroups / "memory"
        elif not controllers:
            mount = cgroups
        else:
            continue
        # In a container the path is often that of the machine, and the mount the container's own.
        own = mount / path.lstrip("/")
        folders += [folder for folder in (own, *own.parents) if folder.is_relative_to(mount)]
    return folders


def _left_in(group: Path, otherwise: int) -> int:
    """Return the bytes left below a control group's limit, `otherwise` where it has none."""
    for limit, usage, cache in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            allowed = int((group / limit).read_text())
            used = int((group / usage).read_text())
            rows = (group / "memory.stat").read_text().splitlines()
        except (OSError, ValueError):  # absent, or "max"
            continue
        stats = dict(row.split(" ", 1) for row in rows)
        # What was read from files is dropped when memory is short.
        return max(allowed - used + int(stats.get(cache, 0)), 0)
    return otherwise


def _default_folder() -> str:
    return "/var/tmp" if Path("/var/tmp").is_dir() else str(Path.home())
