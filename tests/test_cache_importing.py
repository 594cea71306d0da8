import io
import json
import re
import tempfile
import zipfile
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from cache_samples import make_record, sha256_of
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from cache import FeatureCache, NameEntry
from cache.commands.upkeep import cache_group
from cache.exchange.arrays import find_arrays
from cache.exchange.foreign import ImportConfig, clip_table
from cache.exchange.importing import import_features, read_frame_counts
from cache.exchange.layouts import ClipRule, find_misfits
from cache.exchange.merge import merge_caches
from cache.facts import video_facts
from cache.upkeep.verify import verify_cache
from data.errors import CacheError
from data.labels import VideoLabel

pytestmark = pytest.mark.usefixtures("one_viewer")

RNG = np.random.default_rng(0)
CLIPS = ImportConfig(stream="i3d", origin="somebody's I3D")
SEGMENTS = ImportConfig(stream="c3d", origin="C3D fc6", layout="segments")


@pytest.fixture
def cache(tmp_path) -> FeatureCache:
    return FeatureCache.create(tmp_path / "features")


def array(rows: int, dim: int = 6, dtype: str = "float32") -> np.ndarray:
    return RNG.standard_normal((rows, dim)).astype(dtype)


def test_npy_per_clip_of_a_folder(cache, tmp_path) -> None:
    (tmp_path / "in" / "sub").mkdir(parents=True)
    a, b = array(5), array(3, dtype="float64")
    np.save(tmp_path / "in" / "a.npy", a)
    np.save(tmp_path / "in" / "sub" / "b.npy", b)
    report = import_features(
        [tmp_path / "in"], cache, CLIPS, frames={"a": 75, "sub/b": 48}, frame_rate=25
    )
    assert (report.videos, report.rows) == (2, 8)
    np.testing.assert_array_equal(cache.read("a", "i3d"), a, strict=True)
    np.testing.assert_array_equal(cache.read("sub/b", "i3d"), b.astype(np.float32), strict=True)
    clips = cache.read_clips(cache.find("a", "i3d").key)
    assert clips.end_frame.tolist() == [16, 32, 48, 64, 75]
    assert clips.end_seconds[-1] == 3.0
    entry = cache.find("a", "i3d")
    assert entry.source.kind == "imported"
    assert entry.config["origin"] == "somebody's I3D"
    assert verify_cache(cache).problems == []


def test_npz_in_segments_with_odd_rows_and_without_frame_counts(cache, tmp_path) -> None:
    arrays = {
        "a": array(32, dtype="float16"),
        "b": array(33, dtype="float16"),
        "c": array(32, dtype="float16"),
    }
    np.savez(tmp_path / "all.npz", **arrays)
    report = import_features(
        [tmp_path / "all.npz"], cache, SEGMENTS, frames={"a": 1000, "b": 330, "x": 9}
    )
    assert report.odd_rows == ["b"]
    assert report.without_frames == ["c"]
    assert report.without_features == ["x"]
    assert report.oddities[
        "videos with another number of rows (each is divided into as many parts)"
    ] == ["b"]
    for name, features in arrays.items():
        np.testing.assert_array_equal(cache.read(name, "c3d"), features, strict=True)
    a, b, c = (cache.read_clips(cache.find(name, "c3d").key) for name in "abc")
    assert (a.start_frame[1], a.end_frame[0], a.end_frame[-1]) == (31, 31, 1000)
    assert b.end_frame.tolist() == list(range(10, 331, 10))
    assert c.end_frame.tolist() == list(range(1, 33))
    assert cache.find("c", "c3d").source.num_frames == 0
    assert a.clip_len == 0
    assert len(cache.configs("c3d")) == 1
    assert verify_cache(cache).problems == []


def test_csv_with_and_without_a_header(cache, tmp_path) -> None:
    (tmp_path / "a.csv").write_text("x,y\n1,2.5\n3,4\n")
    (tmp_path / "b.csv").write_text("1,2.5\n3,4\n")
    import_features([tmp_path / "a.csv", tmp_path / "b.csv"], cache, CLIPS)
    for name in "ab":
        np.testing.assert_array_equal(
            cache.read(name, "i3d"), np.array([[1, 2.5], [3, 4]], np.float32)
        )


