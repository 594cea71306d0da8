"""Merging and pulling refuse the same contradictions, and so does extraction."""

from collections.abc import Callable

import pytest
from cache_samples import make_config, make_record, sha256_of

from cache import FeatureCache, NameEntry
from cache.exchange.merge import merge_caches
from cache.exchange.remote import Remote
from cache.exchange.transfer import pull_cache
from data.errors import CacheError, ConfigError
from extract.run.plan import refuse_second_config

Adding = Callable[[FeatureCache, FeatureCache], object]


def merge(source: FeatureCache, target: FeatureCache) -> None:
    merge_caches([source], target)


def pull(source: FeatureCache, target: FeatureCache) -> None:
    pull_cache(target, Remote(str(source.path)))


@pytest.fixture(params=[merge, pull])
def add(request: pytest.FixtureRequest) -> Adding:
    return request.param


def refusal(add: Adding, there: FeatureCache, here: FeatureCache) -> str:
    before = len(here)
    with pytest.raises(CacheError) as caught:
        add(there, here)
    again = FeatureCache(here.path)
    assert len(again) == before
    return str(caught.value)


def test_a_stream_made_otherwise(add, here, there) -> None:
    here.write([make_record("1.mp4")])
    there.write([make_record(f"{n}.mp4", config=make_config(clip_stride=8)) for n in (2, 3)])
    there.write([make_record("2.mp4", "flow")])  # no flow here yet: no contradiction
    text = refusal(add, there, here)
    assert "1 conflicts" in text
    assert "rgb made otherwise: clip_stride: 8 here, nothing in the cache" in text


def test_a_name_for_another_content(add, here, there) -> None:
    for cache, content in ((here, "x"), (there, "y")):
        cache.write([make_record(content)])
        cache.set_names({"v.mp4": NameEntry(sha256=sha256_of(content), size=1, mtime_ns=1)})
    text = refusal(add, there, here)
    assert (
        f"v.mp4: content {sha256_of('y')[:12]} here, {sha256_of('x')[:12]} in {here.path}" in text
    )
    assert "--latest-names" in text


def test_a_name_that_only_the_features_record(add, here, there) -> None:
    """The other cache's shards came without its names: the videos are told by their records."""
    here.write([make_record("v.mp4")])
    there.write([make_record("v.mp4", sha256=sha256_of("other"))])
    assert "v.mp4: content" in refusal(add, there, here)


def test_a_recorded_name_counts_no_more_once_the_content_has_another(add, here, there) -> None:
    here.write([make_record("v.mp4")])
    there.write([make_record("v.mp4", sha256=sha256_of("other"))])
    there.set_names({"w.mp4": NameEntry(sha256=sha256_of("other"), size=1, mtime_ns=1)})
    add(there, here)
    assert FeatureCache(here.path).videos() == ["v.mp4", "w.mp4"]


def test_many_conflicts_are_counted_and_the_first_five_told(add, here, there) -> None:
    for number in range(7):
        here.write([make_record(f"{number}.mp4")])
        there.write([make_record(f"{number}.mp4", sha256=sha256_of(f"other {number}"))])
    text = refusal(add, there, here)
    assert "7 conflicts" in text
    assert text.endswith("; and 2 more")


def test_extraction_asks_the_same(here) -> None:
    here.write([make_record("1.mp4")])
    other = make_config(clip_stride=8)
    with pytest.raises(ConfigError, match=r"rgb made otherwise: clip_stride: 8 here.*; use the sa"):
        refuse_second_config(here, {"rgb": other})
    refuse_second_config(here, {"rgb": make_config(), "flow": make_config("flow")})
