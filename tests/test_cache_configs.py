"""Two configurations in one cache, as `--allow-mixed` leaves them: naming one, taking one."""

import json
from pathlib import Path

import numpy as np
import pytest
from cache_samples import make_config, make_record
from click.testing import CliRunner

from cache import FeatureCache, config_digest
from cache.commands.upkeep import cache_group
from cache.configs import choose_configs, list_configs, resolve_config
from cache.exchange.merge import merge_caches
from data.errors import CacheError

OLD, NEW, FLOW = make_config(), make_config(clip_stride=8), make_config("flow")


def short(config: dict) -> str:
    return config_digest(config)[:8]


@pytest.fixture
def cache(tmp_path: Path) -> FeatureCache:
    """1.mp4 and 2.mp4 in two configurations of rgb, 3.mp4 in the old one only."""
    cache = FeatureCache.create(tmp_path / "features")
    for number in (1, 2, 3):
        cache.write([make_record(f"{number}.mp4"), make_record(f"{number}.mp4", "flow")])
    cache.write([make_record(f"{number}.mp4", config=NEW) for number in (1, 2)])
    return cache


def run(*args: object) -> str:
    result = CliRunner().invoke(cache_group, [str(arg) for arg in args], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_a_start_of_the_digest_chooses(cache) -> None:
    assert choose_configs(cache, []) == {}
    for count in (8, 12, 64):
        start = config_digest(NEW)[:count]
        assert choose_configs(cache, [start]) == {"rgb": NEW}
        assert choose_configs(cache, [start.upper()]) == {"rgb": NEW}
    both = choose_configs(cache, [short(OLD), short(FLOW), short(OLD)])
    assert both == {"rgb": OLD, "flow": FLOW}
    for stream, config in both.items():
        assert cache.find("1.mp4", stream, config).config == config


def test_an_unknown_start_is_told_what_there_is(cache) -> None:
    wrong = next(digit for digit in "0123456789abcdef" if digit not in starts(cache))
    with pytest.raises(CacheError) as caught:
        choose_configs(cache, [wrong])
    text = str(caught.value)
    assert "\n" not in text
    assert f"--config {wrong}: no configuration begins so" in text
    assert f"{short(FLOW)} (flow, 3 videos)" in text
    assert f"{short(OLD)} (rgb, 3 videos)" in text
    assert f"{short(NEW)} (rgb, 2 videos; clip_stride: 8 here, nothing in {short(OLD)})" in text


def starts(cache: FeatureCache) -> set[str]:
    return {one.digest[0] for one in list_configs(cache)}


def test_an_ambiguous_start_needs_more_digits(cache) -> None:
    for number in range(20):  # twenty digests have sixteen first digits
        cache.write([make_record("1.mp4", config=make_config(clip_stride=100 + number))])
    found = list_configs(cache)
    firsts = [one.digest[0] for one in found]
    start = max(set(firsts), key=firsts.count)
    fitting = [one for one in found if one.digest[0] == start]
    with pytest.raises(
        CacheError, match=f"{len(fitting)} configurations begin so .* more dig"
    ) as e:
        choose_configs(cache, [start])
    assert all(one.short in str(e.value) for one in fitting)
    assert resolve_config(found, fitting[0].digest, where="here") == fitting[0]


@pytest.mark.parametrize("start", ["", "xyz", "12 34", "-1"])
def test_what_is_no_digest_is_refused(cache, start) -> None:
    with pytest.raises(CacheError, match="expected the hex digits"):
        choose_configs(cache, [start])


def test_one_configuration_a_stream(cache) -> None:
    with pytest.raises(CacheError, match=r"are both of rgb: .*clip_stride.*one for each stream"):
        choose_configs(cache, [short(OLD), short(NEW)])


def test_find_names_the_option_and_the_digests(cache) -> None:
    with pytest.raises(
        CacheError, match=r"2 configurations of rgb .* choose one with --config"
    ) as e:
        cache.find("1.mp4", "rgb")
    assert short(OLD) in str(e.value)
    assert short(NEW) in str(e.value)


def test_ls_and_info_show_digests_that_config_takes(cache) -> None:
    listing = json.loads(run("ls", cache.path, "--json"))
    first, third = listing["videos"][0], listing["videos"][2]
    assert dict(zip(first["configs"], first["streams"], strict=True)) == {
        short(OLD): "rgb",
        short(NEW): "rgb",
        short(FLOW): "flow",
    }
    assert third["configs"] == [short(FLOW), short(OLD)]
    about = json.loads(run("info", "--cache", cache.path, "--json"))
    for group in about["configs"]:
        assert choose_configs(cache, [group["digest"][:8]]) == {group["stream"]: group["config"]}


def test_export_of_one_configuration(cache, tmp_path) -> None:
    args = ["export", "--cache", cache.path, "--streams", "rgb", "--out", tmp_path / "out"]
    with pytest.raises(CacheError, match="rgb in several configurations, choose one with --con"):
        run(*args)
    run(*args, "--config", short(NEW))
    assert sorted(path.name for path in (tmp_path / "out").glob("*.npy")) == ["1.npy", "2.npy"]
    array = np.load(tmp_path / "out" / "1.npy")
    np.testing.assert_array_equal(array, make_record("1.mp4", config=NEW).features)
    about = json.loads(run(*args, "--config", short(OLD), "--json"))
    assert (about["videos"], about["left_out"]) == (3, [])


def test_export_leaves_a_stream_open_that_has_one_configuration(cache, tmp_path) -> None:
    about = json.loads(
        run("export", "--cache", cache.path, "--out", tmp_path, "--config", short(NEW), "--json")
    )
    assert (about["videos"], about["dim"], about["left_out"]) == (2, 16, ["3.mp4"])


def test_merge_takes_only_the_chosen_configuration(cache, tmp_path) -> None:
    target = tmp_path / "new"
    run("merge", "--config", short(NEW), cache.path, target)
    merged = FeatureCache(target)
    assert merged.configs("rgb") == [NEW]
    assert merged.configs("flow") == [FLOW]  # left open: all of it
    np.testing.assert_array_equal(
        merged.read("2.mp4", "rgb"), make_record("2.mp4", config=NEW).features
    )
    # the target has the new one; the source's old one, not chosen, is no contradiction
    report = merge_caches([cache], merged, configs={"rgb": NEW})
    assert (report.records, report.duplicates) == (0, 5)
    with pytest.raises(CacheError, match="rgb made otherwise"):
        merge_caches([cache], merged)
    assert FeatureCache(target).configs("rgb") == [NEW]


def test_merge_finds_the_configuration_in_whichever_source_has_it(tmp_path) -> None:
    a, b = (FeatureCache.create(tmp_path / name) for name in "ab")
    a.write([make_record("1.mp4")])
    b.write([make_record("1.mp4", config=NEW), make_record("2.mp4", config=NEW)])
    run("merge", "--config", short(NEW), a.path, b.path, tmp_path / "new")
    assert FeatureCache(tmp_path / "new").configs() == [NEW]
    with pytest.raises(CacheError, match="no configuration begins so"):
        run("merge", "--config", short(FLOW), a.path, b.path, tmp_path / "other")
    assert not (tmp_path / "other").exists()
