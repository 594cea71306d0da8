import hashlib
import json
import os
import re
import struct
import zlib

import h5py
import numpy as np
import pytest
from cache_samples import altered, make_clips, make_config, make_record, reseal
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cache import ClipTable, FeatureRecord
from cache.shard.read import HEADER, read_array, read_record, read_table
from cache.shard.write import write_shard
from data.errors import CacheError, ShardError


def same(a: FeatureRecord, b: FeatureRecord) -> bool:
    stats = (a.flow_stats is None) == (b.flow_stats is None)
    if stats and a.flow_stats is not None:
        stats = a.flow_stats.tobytes() == b.flow_stats.tobytes()
    if stats and a.frame_seconds is not None and b.frame_seconds is not None:
        stats = a.frame_seconds.tobytes() == b.frame_seconds.tobytes()
    return (
        stats
        and (a.frame_seconds is None) == (b.frame_seconds is None)
        and (a.stream, dict(a.config), a.source, dict(a.provenance), a.clips.clip_len)
        == (b.stream, dict(b.config), b.source, dict(b.provenance), b.clips.clip_len)
        and a.features.dtype == b.features.dtype
        and a.features.shape == b.features.shape
        and a.features.tobytes() == b.features.tobytes()
        and a.clips.to_array().tobytes() == b.clips.to_array().tobytes()
    )


def refused(path) -> bool:
    try:
        table = read_table(path)
        for stored in table.records.values():
            for place in stored.places.values():
                read_array(table, place)
    except ShardError as error:
        return str(error).startswith(str(path)) and "\n" not in str(error)
    return False


def test_round_trip_keeps_every_field(tmp_path) -> None:
    records = [
        make_record(),
        make_record(stream="flow", flow_stats=True),
        make_record("ü/ж.avi", dtype="float16", num_frames=1, partial="ends after frame 1"),
        altered(make_record("v.mkv"), frame_seconds=np.arange(75.0) ** 2),
    ]
    table = read_table(write_shard(tmp_path, records))
    assert list(table.records) == [record.key for record in records]
    assert all(same(read_record(table, record.key), record) for record in records)


@settings(max_examples=30)
@given(
    st.data(),
    st.integers(1, 40),
    st.integers(1, 33),
    st.sampled_from(["float16", "float32"]),
    st.text(st.characters(exclude_categories=["C", "Z"], exclude_characters="/\\:."), min_size=1),
)
def test_round_trip_of_any_bytes(tmp_path_factory, data, num_clips, dim, dtype, name) -> None:
    folder = tmp_path_factory.mktemp("shards")
    record = make_record(name[:80])
    # any bit pattern: NaN payloads, infinities and subnormal numbers must come back as they were
    width = {"float16": np.uint16, "float32": np.uint32}[dtype]
    bits = data.draw(arrays(width, (num_clips, dim)))
    record = FeatureRecord(
        stream="rgb",
        config=record.config,
        source=record.source,
        features=bits.view(dtype),
        clips=make_clips(num_clips * 16),
    )
    table = read_table(write_shard(folder, [record]))
    assert same(read_record(table, record.key), record)


def test_name_is_the_sha256_of_the_bytes_and_the_same_records_give_the_same(tmp_path) -> None:
    path = write_shard(tmp_path, [make_record(), make_record(stream="flow")])
    assert path.name == hashlib.sha256(path.read_bytes()).hexdigest() + ".h5"
    assert write_shard(tmp_path, [make_record(), make_record(stream="flow")]) == path
    assert os.listdir(tmp_path) == [path.name]


def test_h5py_alone_reads_the_same(tmp_path) -> None:
    record = make_record(flow_stats=True)
    path = write_shard(tmp_path, [record])
    with h5py.File(path, "r") as shard:
        assert (shard.attrs["format"], shard.attrs["layout"]) == (b"feat shard", 1)
        group = shard[record.key]
        about = json.loads(group.attrs["record"])
        assert about["config"] == record.config
        assert about["source"]["name"] == record.source.name
        np.testing.assert_array_equal(group["features"][...], record.features)
        np.testing.assert_array_equal(group["clips"][...], record.clips.to_array())
        np.testing.assert_array_equal(group["flow_stats"][...], record.flow_stats)
        for name in ("features", "clips", "flow_stats"):
            assert group[name].chunks is None
            assert group[name].id.get_offset() % 64 == 0


def test_memory_map_at_the_recorded_offset(tmp_path) -> None:
    record = make_record()
    path = write_shard(tmp_path, [record])
    entry = read_table(path).records[record.key].entry
    mapped = np.memmap(path, entry.dtype, "r", entry.offset, entry.feature_shape)
    np.testing.assert_array_equal(mapped, record.features)
    assert entry.crc32 == zlib.crc32(record.features.tobytes())


