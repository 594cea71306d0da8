"""Frozen dataclasses of settings: to and from plain values and text, with errors that help."""

import ast
import difflib
import inspect
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from math import isfinite
from typing import Any, Literal, Self, get_args, get_origin, get_type_hints

from data.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Base of every configuration of the second stage; subclasses check their fields' ranges.

    A field's meaning is the string below it, as everywhere in this code; `describe_settings`
    reads it from the source.
    """

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(type(self)).items():
            if get_origin(hint) is Literal:
                known = get_args(hint)
                self._require(name, getattr(self, name) in known, f"one of {', '.join(known)}")

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON types."""
        plain = asdict(self)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in plain.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build the settings from what `to_dict` gave.

        Raises:
            ConfigError: a name is unknown, or a value of another type or out of its range.
        """
        cls.check_names(values)
        hints = get_type_hints(cls)
        plain = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        for name, value in plain.items():
            if not _is_of(value, hints[name]):
                raise ConfigError(
                    f"{cls.title()}: {name} is {value!r}, expected {_type_name(hints[name])}"
                )
        return cls(**plain)

    @classmethod
    def title(cls) -> str:
        """Return what messages call these settings."""
        return str(getattr(cls, "name", cls.__name__))

    @classmethod
    def check_names(cls, names: Mapping[str, Any] | Sequence[str]) -> None:
        """Refuse names that are no settings.

        Raises:
            ConfigError: names the unknown ones and those that are near.
        """
        known = [field.name for field in fields(cls)]
        unknown = [name for name in names if name not in known]
        if not unknown:
            return
        near = [n for name in unknown for n in difflib.get_close_matches(name, known, n=3)]
        advice = f"did you mean {', '.join(near)}?" if near else f"it has {', '.join(known)}"
        raise ConfigError(
            f"{cls.title()} has no setting {', '.join(unknown)}; {advice if known else 'none'}"
        )

    def changed(self, settings: Mapping[str, Any]) -> Self:
        """Return these settings with some of them changed.

        Raises:
            ConfigError: as of `from_dict`.
        """
        return type(self).from_dict({**self.to_dict(), **settings})

    def changed_by_text(self, assignments: Sequence[str]) -> Self:
        """Return these settings with `name=value` texts put in, such as `hidden=64`.

        Lists are written with commas: `head_widths=256,128`.

        Raises:
            ConfigError: a text has no `=`, or its name or value does not fit.
        """
        pairs = [text.partition("=") for text in assignments]
        for (name, sign, _), text in zip(pairs, assignments, strict=True):
            if not sign or not name.strip():
                raise ConfigError(f"--set {text}: expected name=value, such as --set steps=100")
        given = {name.strip(): value.strip() for name, _, value in pairs}
        self.check_names(given)
        hints = get_type_hints(type(self))
        return self.changed(
            {
                name: _parse(f"{self.title()}: {name}", value, hints[name])
                for name, value in given.items()
            }
        )

    def _require(self, name: str, fits: bool, expected: str) -> None:
        if not fits:
            raise ConfigError(
                f"{self.title()}: {name} is {getattr(self, name)!r}, expected {expected}"
            )

    def _require_at_least(self, least: float, *names: str) -> None:
        for name in names:
            self._require(name, getattr(self, name) >= least, f"at least {least:g}")

    def _require_share(self, *names: str) -> None:
        for name in names:
            self._require(name, 0 <= getattr(self, name) < 1, "at least 0 and below 1")


@dataclass(frozen=True, kw_only=True)
class SettingInfo:
    """One setting as `--help-settings` shows it."""

    name: str
    kind: str
    value: str
    meaning: str


def describe_settings(settings: Settings) -> list[SettingInfo]:
    """Return name, type, value and meaning of every setting, in the order they are declared."""
    hints = get_type_hints(type(settings))
    meanings = _meanings(type(settings))
    return [
        SettingInfo(
            name=field.name,
            kind=_type_name(hints[field.name]),
            value=_text(getattr(settings, field.name)),
            meaning=meanings.get(field.name, ""),
        )
        for field in fields(settings)
    ]


def _meanings(cls: type) -> dict[str, str]:
    """Return the string below each field in the source of a class and of those it comes from."""
    found: dict[str, str] = {}
    for part in reversed(cls.__mro__):
        if not issubclass(part, Settings):
            continue
        tree = ast.parse(textwrap.dedent(inspect.getsource(part))).body[0]
        assert isinstance(tree, ast.ClassDef)
        for field, below in zip(tree.body, tree.body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(below, ast.Expr)
                and isinstance(below.value, ast.Constant)
            ):
                found[field.target.id] = " ".join(str(below.value.value).split())
    return found


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(f"{item:g}" for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _type_name(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return " | ".join(map(str, get_args(hint)))
    if get_origin(hint) is tuple:
        return f"{_type_name(get_args(hint)[0])}, with commas"
    names = {int: "whole number", float: "number", bool: "true | false", str: "text"}
    return names.get(hint, str(hint))


def _is_of(value: Any, hint: Any) -> bool:
    if get_origin(hint) is Literal:
        return isinstance(value, str)  # which ones, `__post_init__` says
    if get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(_is_of(item, get_args(hint)[0]) for item in value)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
    return isinstance(value, hint) and not (hint is int and isinstance(value, bool))


def _parse(what: str, text: str, hint: Any) -> Any:
    """Return the value that a text stands for."""
    try:
        if get_origin(hint) is tuple:
            parts = [part.strip() for part in text.split(",") if part.strip()]
            return [_parse(what, part, get_args(hint)[0]) for part in parts]
        if hint is bool:
            words = {"true": True, "yes": True, "on": True, "false": False, "no": False}
            return {**words, "off": False}[text.lower()]
        return hint(text) if hint in (int, float) else text
    except (ValueError, KeyError):
        raise ConfigError(f"{what} is {text!r}, expected {_type_name(hint)}") from None
