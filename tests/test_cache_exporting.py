import csv
import json

import numpy as np
import pytest
from cache_samples import altered, make_clips, make_config, make_record
from click.testing import CliRunner

from cache import FeatureCache
from cache.commands.upkeep import cache_group
from cache.exchange.exporting import export_npy, export_parquet
from data.errors import CacheError


@pytest.fixture
def cache(tmp_path) -> FeatureCache:
    cache = FeatureCache.create(tmp_path / "features")
    records = [
        make_record(name, stream) for name in ("a/1.mp4", "2.avi") for stream in ("flow", "rgb")
    ]
    cache.write(records)
    return cache


def both(cache, name) -> np.ndarray:
    return np.concatenate([cache.read(name, "rgb"), cache.read(name, "flow")], axis=1)


def test_plain_npy_has_rgb_then_flow_and_says_what_rows_cover(cache, tmp_path) -> None:
    report = export_npy(cache, tmp_path / "out")
    assert (report.videos, report.clips, report.dim) == (2, 10, 16)
    for name, file in (("a/1.mp4", "a/1.npy"), ("2.avi", "2.npy")):
        array = np.load(tmp_path / "out" / file, allow_pickle=False)
        np.testing.assert_array_equal(array, both(cache, name), strict=True)
    with open(tmp_path / "out" / "clips.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 10
    assert [row["end_frame"] for row in rows if row["file"] == "2.npy"] == [
        "16",
        "32",
        "48",
        "64",
        "75",
    ]
    assert rows[1]["start_seconds"] == str(16 / 25)


def test_lad_layout_is_a_folder_per_video(cache, tmp_path) -> None:
    export_npy(cache, tmp_path / "out", streams=["flow"], layout="lad")
    array = np.load(tmp_path / "out" / "2" / "feature.npy")
    np.testing.assert_array_equal(array, cache.read("2.avi", "flow"))


def test_rtfm_layout_loads_as_rtfm_loads_it(cache, tmp_path) -> None:
    export_npy(cache, tmp_path / "out", layout="rtfm")
    paths = (tmp_path / "out" / "features.list").read_text().splitlines()
    assert [path.rpartition("/")[2] for path in paths] == ["2_i3d.npy", "1_i3d.npy"]
    for path in paths:
        array = np.load(path)
        assert array.shape == (5, 1, 16)
        assert array.transpose(1, 0, 2)[0].shape == (5, 16)  # crops first, as RTFM wants them


def test_same_stems_do_not_overwrite_each_other(cache, tmp_path) -> None:
    cache.write([make_record("A/1.avi", stream) for stream in ("rgb", "flow")])
    export_npy(cache, tmp_path / "out")
    names = sorted(
        p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.npy")
    )
    assert names == ["2.npy", "A/1.avi.npy", "a/1.mp4.npy"]


def test_arrays_of_another_export_are_not_mixed_in(cache, tmp_path) -> None:
    out = tmp_path / "out"
    for _ in range(2):  # the same again is no mixture
        export_npy(cache, out, streams=["rgb"])
    (out / "old" / "gone.npy").parent.mkdir()
    np.save(out / "old" / "gone.npy", np.zeros((2, 3)))
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(CacheError, match=r"gone\.npy: not of this export.*--out"):
        export_npy(cache, out, streams=["rgb"])
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_videos_that_lack_a_stream_are_left_out_and_said(cache, tmp_path) -> None:
    cache.write([make_record("3.mp4")])
    assert export_npy(cache, tmp_path / "out").left_out == ["3.mp4"]
    assert export_npy(cache, tmp_path / "rgb", streams=["rgb"]).left_out == []


def test_what_does_not_fit_together_is_refused(cache, tmp_path) -> None:
    with pytest.raises(CacheError, match="no stream c3d, there is"):
        export_npy(cache, tmp_path / "out", streams=["c3d"])
    with pytest.raises(ValueError, match="layout must be"):
        export_npy(cache, tmp_path / "out", layout="odd")
    clips = altered(make_record("3.mp4", "flow"), clips=make_clips(74))
    cache.write([make_record("3.mp4"), clips])
    with pytest.raises(CacheError, match=r"3\.mp4: its streams do not cover the same clips"):
        export_npy(cache, tmp_path / "out")
    cache.write([make_record("4.mp4", config=make_config(clip_stride=8))])
    with pytest.raises(CacheError, match="rgb in several configurations"):
        export_npy(cache, tmp_path / "out")


def test_parquet_has_a_row_a_clip(cache, tmp_path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    report = export_parquet(cache, tmp_path / "out.parquet")
    assert (report.videos, report.clips, report.dim) == (2, 10, 16)
    table = pq.read_table(tmp_path / "out.parquet")
    rows = [row for row in table.to_pylist() if row["video"] == "a/1.mp4"]
    np.testing.assert_array_equal(
        np.array([row["rgb"] for row in rows], np.float32), cache.read("a/1.mp4", "rgb")
    )
    np.testing.assert_array_equal(
        np.array([row["flow"] for row in rows], np.float32), cache.read("a/1.mp4", "flow")
    )
    assert [row["end_frame"] for row in rows] == [16, 32, 48, 64, 75]
    configs = json.loads(table.schema.metadata[b"feat.configs"])
    assert configs == [make_config("rgb"), make_config("flow")]


@pytest.mark.parametrize(("layout", "name"), [("parquet", "out"), ("npy", "out.parquet")])
def test_a_name_says_whether_it_is_a_parquet_file(cache, tmp_path, layout, name) -> None:
    """What is exported is known again by its name when it is imported."""
    words = ["export", "--cache", cache.path, "--out", tmp_path / name, "--format", layout]
    refused = CliRunner().invoke(cache_group, [*map(str, words)])
    assert refused.exit_code == 2
    assert "name it" in refused.output
    assert not (tmp_path / name).exists()


def test_parquet_of_half_precision(tmp_path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    cache = FeatureCache.create(tmp_path / "features")
    record = make_record(dtype="float16")
    cache.write([record])
    export_parquet(cache, tmp_path / "out.parquet")
    rows = pq.read_table(tmp_path / "out.parquet").to_pylist()
    np.testing.assert_array_equal(
        np.array([row["rgb"] for row in rows], np.float16), record.features
    )


def test_export_command(cache, tmp_path) -> None:
    args = ["export", "--cache", str(cache.path), "--out", str(tmp_path / "out"), "--format"]
    result = CliRunner().invoke(cache_group, [*args, "lad", "--streams", "rgb", "--json"])
    assert result.exit_code == 0
    assert json.loads(result.stdout)["dim"] == 8
    assert (tmp_path / "out" / "a" / "1" / "feature.npy").exists()