def test_arrays_of_other_layouts_are_stored_as_they_look(tmp_path) -> None:
    plain = make_record()
    for features in (
        np.asfortranarray(plain.features),
        plain.features.astype(">f4"),
        np.repeat(plain.features, 2, axis=1)[:, ::2],
    ):
        record = FeatureRecord(
            stream="rgb",
            config=plain.config,
            source=plain.source,
            features=features,
            clips=plain.clips,
        )
        table = read_table(write_shard(tmp_path, [record]))
        np.testing.assert_array_equal(
            read_record(table, record.key).features, plain.features, strict=True
        )


@pytest.mark.parametrize("step", [5, pytest.param(1, marks=pytest.mark.slow)])
def test_every_single_flipped_byte_is_noticed(tmp_path, step) -> None:
    path = write_shard(tmp_path, [make_record(dim=2, num_frames=20)])
    data = bytearray(path.read_bytes())
    silent = []
    for position in range(0, len(data), step):
        data[position] ^= 0x10
        path.write_bytes(data)
        data[position] ^= 0x10
        if not refused(path):
            silent.append(position)
    assert silent == []


def test_every_truncation_is_noticed(tmp_path) -> None:
    path = write_shard(tmp_path, [make_record(dim=2, num_frames=20)])
    data = path.read_bytes()
    for size in range(0, len(data), 97):
        path.write_bytes(data[:size])
        with pytest.raises(CacheError, match=re.escape(str(path))):
            read_table(path)


def test_newer_layout_is_refused_with_both_versions(tmp_path) -> None:
    path = write_shard(tmp_path, [make_record()])
    data = bytearray(path.read_bytes())
    data[11:15] = b"0007"
    path.write_bytes(data)
    with pytest.raises(ShardError, match="layout 7, this build reads up to 2; upgrade feat"):
        read_table(path)


def features_of(table):
    return table["records"][0]["features"]


@pytest.mark.parametrize(
    "change",
    [
        lambda t: features_of(t).update(shape=[10**12, 1024]),
        lambda t: features_of(t).update(shape=[5, 0]),
        lambda t: features_of(t).update(shape=[5.0, 8]),
        lambda t: features_of(t).update(shape=[True, 8]),
        lambda t: features_of(t).update(shape=[-5, -8]),
        lambda t: features_of(t).update(dtype="object"),
        lambda t: features_of(t).update(dtype=["float32"]),
        lambda t: features_of(t).update(offset=0),
        lambda t: features_of(t).update(offset=2**63),
        lambda t: features_of(t).update(offset=t["records"][0]["clips"]["offset"]),
        lambda t: t["records"][0]["source"].update(name="../../etc/passwd"),
        lambda t: t["records"][0]["source"].update(name="a\nb"),
        lambda t: t["records"][0]["source"].update(name="/etc/passwd"),
        lambda t: t["records"][0]["source"].update(extra=1),
        lambda t: t["records"][0]["source"].update(sha256="0" * 64),
        lambda t: t["records"][0]["source"].update(num_frames=-1),
        lambda t: t["records"][0]["source"].update(num_frames=2**40),
        lambda t: t["records"][0]["source"].update(frame_rate=float("nan")),
        lambda t: t["records"][0]["source"].update(frame_rate=10**400),
        lambda t: t["records"][0].update(key="0" * 64),
        lambda t: t["records"][0].update(clip_len=-16),
        lambda t: t["records"][0].pop("clips"),
        lambda t: t["records"].append(t["records"][0]),
        lambda t: t.update(records=[]),
        lambda t: t.update(records={}),
        lambda t: t.update(configs=[]),
        lambda t: t.update(file_size=10**15),
        lambda t: t.update(userblock=1),
        lambda t: t.update(structure_crc32=0),
    ],
)
def test_hostile_tables_are_refused(tmp_path, change) -> None:
    path = write_shard(tmp_path, [make_record()])
    reseal(path, change)
    with pytest.raises(ShardError, match=re.escape(str(path))) as caught:
        read_table(path)
    assert "\n" not in str(caught.value)


def test_deeply_nested_table_is_refused(tmp_path) -> None:
    path = tmp_path / ("0" * 64 + ".h5")
    text = b"[" * 200_000
    head = HEADER.format(
        version=1, table_len=len(text), table_sha256=hashlib.sha256(text).hexdigest()
    )
    path.write_bytes(head.encode() + text)
    with pytest.raises(ShardError, match=re.escape(path.name)):
        read_table(path)