def test_crops_are_averaged_and_on_record(cache, tmp_path) -> None:
    crops = RNG.standard_normal((4, 10, 6)).astype(np.float32)
    np.save(tmp_path / "a.npy", crops)
    import_features([tmp_path / "a.npy"], cache, CLIPS)
    np.testing.assert_allclose(cache.read("a", "i3d"), crops.mean(axis=1), rtol=1e-5, atol=1e-6)
    assert cache.find("a", "i3d").config["crops"] == 10


def test_imported_features_stand_beside_ours_under_the_same_name(cache, tmp_path) -> None:
    ours = make_record("a.mp4")
    cache.write([ours])
    cache.set_names({"a.mp4": NameEntry(sha256=sha256_of("a.mp4"), size=1, mtime_ns=1)})
    np.save(tmp_path / "a.npy", array(5))
    config = ImportConfig(stream="rgb", origin="theirs")
    with pytest.raises(CacheError, match="nothing imported, 1 conflicts: rgb made otherwise"):
        import_features([tmp_path / "a.npy"], cache, config, names=["a.mp4"])
    import_features([tmp_path / "a.npy"], cache, config, names=["a.mp4"], allow_mixed=True)
    with pytest.raises(CacheError, match="2 configurations of rgb"):
        cache.read("a.mp4", "rgb")
    np.testing.assert_array_equal(cache.read("a.mp4", "rgb", ours.config), ours.features)
    assert cache.videos() == ["a.mp4"]


@pytest.mark.parametrize("name", ["cam\\a", " cam/a ", "cam/cafe\u0301"])
def test_arrays_are_called_as_labels_can_call_them(cache, tmp_path, name) -> None:
    """Backslashes, blanks at the ends and accents: one rule for videos, labels and arrays."""
    label = VideoLabel(video=name, split="train")
    np.savez(tmp_path / "a.npz", **{name: array(5), "cam/other": array(5)})
    import_features([tmp_path / "a.npz"], cache, CLIPS)
    assert cache.videos() == sorted([label.video, "cam/other"])
    assert video_facts(cache, [label.video]).keys() == {label.video}
    known = FeatureCache.create(tmp_path / "known")
    named = [f"{label.video}.mp4"]
    import_features([tmp_path / "a.npz"], known, CLIPS, names=named)
    assert known.videos() == sorted([*named, "cam/other"])


def test_who_imported_features_and_when_is_on_record(cache, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("FEAT_USER", "ann")
    np.save(tmp_path / "a.npy", array(5))
    import_features([tmp_path / "a.npy"], cache, CLIPS)
    provenance = cache.find("a", "i3d").provenance
    assert provenance["by"] == "ann"
    assert abs(datetime.fromisoformat(provenance["time"]) - datetime.now(UTC)).seconds < 600
    assert provenance["imported_from"] == "a.npy"


def test_a_video_that_comes_after_its_features_is_told_what_to_do(cache, tmp_path) -> None:
    np.save(tmp_path / "a.npy", array(5))
    import_features([tmp_path / "a.npy"], cache, CLIPS, names=["a.mp4"])
    other = FeatureCache.create(tmp_path / "other")
    other.write([make_record("a.mp4")])
    for source, target in ((cache, other), (other, cache)):
        with pytest.raises(CacheError, match=r"a\.mp4: content .*imported without the video: im"):
            merge_caches([source], target)
    import_features([tmp_path / "a.npy"], other, CLIPS)
    assert other.streams("a.mp4") == ["i3d", "rgb"]


def test_importing_again_is_skipped_and_other_features_are_refused(cache, tmp_path) -> None:
    np.save(tmp_path / "a.npy", array(5))
    import_features([tmp_path / "a.npy"], cache, CLIPS)
    assert import_features([tmp_path / "a.npy"], cache, CLIPS).skipped == 1
    np.save(tmp_path / "a.npy", array(5))
    with pytest.raises(
        CacheError, match=r"other features of i3d, origin .* give these another --stream"
    ):
        import_features([tmp_path / "a.npy"], cache, CLIPS)
    other = ImportConfig(stream="i3d-2", origin="somebody else's")
    assert import_features([tmp_path / "a.npy"], cache, other).videos == 1


def npy(header: bytes, data: bytes = b"") -> bytes:
    header = header.ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 4)}"), "shape"),
        (npy(b"{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", b"12345678"), "object"),
        (npy(b"{'descr': '<U4', 'fortran_order': False, 'shape': (1,)}", b"x" * 16), "numbers"),
        (npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 4)}", b"x" * 20), "shape"),
        (npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (-2, -4)}", b"x" * 99), "shape"),
        (b"\x80\x04\x95", "magic|pickle"),
        (b"", "EOF|empty|magic"),
    ],
)  # fmt: skip
def test_hostile_npy_files_are_refused(cache, tmp_path, data, match) -> None:
    (tmp_path / "a.npy").write_bytes(data)
    with pytest.raises(CacheError, match=rf"a\.npy: .*({match})") as caught:
        import_features([tmp_path / "a.npy"], cache, CLIPS)
    assert "\n" not in str(caught.value)


