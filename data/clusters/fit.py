"""What a worker must have in common with the driver, or its results would be others."""

import hashlib
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path

from data.errors import ConfigError


@cache
def code_of(*packages: str) -> str:
    """Return feat's version and a digest of the code of some of its packages."""
    home = Path(__file__).resolve().parents[2]
    digest = hashlib.sha256()
    for package in packages:
        for path in sorted((home / package).rglob("*.py")):
            digest.update(path.read_bytes())
    return f"{version('feat')} (code {digest.hexdigest()[:12]})"


def refuse_other(here: Mapping[str, str], *, expected: Mapping[str, str]) -> None:
    """Raise a ConfigError that names the first thing in which this process is not the driver's."""
    for name, value in expected.items():
        if here[name] != value:
            raise ConfigError(f"{name}: found {here[name]}, expected the driver's {value}")
