"""What the numbers of a run may depend on beside its configuration."""

import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "numpy", "scikit-learn", "h5py", "safetensors")


def environment() -> dict[str, Any]:
    """Return time, versions of everything that computes, platform and git commit."""
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "feat": feat_version(),
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "packages": {name: version(name) for name in PACKAGES},
        "git": _git_state(Path(__file__).resolve().parent),
    }


def feat_version() -> str:
    """Return the installed version of this project."""
    try:
        return version("feat")
    except PackageNotFoundError:
        return "not installed"


def _git_state(folder: Path) -> dict[str, Any] | None:
    """Return commit and whether files differ from it, or None outside a repository."""

    def ask(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
        return done.stdout.strip()

    try:
        if not ask("ls-files", Path(__file__).name):  # installed inside somebody else's repository
            return None
        changed = ask("status", "--porcelain", "--untracked-files=no")
        return {"commit": ask("rev-parse", "HEAD"), "changed": bool(changed)}
    except (OSError, subprocess.SubprocessError):
        return None