def test_an_archive_that_unpacks_to_more_than_it_says_is_refused(cache, tmp_path) -> None:
    path = tmp_path / "bomb.npz"
    header = npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (100000000000, 4)}")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", header + bytes(10_000_000))
    with pytest.raises(CacheError, match="an array of shape"):
        import_features([path], cache, CLIPS)


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil", "a\nb"])
def test_names_that_leave_the_folder_are_refused(cache, tmp_path, name) -> None:
    buffer = io.BytesIO()
    np.save(buffer, array(2))
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr(f"{name}.npy", buffer.getvalue())
    with pytest.raises(CacheError, match="name"):
        import_features([tmp_path / "a.npz"], cache, CLIPS)


def test_shapes_as_python_2_wrote_them(tmp_path) -> None:
    head = b"{'descr': '<f4', 'fortran_order': False, 'shape': (2L, 4L)}"
    (tmp_path / "a.npy").write_bytes(npy(head, np.arange(8, dtype="<f4").tobytes()))
    (found,) = find_arrays(tmp_path / "a.npy", [], [])
    assert found.read().tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]


@given(st.data())
@settings(max_examples=150)
def test_damaged_arrays_are_one_line_each(data) -> None:
    array = np.arange(24, dtype=np.float32).reshape(4, 6)
    suffix = data.draw(st.sampled_from([".npy", ".npz", ".csv", ".txt"]))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"a{suffix}"
        match suffix:
            case ".npy":
                np.save(path, array)
            case ".npz":
                np.savez_compressed(path, a=array, b=array)
            case _:
                np.savetxt(path, array, delimiter="," if suffix == ".csv" else " ")
        content = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 4))):
            place = data.draw(st.integers(0, len(content)))
            length = data.draw(st.integers(0, 8))
            content[place : place + length] = data.draw(st.binary(max_size=8))
        path.write_bytes(content)
        problems: list[str] = []
        try:
            for found in find_arrays(path, problems, []):
                found.read()
        except CacheError as error:
            problems.append(str(error))
        assert all(line.startswith(f"{path}: ") and "\n" not in line for line in problems)


def test_fortran_order_and_big_endian(tmp_path) -> None:
    a = array(3)
    np.save(tmp_path / "f.npy", np.asfortranarray(a))
    np.save(tmp_path / "b.npy", a.astype(">f8"))
    for name in ("f", "b"):
        (found,) = find_arrays(tmp_path / f"{name}.npy", [], [])
        np.testing.assert_allclose(found.read(), a)


@given(st.integers(1, 200), st.integers(1, 5000))
@settings(max_examples=200)
def test_segments_cover_every_frame_in_order(num_rows, num_frames) -> None:
    table = clip_table(num_rows, None, num_frames, 0)
    covered = np.zeros(num_frames, bool)
    for start, end in zip(table.start_frame, table.end_frame, strict=True):
        covered[start:end] = True
    assert covered.all()
    assert table.end_frame.max() == num_frames
    if num_frames >= num_rows:
        lengths = table.end_frame - table.start_frame
        assert lengths.sum() == num_frames
        assert lengths.max() - lengths.min() <= 1


def test_clips_with_a_padded_and_a_dropped_tail() -> None:
    rule = ClipRule(clip_len=16, clip_stride=16)
    assert clip_table(5, rule, 75, 0).end_frame[-1] == 75
    assert clip_table(4, rule, 75, 0).end_frame[-1] == 64
    assert clip_table(4, rule, None, 0).end_frame[-1] == 64
    assert [rule.difference(rows, 75) for rows in (2, 3, 4, 5, 6)] == [-2, -1, 0, 0, 1]
    assert find_misfits({"a": 2, "b": 7}, {"a": 75, "b": 75}, rule) == {"a": -2, "b": 2}


