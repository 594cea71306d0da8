"""What identifies a feature: the video's content and the whole configuration that made it."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import TypeAlias

JSON: TypeAlias = bool | int | float | str | list["JSON"] | dict[str, "JSON"] | None

_SHA256 = re.compile(r"[0-9a-f]{64}")


def is_sha256(text: object) -> bool:
    """Return whether `text` is a sha256 digest as we write it: 64 lower-case hex digits."""
    return isinstance(text, str) and _SHA256.fullmatch(text) is not None


def canonical_json(value: object) -> bytes:
    """Return the one ASCII encoding of `value`: keys sorted, no spaces, floats as `repr`.

    Raises:
        ValueError: a number is not finite, or a value or a key is not JSON.
    """
    _check_keys(value)
    try:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except TypeError as error:
        raise ValueError(f"not JSON: {error}") from error
    return text.encode("ascii")


def config_digest(config: Mapping[str, JSON]) -> str:
    """Return the sha256 of a configuration, 64 hex digits."""
    return hashlib.sha256(canonical_json(dict(config))).hexdigest()


def feature_key(sha256: str, config: Mapping[str, JSON]) -> str:
    """Return the key of one stream of one video, 64 hex digits.

    Args:
        sha256: digest of the video's content (`data.videos.content_sha256`), never of its name.
        config: everything that changes the numbers, `"stream"` included; not the device, the
            number of workers or a path.

    Raises:
        ValueError: `sha256` is not one, `config` names no stream or is not JSON.
    """
    if not is_sha256(sha256):
        raise ValueError(f"sha256 must be 64 lower-case hex digits, got {sha256!r}")
    return KeyMaker(config).key(sha256)


class KeyMaker:
    """Makes the keys of many videos under one configuration, which is encoded once."""

    def __init__(self, config: Mapping[str, JSON]) -> None:
        """Take a configuration.

        Raises:
            ValueError: it names no stream or is not JSON.
        """
        if not isinstance(config.get("stream"), str):
            raise ValueError('a configuration must name its "stream"')
        text = canonical_json({"config": dict(config), "video": ""})
        self._hash = hashlib.sha256(text.removesuffix(b'"}'))

    def key(self, sha256: str) -> str:
        """Return the key of a video, given as 64 hex digits."""
        digest = self._hash.copy()
        digest.update(sha256.encode("ascii") + b'"}')
        return digest.hexdigest()


def config_difference(
    a: Mapping[str, JSON], b: Mapping[str, JSON], *, where: str = "in the cache"
) -> str:
    """Return what differs, readable: `weights.digest: x here, y in the cache; ...`.

    `a` is what is wanted ("here"), `b` what the cache, or whatever `where` names, holds. Empty if
    they are the same.
    """
    here, there = dict(_flatten("", dict(a))), dict(_flatten("", dict(b)))
    parts = []
    for name in sorted(here.keys() | there.keys()):
        x, y = here.get(name, "nothing"), there.get(name, "nothing")
        if x != y:
            parts.append(f"{name}: {x} here, {y} {where}")
    return "; ".join(parts)


def is_newer(a: Mapping[str, JSON], b: Mapping[str, JSON]) -> bool:
    """Whether `a` is `b` but for versions of ours, each at least as high and one higher."""
    here, there = dict(_flatten("", dict(a))), dict(_flatten("", dict(b)))
    if here.keys() != there.keys():
        return False
    differing = [name for name in here if here[name] != there[name]]
    return bool(differing) and all(
        name.endswith(".version")
        and here[name].isdecimal()
        and there[name].isdecimal()
        and int(here[name]) > int(there[name])
        for name in differing
    )


def imported_sha256(name: str) -> str:
    """Return what stands for the content of a video that was not there when its features came."""
    return hashlib.sha256(f"feat imported video\n{name}".encode()).hexdigest()


def _flatten(prefix: str, value: JSON) -> Iterator[tuple[str, str]]:
    """Yield (dotted name, value as JSON text) of every leaf."""
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _flatten(f"{prefix}.{name}" if prefix else name, inner)
    else:
        plain = isinstance(value, str) and value.isprintable()  # no escapes for the terminal
        yield prefix, str(value) if plain else json.dumps(value, sort_keys=True)


def _check_keys(value: object) -> None:
    """Refuse keys that are not strings: JSON would turn 1 into "1" without a word."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if not isinstance(name, str):
                raise ValueError(f"a configuration's keys must be strings, got {name!r}")
            _check_keys(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            _check_keys(inner)
