"""Which streams a model takes by itself, and which it refuses."""

import pytest
from cache_samples import make_other, make_record

from cache import FeatureCache
from data.errors import ModelError
from data.labels import VideoLabel
from model.features.choose import available_streams, choose_streams
from model.features.load import load_features


def test_models_take_streams_of_features_and_of_crops_only(tmp_path) -> None:
    cache = FeatureCache.create(tmp_path / "features")
    streams = [make_record(stream=stream) for stream in ("flow", "rgb", "c3d")]
    others = [
        make_other("images", "thumbnails"),
        make_other("frames", "pixels"),
        make_other("crops", "ten-crop"),
    ]
    cache.write([*streams, *others])
    available = available_streams(cache, ["a/one.mp4", "absent.mp4"])
    assert available == {"a/one.mp4": {"rgb", "flow", "c3d", "ten-crop"}, "absent.mp4": set()}
    chosen = choose_streams({"a/one.mp4": available["a/one.mp4"]})
    assert chosen == ("rgb", "flow", "c3d", "ten-crop")
    label = VideoLabel(video="a/one.mp4", split="train", category="Normal")
    assert load_features(cache, [label], streams=chosen).features.shape == (5, 32)
    with pytest.raises(ModelError, match="thumbnails: found a stream of kind images"):
        load_features(cache, [label], streams=("thumbnails",))