def test_frame_counts_from_jsonl_and_csv(tmp_path) -> None:
    (tmp_path / "v.jsonl").write_text(
        '{"video": "a", "num_frames": 5}\n{"video": "b", "num_frames": null}\n'
    )
    (tmp_path / "v.csv").write_text("video,frames\na,5\nb,\n")
    assert read_frame_counts(tmp_path / "v.jsonl") == {"a": 5}
    assert read_frame_counts(tmp_path / "v.csv") == {"a": 5}
    (tmp_path / "pandas.csv").write_text("video,num_frames\na,5.0\n\nb,\n")
    assert read_frame_counts(tmp_path / "pandas.csv") == {"a": 5}


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("v.jsonl", "[]\n", "1: 'list' object"),
        ("v.jsonl", '{"video": "a", "num_frames": 5}\n\n{"video\n', "3: "),
        ("v.csv", "video;num_frames\na;5\n", "1: the header is video;num_frames; "),
        ("v.csv", "name,num_frames\na,5\n", "1: the header is name,num_frames"),
        ("v.csv", "video,num_frames\na,5\nb,0\n", "3: 0 frames"),
        ("v.csv", "video,num_frames\na,-5\n", "2: -5 frames"),
        ("v.csv", "video,num_frames\na,5.5\n", "2: 5.5 frames"),
        ("v.csv", "video,num_frames\na,inf\n", "2: "),
        ("v.csv", "video,num_frames\na,many\n", "2: "),
    ],
)
def test_frame_counts_that_are_none_are_told_with_their_line(tmp_path, name, text, said) -> None:
    (tmp_path / name).write_text(text)
    where = re.escape(f"{tmp_path / name}:")
    with pytest.raises(CacheError, match=f"{where}{said}.*expected JSON lines or CSV"):
        read_frame_counts(tmp_path / name)


def test_a_file_that_is_not_there_is_told(cache, tmp_path) -> None:
    for name in ("gone", "gone.npy", "gone.zip"):
        with pytest.raises(CacheError, match=f"{name}: cannot read: No such file"):
            import_features([tmp_path / name], cache, CLIPS)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"stream": "RGB!"}, "stream's name"),
        ({"origin": " "}, "origin must say"),
        ({"layout": "odd"}, "layout must be"),
        ({"clip_len": 0}, "clip_len must be positive"),
    ],
)
def test_config_checks_itself(change, match) -> None:
    with pytest.raises(ValueError, match=match):
        ImportConfig(**{"stream": "c3d", "origin": "x", **change})


def test_command_takes_names_and_labels(tmp_path) -> None:
    np.save(tmp_path / "v1.npy", array(5))
    (tmp_path / "labels.csv").write_text("video,split,category,anomaly\nsub/v1.mp4,train,,\n")
    args = ["import", str(tmp_path / "v1.npy"), "--cache", str(tmp_path / "c"), "--stream", "i3d",
            "--origin", "x", "--labels", str(tmp_path / "labels.csv"), "--json"]  # fmt: skip
    result = CliRunner().invoke(cache_group, args)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["labels"] == 1
    cache = FeatureCache(tmp_path / "c")
    assert cache.videos() == ["sub/v1.mp4"]
    assert cache.labels_path.exists()
    assert CliRunner().invoke(cache_group, [*args, "--origin", " "]).exit_code == 2
    nobody = CliRunner().invoke(cache_group, [*args, "--origin", ""])
    assert isinstance(nobody.exception, CacheError)
    assert "say who made the features" in str(nobody.exception)


@pytest.mark.slow
@pytest.mark.realdata
def test_ucf_crime_segments(cache, shared_data) -> None:
    folder = shared_data / "ucf_crime"
    report = import_features(
        [folder / "c3d_fc6_32segments_fp16.npz"],
        cache,
        SEGMENTS,
        frames=read_frame_counts(folder / "videos.jsonl"),
    )
    assert report.videos == 290
    assert len(report.odd_rows) == 9
    assert len(report.without_frames) == 7
    assert cache.read("Abuse002_x264", "c3d").shape == (32, 4096)
    assert cache.read_clips(cache.find("Abuse002_x264", "c3d").key).end_frame[-1] == 865
    assert verify_cache(cache).problems == []
