import hashlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache import config_difference, config_digest, feature_key
from cache.keys import canonical_json

VIDEO = "0" * 64
leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
finite = leaves.filter(lambda x: not isinstance(x, float) or abs(x) < float("inf"))
values = st.recursive(
    finite, lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(), x, max_size=3)
)
configs = st.dictionaries(st.text(), values, max_size=4).map(lambda c: {**c, "stream": "rgb"})


def test_key_is_the_sha256_of_documented_json() -> None:
    text = '{"config":{"a":[1,2.5],"stream":"rgb"},"video":"' + VIDEO + '"}'
    expected = hashlib.sha256(text.encode()).hexdigest()
    assert feature_key(VIDEO, {"stream": "rgb", "a": [1, 2.5]}) == expected


@settings(max_examples=40)
@given(configs)
def test_key_survives_a_round_trip_through_json(config) -> None:
    again = json.loads(json.dumps(config))
    assert feature_key(VIDEO, again) == feature_key(VIDEO, config)


@settings(max_examples=40)
@given(configs, configs)
def test_different_configurations_have_different_digests(a, b) -> None:
    same = canonical_json(a) == canonical_json(b)
    assert (config_digest(a) == config_digest(b)) == same
    assert (config_difference(a, b) == "") >= same


def test_order_of_fields_does_not_matter() -> None:
    assert config_digest({"a": 1, "b": 2}) == config_digest({"b": 2, "a": 1})


def test_key_depends_on_content_and_every_field() -> None:
    base = {"stream": "rgb", "clip_len": 16, "weights": {"digest": "x"}}
    keys = {
        feature_key(VIDEO, base),
        feature_key("1" * 64, base),
        feature_key(VIDEO, {**base, "clip_len": 8}),
        feature_key(VIDEO, {**base, "weights": {"digest": "y"}}),
        feature_key(VIDEO, {**base, "stream": "flow"}),
    }
    assert len(keys) == 5


@pytest.mark.parametrize(
    ("sha256", "config", "match"),
    [
        ("a/one.mp4", {"stream": "rgb"}, "64 lower-case hex digits"),
        (VIDEO.upper().replace("0", "A"), {"stream": "rgb"}, "64 lower-case"),
        (VIDEO, {"clip_len": 16}, "stream"),
        (VIDEO, {"stream": "rgb", "x": float("nan")}, "not JSON|Out of range"),
        (VIDEO, {"stream": "rgb", "x": {1: 2}}, "must be strings"),
        (VIDEO, {"stream": "rgb", "x": object()}, "not JSON"),
    ],
)
def test_bad_arguments_are_refused(sha256, config, match) -> None:
    with pytest.raises(ValueError, match=match):
        feature_key(sha256, config)


def test_difference_names_every_field_and_both_values() -> None:
    here = {"stream": "rgb", "weights": {"name": "kinetics", "digest": "aa"}, "fps": 25}
    there = {"stream": "rgb", "weights": {"name": "kinetics", "digest": "bb"}, "size": 224}
    assert config_difference(here, there) == (
        "fps: 25 here, nothing in the cache; size: nothing here, 224 in the cache; "
        "weights.digest: aa here, bb in the cache"
    )
    assert config_difference(here, here) == ""
