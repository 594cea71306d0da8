"""Settings: from and to text and JSON, what is refused and how, and what each one means."""

import json
from dataclasses import FrozenInstanceError, dataclass, fields
from typing import ClassVar, Literal, get_type_hints

import pytest

from data.errors import ConfigError
from model.methods.registry import METHODS, choose_method
from model.settings import Settings, describe_settings


@dataclass(frozen=True, kw_only=True)
class Shape(Settings):
    sides: int = 4
    """How many."""
    undescribed: int = 0
    color: Literal["red", "green"] = "red"
    """Of the
    outside."""


@dataclass(frozen=True, kw_only=True)
class Sample(Shape):
    name: ClassVar[str] = "sample"

    sides: int = 3
    """How many, at least three."""
    length: float = 0.5
    """Of a side, metres."""
    filled: bool = False
    """Whether it is."""
    title_text: str = "plain"
    """Written below."""
    widths: tuple[int, ...] = (8, 4)
    """Of the lines."""
    shares: tuple[float, ...] = (0.25, 1.0)
    """Of each."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_at_least(3, "sides")
        self._require_share("length")


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("sides=5", "sides", 5),
        (" sides = 5 ", "sides", 5),
        ("length=0.25", "length", 0.25),
        ("length=1e-3", "length", 1e-3),
        ("length=0", "length", 0.0),
        ("filled=true", "filled", True),
        ("filled=YES", "filled", True),
        ("filled=False", "filled", False),
        ("filled=no", "filled", False),
        ("title_text=a = b", "title_text", "a = b"),
        ("title_text=", "title_text", ""),
        ("color=green", "color", "green"),
        ("widths=16", "widths", (16,)),
        ("widths=256, 128,", "widths", (256, 128)),
        ("widths=", "widths", ()),
        ("shares=1e-2,3", "shares", (0.01, 3.0)),
    ],
)
def test_text_becomes_a_value_of_the_settings_type(text, name, value):
    found = getattr(Sample(filled=not value).changed_by_text([text]), name)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sides=many", "sample: sides is 'many', expected whole number"),
        ("sides=4.0", "sample: sides is '4.0', expected whole number"),
        ("sides=", "sample: sides is '', expected whole number"),
        ("length=long", "sample: length is 'long', expected number"),
        ("length=nan", "sample: length is nan, expected number"),
        ("length=inf", "sample: length is inf, expected number"),
        ("filled=2", "sample: filled is '2', expected true | false"),
        ("color=blue", "sample: color is 'blue', expected one of red, green"),
        ("widths=8,x", "sample: widths is 'x', expected whole number"),
        ("shares=1,-inf", "sample: shares is (1.0, -inf), expected number, with commas"),
        ("sides=2", "sample: sides is 2, expected at least 3"),
        ("length=1", "sample: length is 1.0, expected at least 0 and below 1"),
        ("length=-0.1", "sample: length is -0.1, expected at least 0 and below 1"),
        ("sides", "--set sides: expected name=value, such as --set steps=100"),
        ("=3", "--set =3: expected name=value, such as --set steps=100"),
        ("side=3", "sample has no setting side; did you mean sides?"),
        (
            "zzz=3",
            "sample has no setting zzz; it has sides, undescribed, color, length, filled, "
            "title_text, widths, shares",
        ),
    ],
)
def test_a_text_that_does_not_fit_is_one_line_that_says_what_does(text, message):
    with pytest.raises(ConfigError) as error:
        Sample().changed_by_text([text])
    assert str(error.value) == message


def test_all_unknown_names_are_named_at_once():
    with pytest.raises(
        ConfigError, match=r"no setting lenght, widht; did you mean length, widths\?"
    ):
        Sample().changed_by_text(["lenght=1", "sides=3", "widht=1"])


def test_of_two_texts_for_one_setting_the_last_counts():
    assert Sample().changed_by_text(["sides=4", "sides=5"]).sides == 5


def test_changing_leaves_the_settings_themselves_alone():
    before = Sample()
    assert before.changed({"sides": 9}) == Sample(sides=9)
    assert before == Sample()
    with pytest.raises(FrozenInstanceError):
        before.sides = 9


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sides", True),
        ("sides", 4.0),
        ("sides", "4"),
        ("sides", None),
        ("length", "0.5"),
        ("length", False),
        ("length", float("nan")),
        ("filled", 1),
        ("title_text", 3),
        ("color", 3),
        ("widths", 8),
        ("widths", [8, 1.5]),
        ("widths", ["8"]),
        ("shares", [float("inf")]),
    ],
)
def test_a_json_value_of_another_type_is_refused_by_name(name, value):
    with pytest.raises(ConfigError, match=f"sample: {name} is .*, expected "):
        Sample.from_dict({**Sample().to_dict(), name: value})


def test_what_a_file_does_not_say_has_the_value_of_the_field():
    assert Sample.from_dict({"sides": 5}) == Sample(sides=5)


@pytest.mark.parametrize("method", METHODS)
def test_every_preset_survives_a_round_trip_through_json(method):
    presets = choose_method(method).presets
    assert "default" in presets
    for preset, changes in presets.items():
        chosen = choose_method(method, preset)
        plain = json.loads(json.dumps(chosen.to_dict()))
        assert type(chosen).from_dict(plain) == chosen
        assert {name: plain[name] for name in changes} == changes


@pytest.mark.parametrize("method", METHODS)
def test_every_setting_of_every_method_has_a_meaning(method):
    chosen = choose_method(method)
    infos = describe_settings(chosen)
    assert [info.name for info in infos] == [field.name for field in fields(chosen)]
    for info in infos:
        assert info.meaning.endswith("."), info
        assert "  " not in info.meaning
        assert "\n" not in info.meaning
        assert not info.kind.startswith(("typing", "<"))


@pytest.mark.parametrize("method", METHODS)
def test_no_method_takes_a_number_below_zero_or_none_at_all(method):
    chosen = choose_method(method)
    hints = get_type_hints(type(chosen))
    numbers = [field.name for field in fields(chosen) if hints[field.name] in (int, float)]
    assert numbers
    for name in numbers:
        for text in ("-1", "nan", "inf", "-inf", ""):
            with pytest.raises(ConfigError, match=f"^{method}: {name} is "):
                chosen.changed_by_text([f"{name}={text}"])


def test_a_description_has_type_value_and_meaning_in_the_order_of_declaration():
    found = [
        (info.name, info.kind, info.value, info.meaning)
        for info in describe_settings(Sample(sides=7, shares=(0.125,)))
    ]
    assert found == [
        ("sides", "whole number", "7", "How many, at least three."),
        ("undescribed", "whole number", "0", ""),
        ("color", "red | green", "red", "Of the outside."),
        ("length", "number", "0.5", "Of a side, metres."),
        ("filled", "true | false", "False", "Whether it is."),
        ("title_text", "text", "plain", "Written below."),
        ("widths", "whole number, with commas", "8,4", "Of the lines."),
        ("shares", "number, with commas", "0.125", "Of each."),
    ]


@pytest.mark.parametrize(
    ("name", "preset", "message"),
    [
        ("deepmill", "default", "method 'deepmill' is unknown; did you mean deepmil"),
        ("zzz", "default", "method 'zzz' is unknown; expected convlstm, deepmil"),
        ("knn", "paper", "knn has no preset 'paper'; it has default"),
        ("convlstm", "best", "convlstm has no preset 'best'; it has default, paper, released"),
    ],
)
def test_an_unknown_method_or_preset_is_named_with_those_there_are(name, preset, message):
    with pytest.raises(ConfigError, match=message):
        choose_method(name, preset)
