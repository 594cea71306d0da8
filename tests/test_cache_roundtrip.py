"""What `feat cache export` writes, `feat cache import` takes back: the same records and names."""

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from cache_samples import altered, make_config, make_other, make_record, sha256_of
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from cache import ClipTable, FeatureCache, FeatureRecord, NameEntry
from cache.commands.upkeep import cache_group
from cache.exchange.exported import import_export
from cache.exchange.exporting import export_npy, export_parquet
from cache.exchange.foreign import ImportConfig
from cache.exchange.importing import import_features
from cache.exchange.manifest import parse_manifest, seal
from data.errors import CacheError

FORMATS = ("plain", "lad", "rtfm", "parquet")


def export(cache: FeatureCache, folder: Path, layout: str, **options) -> Path:
    if layout == "parquet":
        pytest.importorskip("pyarrow")
        export_parquet(cache, folder / "out.parquet", **options)
        return folder / "out.parquet"
    export_npy(cache, folder / "out", layout=layout, **options)
    return folder / "out"


def contents(cache: FeatureCache) -> dict[str, tuple]:
    """Return everything that a cache holds under each key."""
    found = {}
    for entry in cache.entries():
        record = cache.read_record(entry.key)
        stats = record.flow_stats
        found[entry.key] = (
            dict(record.config),
            record.source,
            record.kind,
            record.features.dtype.name,
            record.features.shape,
            record.features.tobytes(),
            record.clips.to_array().tobytes(),
            record.clips.clip_len,
            dict(record.provenance),
            None if stats is None else stats.tobytes(),
            None if record.frame_seconds is None else record.frame_seconds.tobytes(),
        )
    return found


def test_the_comparison_sees_every_field(tmp_path) -> None:
    record = make_record(flow_stats=True)
    cache = FeatureCache.create(tmp_path)
    cache.write([record])
    (found,) = contents(cache).values()
    assert len({type(field) for field in found}) > 4
    assert found[1].partial == ""
    assert found[9] == record.flow_stats.tobytes()


names = st.lists(
    st.sampled_from(
        ["a.mp4", "a.avi", "a.mp4.mov", "sub/a.mp4", "sub/deep er/é__1.mkv", "A/x_rgb.mp4", "n_0"]
    ),
    min_size=1, max_size=4, unique=True,
)  # fmt: skip


@st.composite
def records(draw: st.DrawFn) -> list[FeatureRecord]:
    """Return records of one or two streams of some videos, that can stand side by side."""
    kind = draw(st.sampled_from(["features", "crops"]))
    streams = draw(st.sampled_from([["rgb"], ["flow"], ["rgb", "flow"], ["c3d", "k400-rgb"]]))
    dtypes = {stream: draw(st.sampled_from(["float16", "float32"])) for stream in streams}
    stride, clip_len = draw(st.sampled_from([(16, 16), (8, 16), (3, 64), (5, 0)]))
    made = []
    for name in draw(names):
        num_frames = draw(st.integers(1, 90))
        rate = draw(st.sampled_from([0.0, 25.0, 30000 / 1001, 0.1]))
        start = np.arange(0, num_frames, stride)
        end = np.minimum(start + (clip_len or 7), num_frames)
        clips = ClipTable(
            start_frame=start, end_frame=end, start_seconds=start / (rate or np.inf),
            end_seconds=end / 3.0, clip_len=clip_len,
        )  # fmt: skip
        for stream in streams:
            seed = draw(st.integers(0, 2**20))
            shape = (len(start), *([5] if kind == "crops" else []), 3)
            values = np.random.default_rng(seed).standard_normal(shape).astype(dtypes[stream])
            values.reshape(-1)[0] = draw(st.sampled_from([0.0, -0.0, 1e-7, 60000.0]))
            stats = np.random.default_rng(seed).random((len(start), 6), np.float32)
            varying = draw(st.booleans())
            seconds = np.random.default_rng(seed).random(num_frames).cumsum() if varying else None
            plain = make_record(
                name, stream, num_frames=num_frames, frame_rate=rate,
                kind=draw(st.sampled_from(["file", "frames", "imported"])),
                partial=draw(st.sampled_from(["", "ends in frame 7: é"])),
            )  # fmt: skip
            made.append(
                altered(
                    plain, features=values, clips=clips, kind=kind,
                    flow_stats=stats if stream == "flow" else None,
                    provenance={"by": "somebody", "seconds": rate}, frame_seconds=seconds,
                )
            )  # fmt: skip
    return made


