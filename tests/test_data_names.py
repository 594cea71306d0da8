"""Which names may have been meant by one that is not there."""

import pytest

from data.names import nearest_names

NAMES = ["cam1/a.mp4", "cam2/a.mp4", "cam2/street_01.mp4", "training/frames/08", "Ärger.mp4"]


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("own/cam2/a.mp4", "cam2/a.mp4"),  # of several with its stem the one most like it
        ("own/cam1/a.mp4", "cam1/a.mp4"),
        ("cam2/a", "cam2/a.mp4"),
        ("street_01", "cam2/street_01.mp4"),
        ("stret_01.mp4", "cam2/street_01.mp4"),  # mistyped
        ("Arger.mp4", "Ärger.mp4"),
        ("x.mp4", ""),
        ("08", "training/frames/08"),
        ("s", ""),  # a letter is in many names by chance
    ],
)
def test_the_likeliest_comes_first(name: str, near: str) -> None:
    found = nearest_names(name, NAMES, count=1)
    assert found == ([near] if near else [])