def test_clip_table_that_makes_no_sense_is_refused(tmp_path) -> None:
    record = make_record()
    path = write_shard(tmp_path, [record])
    place = read_table(path).records[record.key].places["clips"]
    data = bytearray(path.read_bytes())
    struct.pack_into("<q", data, place.offset + 8, -3)  # end_frame of row 0
    path.write_bytes(data)
    crc = zlib.crc32(bytes(data[place.offset : place.offset + place.nbytes]))
    reseal(path, lambda t: t["records"][0]["clips"].update(crc32=crc, xxh3=""))
    with pytest.raises(ShardError, match="row 0 covers frames 0 to -3"):
        read_record(read_table(path), record.key)


def test_links_pipes_and_folders_are_not_read(tmp_path) -> None:
    path = write_shard(tmp_path, [make_record()])
    (tmp_path / "link").symlink_to(path)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("link", "pipe", "folder"):
        with pytest.raises(CacheError, match=name):
            read_table(tmp_path / name)


@pytest.mark.parametrize(
    "name",
    ["", "/a", "a/../b", "..", ".", "a//b", "a/", "a\x00b", "a\x1b[31m", "\ud800", "..\\x",
     "C:\\x", "x" * 2000, 5, None],
)  # fmt: skip
def test_names_that_leave_their_folder_are_refused(name) -> None:
    with pytest.raises(ValueError, match="name"):
        make_record(size=1, sha256="0" * 64, **{"name": "x"} | {"num_frames": 75}).source.__class__(
            **{**make_record().source.to_json(), "name": name}
        )


@pytest.mark.parametrize(
    "name", ["a.mp4", "a b/ü.mp4", "東京/夜\u3000景.avi", "a/..b", "a:b", ".a"]
)
def test_ordinary_names_are_accepted(name) -> None:
    assert make_record(name).source.name == name


def test_records_check_their_shapes() -> None:
    good = make_record()
    common = {"stream": "rgb", "config": good.config, "source": good.source}
    with pytest.raises(ValueError, match="float32 or float16"):
        FeatureRecord(features=good.features.astype("float64"), clips=good.clips, **common)
    with pytest.raises(ValueError, match="5 rows of features but 4 of clips"):
        FeatureRecord(features=good.features, clips=make_clips(64), **common)
    with pytest.raises(ValueError, match="flow_stats"):
        FeatureRecord(
            features=good.features,
            clips=good.clips,
            flow_stats=np.zeros((5, 3), np.float32),
            **common,
        )
    for times, match in ((np.zeros(74), r"\(75,\) float64"), (np.full(75, np.nan), "not finite")):
        with pytest.raises(ValueError, match=f"frame_seconds.*{match}"):
            altered(good, frame_seconds=times)
    with pytest.raises(ValueError, match="names stream 'flow'"):
        FeatureRecord(
            features=good.features, clips=good.clips, **common | {"config": make_config("flow")}
        )


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"start_frame": [0, 0.5]}, "start_frame"),
        ({"end_frame": [16]}, "differ in length"),
        ({"end_frame": [16, 16]}, "row 1 covers frames 16 to 16"),
        ({"end_frame": [40, 41]}, "row 0 covers 40 frames, clip_len is 16"),
        ({"start_frame": [16, 0]}, "row 0|order"),
        ({"start_seconds": [0, np.inf]}, "not finite"),
        ({"clip_len": -1}, "clip_len"),
    ],
)
def test_clip_tables_check_themselves(change, match) -> None:
    columns = {
        "start_frame": [0, 16],
        "end_frame": [16, 20],
        "start_seconds": [0.0, 0.6],
        "end_seconds": [0.6, 0.8],
        "clip_len": 16,
    }
    ClipTable(**columns)
    with pytest.raises(ValueError, match=match):
        ClipTable(**columns | change)


def test_without_xxhash_the_crc_protects(tmp_path, monkeypatch) -> None:
    with_both = write_shard(tmp_path, [make_record("both.mp4")])
    monkeypatch.setattr("cache.shard.checksums.xxh3_64", None)
    crc_only = write_shard(tmp_path, [make_record("crc.mp4")])
    for path in (with_both, crc_only):
        table = read_table(path)
        ((key, stored),) = table.records.items()
        assert bool(stored.places["features"].checksums.xxh3) == (path == with_both)
        assert read_record(table, key).features.shape == (5, 8)
        data = bytearray(path.read_bytes())
        data[stored.entry.offset] ^= 1
        path.write_bytes(data)
        with pytest.raises(ShardError, match="checksum"):
            read_record(table, key)


def test_shards_written_before_xxh3_was_recorded_are_read(tmp_path) -> None:
    record = make_record()
    path = write_shard(tmp_path, [record])

    def forget(table) -> None:
        for name in ("features", "clips"):
            del table["records"][0][name]["xxh3"]

    reseal(path, forget)
    assert same(read_record(read_table(path), record.key), record)