@pytest.mark.parametrize("layout", FORMATS)
@given(made=records(), renamed=st.booleans())
@settings(max_examples=8)
def test_every_format_comes_back_identical(layout, made, renamed) -> None:
    with tempfile.TemporaryDirectory() as folder:
        ours = FeatureCache.create(Path(folder) / "ours")
        ours.write(made)
        if renamed:
            first = made[0].source
            ours.set_names(
                {
                    first.name: None,
                    "new/name.mp4": NameEntry(
                        sha256=first.sha256, size=7, mtime_ns=123_456, origin="ab" * 8
                    ),
                }
            )
        theirs = FeatureCache.create(Path(folder) / "theirs")
        path = export(ours, Path(folder), layout)
        import_export([path], theirs)
        assert contents(theirs) == contents(ours)
        assert theirs.names() == ours.names()
        assert import_export([path], theirs)[0].skipped == len(made)


@pytest.fixture
def cache(tmp_path) -> FeatureCache:
    cache = FeatureCache.create(tmp_path / "ours")
    cache.write([make_record(name) for name in ("a/1.mp4", "2.avi")])
    return cache


@pytest.mark.parametrize("layout", FORMATS)
def test_an_array_that_was_changed_is_refused(cache, tmp_path, layout) -> None:
    path = export(cache, tmp_path, layout)
    theirs = FeatureCache.create(tmp_path / "theirs")
    if layout == "parquet":
        pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        table = pq.read_table(path).replace_schema_metadata(pq.read_metadata(path).metadata)
        column = pa.FixedSizeListArray.from_arrays(
            pa.array(np.zeros(len(table) * 8, np.float32)), 8
        )
        place = table.column_names.index("rgb")
        pq.write_table(table.set_column(place, "rgb", column), path, row_group_size=5)
    else:
        file = sorted(path.rglob("*.npy"))[0]
        np.save(file, np.load(file) * 2)
    with pytest.raises(CacheError, match="its values are not those that were exported"):
        import_export([path], theirs)
    assert contents(theirs) == {}


def test_missing_and_additional_arrays_are_all_told(cache, tmp_path) -> None:
    path = export(cache, tmp_path, "plain")
    np.save(path / "other.npy", np.ones((5, 8), np.float32))
    (path / "2.npy").unlink()
    with pytest.raises(CacheError) as caught:
        import_export([path], FeatureCache.create(tmp_path / "theirs"))
    lines = sorted(str(caught.value).splitlines())
    assert [line.partition(": ")[2][:20] for line in lines] == [
        "cannot read: No such", "not in feat-export.j",
    ]  # fmt: skip


def test_another_video_of_that_name_and_another_configuration_are_refused(cache, tmp_path) -> None:
    path = export(cache, tmp_path, "plain")
    theirs = FeatureCache.create(tmp_path / "theirs")
    theirs.write([make_record("2.avi", sha256=sha256_of("another"))])
    with pytest.raises(CacheError, match=r"nothing imported, 1 conflicts: 2\.avi: content"):
        import_export([path], theirs)
    mixed = FeatureCache.create(tmp_path / "mixed")
    mixed.write([make_record("3.avi", config=make_config(clip_stride=8))])
    with pytest.raises(CacheError, match="nothing imported, 1 conflicts: rgb made otherwise"):
        import_export([path], mixed)
    import_export([path], mixed, allow_mixed=True)
    assert len(mixed) == 3


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda head, line: line.update(file="../2.npy"), "must stay below its folder"),
        (lambda head, line: line.update(video="/etc/x"), "must stay below its folder"),
        (lambda head, line: head.update(version=2), "expected a line"),
        (lambda head, line: head.update(configs=[]), "1 streams, expected 0"),
        (lambda head, line: line["streams"][0].pop("source"), "source"),
        (lambda head, line: line["streams"][0].update(shape=[5, 9]), "rows of 8 values|reshape"),
        (lambda head, line: line["streams"][0].update(dtype="O"), "dtype 'O' of no features"),
        (lambda head, line: line["clips"].pop(), "zip"),
        (lambda head, line: line["clips"][0].pop(), "differ in length"),
        (lambda head, line: line["streams"][0]["source"].update(sha256="x"), "sha256"),
    ],
)
def test_a_hostile_or_damaged_manifest_is_one_line(cache, tmp_path, change, match) -> None:
    path = export(cache, tmp_path, "plain")
    head, *lines, _ = map(json.loads, (path / "feat-export.jsonl").read_text().splitlines())
    change(head, lines[0])
    (path / "feat-export.jsonl").write_text(seal([f"{json.dumps(x)}\n" for x in (head, *lines)]))
    with pytest.raises(CacheError, match=match) as caught:
        import_export([path], FeatureCache.create(tmp_path / "theirs"))
    assert "\n" not in str(caught.value)


@given(st.data())
@settings(max_examples=30)
def test_no_change_of_the_manifest_goes_unnoticed(sealed, data) -> None:
    place = data.draw(st.integers(0, len(sealed) - 1))
    other = data.draw(st.integers(0, 255).filter(lambda byte: byte != sealed[place]))
    changed = sealed[:place] + bytes([other]) + sealed[place + 1 :]
    with pytest.raises(CacheError, match=r"^m:\d+: .*; export again, or remove it"):
        parse_manifest(changed, Path("m"))


@pytest.fixture(scope="module")
def sealed(tmp_path_factory) -> bytes:
    folder = tmp_path_factory.mktemp("sealed")
    cache = FeatureCache.create(folder / "ours")
    cache.write([make_record(num_frames=20, flow_stats=True)])
    return (export(cache, folder, "plain") / "feat-export.jsonl").read_bytes()


def test_without_its_side_file_an_export_is_somebody_elses(cache, tmp_path) -> None:
    path = export(cache, tmp_path, "rtfm")
    (path / "feat-export.jsonl").unlink()
    theirs = FeatureCache.create(tmp_path / "theirs")
    import_features([path], theirs, ImportConfig(origin="exported once"), frames={"2": 75})
    assert theirs.videos() == ["2", "a/1"]
    np.testing.assert_array_equal(theirs.read("2", "i3d"), cache.read("2.avi", "rgb"))


def test_crops_are_exported_where_they_are_asked_for(cache, tmp_path) -> None:
    record = make_other("crops", "ten-crop", "2.avi")
    cache.write([record])
    export_npy(cache, tmp_path / "out", streams=["ten-crop"], layout="rtfm")
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "2_i3d.npy"), record.features)
    with pytest.raises(CacheError, match="have not the same crops; export them apart"):
        export_npy(cache, tmp_path / "both", streams=["rgb", "ten-crop"])


def test_files_of_other_videos_are_never_overwritten(tmp_path) -> None:
    cache = FeatureCache.create(tmp_path / "ours")
    videos = ["a.avi", "a.mp4", "a.mp4.mov"]
    cache.write([make_record(name) for name in videos])
    export_npy(cache, tmp_path / "out")
    assert sorted(file.name for file in (tmp_path / "out").glob("*.npy")) == [
        "a.avi.npy", "a.mp4.mov.npy", "a.mp4.npy",
    ]  # fmt: skip


def test_the_command_needs_no_option_and_refuses_what_contradicts(cache, tmp_path) -> None:
    path = export(cache, tmp_path, "lad")
    arguments = ["import", str(path), "--cache", str(tmp_path / "theirs")]
    refused = CliRunner().invoke(cache_group, [*arguments, "--stream", "i3d"])
    assert "says stream rgb, not i3d: leave out --stream" in str(refused.exception)
    result = CliRunner().invoke(cache_group, arguments)
    assert result.exit_code == 0, result.output
    assert "2 videos, 10 rows of rgb added" in result.stdout
    assert contents(FeatureCache(tmp_path / "theirs")) == contents(cache)
