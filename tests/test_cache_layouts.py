"""`feat cache import` on files that lie as the published sets do, made up in small.

Names, axes and numbers of rows are those of the sets, as their authors' code reads them.
"""

import tempfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from cache_samples import make_record
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from cache import FeatureCache
from cache.commands.upkeep import cache_group
from cache.exchange.arrays import find_arrays
from cache.exchange.foreign import ImportConfig
from cache.exchange.importing import ImportReport, import_features
from cache.exchange.layouts import ClipRule, find_misfits, parse_layout
from cache.exchange.storing import Staging
from cache.exchange.video_names import match_names
from cache.upkeep.verify import find_flaws
from data.errors import CacheError
from data.files import write_whole

RNG = np.random.default_rng(0)


@pytest.fixture
def cache(tmp_path) -> FeatureCache:
    return FeatureCache.create(tmp_path / "features")


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "in"


def save(folder: Path, name: str, *shape: int, dtype: str = "float32") -> np.ndarray:
    array = RNG.standard_normal(shape).astype(dtype)
    path = folder / f"{name}.npy"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array)
    return array


def take(cache: FeatureCache, folder: Path, stream: str = "", **options) -> ImportReport:
    arguments = {
        key: options.pop(key) for key in ("frames", "names", "frame_rate") if key in options
    }
    config = ImportConfig(stream=stream, origin="a test", **options)
    report = import_features([folder], cache, config, **arguments)
    for entry in cache.entries():
        assert list(find_flaws(cache.read_record(entry.key))) == []
    return report


def frames_of(cache: FeatureCache, video: str, stream: str) -> list[tuple[int, int]]:
    clips = cache.read_clips(cache.find(video, stream).key)
    return list(zip(clips.start_frame.tolist(), clips.end_frame.tolist(), strict=True))


def nothing_in(cache: FeatureCache) -> bool:
    return (
        not list(cache.shards_dir.iterdir())
        and not list((cache.path / "names").iterdir())
        and not list((cache.path / "partial").iterdir())
    )


# What the published sets are


def test_rtfm_and_msad_name_the_network_and_have_crops_last(cache, folder) -> None:
    a, b = save(folder, "Abuse001_x264_i3d", 7, 10, 6), save(folder, "Arson_1_i3d", 10, 10, 6)
    names = ["Abuse/Abuse001_x264.mp4", "Arson/Arson_1.mp4"]
    report = take(cache, folder, names=names, frames={"Abuse001_x264": 120})
    assert cache.videos() == names
    assert report.streams == ["i3d"]
    np.testing.assert_allclose(cache.read(names[0], "i3d"), a.mean(1), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(cache.read(names[1], "i3d"), b.mean(1), rtol=1e-5, atol=1e-6)
    assert cache.find(names[0], "i3d").source.num_frames == 120
    assert report.without_features == []


def test_ur_dmu_has_crops_first(cache, folder) -> None:
    a, b = save(folder, "Abuse028_x264_i3d", 10, 37, 6), save(folder, "Arson009_x264_i3d", 10, 9, 6)
    take(cache, folder)
    np.testing.assert_allclose(cache.read("Abuse028_x264", "i3d"), a.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(cache.read("Arson009_x264", "i3d"), b.mean(0), rtol=1e-5, atol=1e-6)


def test_mgfn_has_32_segments_and_crops_first(cache, folder) -> None:
    a, b = save(folder, "a", 10, 32, 6), save(folder, "b", 10, 32, 6)
    take(cache, folder, "i3d", frames={"a": 900, "b": 3200})
    np.testing.assert_allclose(cache.read("a", "i3d"), a.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(cache.read("b", "i3d"), b.mean(0), rtol=1e-5, atol=1e-6)
    assert cache.find("b", "i3d").config["layout"] == "segments"
    assert frames_of(cache, "b", "i3d")[:2] == [(0, 100), (100, 200)]


def test_a_batch_axis_is_one_crop_to_the_bit(cache, folder) -> None:
    a, _ = save(folder, "a", 1, 32, 6), save(folder, "b", 1, 32, 6)
    take(cache, folder, "c3d")
    np.testing.assert_array_equal(cache.read("a", "c3d"), a[0], strict=True)
    assert cache.find("a", "c3d").config["crops"] == 1


@pytest.mark.parametrize("mark", ["__", "_"])
def test_a_file_a_crop_is_one_video(cache, folder, mark) -> None:
    # Wu et al. (UCF-Crime, XD-Violence), VadCLIP: two; PEL4VAD (ShanghaiTech): one
    rows = {"RGB/Abuse/Abuse028_x264": 20, "RGB/01_0014": 31}
    arrays = {
        name: np.stack([save(folder, f"{name}{mark}{crop}", count, 6) for crop in range(10)], 1)
        for name, count in rows.items()
    }
    report = take(cache, folder, names=["Abuse/Abuse028_x264.mp4", "01_0014.avi"])
    assert (report.videos, report.rows, report.streams) == (2, 51, ["rgb"])
    np.testing.assert_allclose(
        cache.read("Abuse/Abuse028_x264.mp4", "rgb"),
        arrays["RGB/Abuse/Abuse028_x264"].mean(1), rtol=1e-5, atol=1e-6,
    )  # fmt: skip
    assert cache.find("01_0014.avi", "rgb").config["crops"] == 10


def test_crops_may_be_kept(cache, folder) -> None:
    arrays = [save(folder, f"a__{crop}", 20, 6, dtype="float16") for crop in range(5)]
    save(folder, "b__0", 7, 6)
    for crop in range(1, 5):
        save(folder, f"b__{crop}", 7, 6)
    take(cache, folder, "i3d", crops="keep")
    entry = cache.find("a", "i3d")
    assert (entry.kind, entry.config["crops_kept"]) == ("crops", True)
    np.testing.assert_array_equal(
        cache.read("a", "i3d"), np.stack(arrays, 1).astype(np.float32), strict=True
    )


def test_the_first_crop_may_have_no_number(cache, folder) -> None:
    for name, rows in (("a", 4), ("b", 6)):
        save(folder, name, rows, 6)
        for crop in range(1, 5):
            save(folder, f"{name}__{crop}", rows, 6)
    take(cache, folder, "i3d")
    assert cache.videos() == ["a", "b"]


def test_xd_violence_has_streams_in_folders_and_names(cache, folder) -> None:
    video = "Some.Film.1990__#00-01-05_00-02-10_label_B1-0-0"
    for stream, where in (("rgb", "i3d-features/RGB"), ("flow", "i3d-features/FlowTest")):
        for crop in range(5):
            save(folder, f"{where}/{video}__{crop}", 20, 6 if stream == "rgb" else 8)
    sound = save(folder, f"vggish-features/train/{video}__vggish", 20, 4)
    report = take(cache, folder, names=[f"{video}.mp4"])
    assert report.streams == ["flow", "rgb", "vggish"]
    assert cache.videos() == [f"{video}.mp4"]
    np.testing.assert_array_equal(cache.read(f"{video}.mp4", "vggish"), sound)
    assert cache.find(f"{video}.mp4", "flow").feature_shape == (20, 8)


def test_video_features_has_two_streams_a_rate_and_times(cache, folder) -> None:
    rgb, flow = save(folder, "a_rgb", 12, 6), save(folder, "a_flow", 12, 6)
    np.save(folder / "a_fps.npy", np.array(25.0))
    np.save(folder / "a_timestamps_ms.npy", np.arange(12) * 2560.0)
    with pytest.raises(CacheError, match=r"a_timestamps_ms\.npy: the clips are 64 frames apart, e"):
        take(cache, folder, names=["x/a.mp4"])
    report = take(cache, folder, names=["x/a.mp4"], clip_len=64)
    assert report.streams == ["flow", "rgb"]
    np.testing.assert_array_equal(cache.read("x/a.mp4", "rgb"), rgb)
    np.testing.assert_array_equal(cache.read("x/a.mp4", "flow"), flow)
    clips = cache.read_clips(cache.find("x/a.mp4", "rgb").key)
    assert clips.end_seconds[0] == 64 / 25
    assert take(FeatureCache.create(folder.parent / "2"), folder, "rgb", clip_len=64).streams == [
        "rgb"
    ]
    both = take(FeatureCache.create(folder.parent / "3"), folder, "k", clip_len=64)
    assert both.streams == ["k-flow", "k-rgb"]


def test_sultani_has_texts_of_32_lines(cache, folder) -> None:
    folder.mkdir()
    arrays = {name: RNG.random((32, 40)) for name in ("Abuse/Abuse001_x264", "Normal_2")}
    for name, array in arrays.items():
        text = "\n".join("  ".join(f"{value:.6f}" for value in row) + "  " for row in array)
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / f"{name}_C3D.txt").write_text(text + "\n\n")
    (folder / "readme.txt").write_text("C3D features\nof two videos\n")
    report = take(cache, folder)
    assert report.notes[0] == f"no numbers in {folder / 'readme.txt'}: ignored"
    for name, array in arrays.items():
        np.testing.assert_allclose(cache.read(name, "c3d"), array, atol=1e-6)
    assert cache.find("Normal_2", "c3d").config["layout"] == "segments"


def test_lads_authors_have_a_folder_a_video(cache, folder) -> None:
    a = save(folder, "i3d/rgb/v_1/feature", 7, 6)
    save(folder, "i3d/flow/v_1/feature", 7, 6)
    take(cache, folder, names=["v_1.avi"])
    np.testing.assert_array_equal(cache.read("v_1.avi", "rgb"), a)
    assert cache.streams("v_1.avi") == ["flow", "rgb"]


@pytest.mark.parametrize(("first", "inclusive"), [(0, 0), (0, 1), (1, 1)])
def test_lads_authors_have_a_file_a_clip(cache, folder, first, inclusive) -> None:
    clips = [
        save(folder, f"v_1/{start + first}_{start + first + 16 - inclusive}", 6)
        for start in range(0, 128, 16)  # 112 comes before 16 in the alphabet
    ]
    take(cache, folder, "rgb")
    np.testing.assert_array_equal(cache.read("v_1", "rgb"), np.stack(clips))
    assert frames_of(cache, "v_1", "rgb") == [(start, start + 16) for start in range(0, 128, 16)]


def test_clips_of_another_length_than_said_are_refused(cache, folder) -> None:
    for start in range(0, 64, 8):
        save(folder, f"v_1/{start}_{start + 8}", 6)
    with pytest.raises(CacheError, match="from start to end 8 frames, expected 16 or 15"):
        take(cache, folder, "rgb")
    take(cache, folder, "rgb", clip_len=8)


def test_folders_named_like_clips_hold_videos(cache, folder) -> None:
    a = save(folder, "train/01_0014", 20, 6)
    take(cache, folder, "i3d")
    np.testing.assert_array_equal(cache.read("train/01_0014", "i3d"), a)


def test_one_npz_a_video_and_streams_in_an_npz(cache, folder) -> None:
    folder.mkdir()
    a, b = save(folder, "x", 20, 6), save(folder, "y", 12, 6)
    (folder / "x.npy").unlink(), (folder / "y.npy").unlink()
    np.savez(folder / "a.npz", a)
    np.savez(folder / "b.npz", features=b)
    take(cache, folder, "s")
    np.testing.assert_array_equal(cache.read("a", "s"), a)
    np.testing.assert_array_equal(cache.read("b", "s"), b)
    np.savez(folder / "a.npz", rgb=a, flow=2 * a)
    np.savez(folder / "b.npz", rgb=b, flow=2 * b)
    take(cache, folder)
    np.testing.assert_array_equal(cache.read("b", "flow"), 2 * b)
    np.savez(folder / "a.npz", a, a)
    with pytest.raises(CacheError, match=r"a\.npz: 2 arrays without names"):
        take(cache, folder, "t")


@pytest.mark.slow
def test_an_hdf5_file_is_a_mapping_of_videos(cache, folder, tmp_path) -> None:
    rgb, flow = RNG.random((9, 6)).astype(np.float16), RNG.random((9, 4))
    with h5py.File(tmp_path / "all.h5", "w") as file:
        file["x/v1"] = rgb
        file.create_dataset("v2", data=rgb[:5], chunks=(3, 2), compression="gzip")
    take(cache, tmp_path / "all.h5", "s")
    np.testing.assert_array_equal(cache.read("x/v1", "s"), rgb, strict=True)
    np.testing.assert_array_equal(cache.read("v2", "s"), rgb[:5])
    with h5py.File(tmp_path / "two.hdf5", "w") as file:
        file["v3/rgb"], file["v3/flow"] = rgb, flow
    take(cache, tmp_path / "two.hdf5")
    np.testing.assert_array_equal(cache.read("v3", "flow"), flow.astype(np.float32))


@pytest.mark.slow
def test_hostile_hdf5_files_are_refused(cache, folder) -> None:
    folder.mkdir()
    np.arange(60.0).tofile(folder / "private")
    with h5py.File(folder / "a.h5", "w") as file:
        outside = [(str(folder / "private"), 0, 480)]
        file.create_dataset("v", (10, 6), "<f8", external=outside)
    with h5py.File(folder / "b.h5", "w") as file:
        file["v"] = "a text"
    with h5py.File(folder / "c.h5", "w") as file:
        file["v"] = np.zeros(3, [("x", "<f4"), ("y", "<f4")])
    with h5py.File(folder / "d.h5", "w") as file:
        file.create_dataset("w", (2**40, 4), "<f4", chunks=(1, 4))
    with h5py.File(folder / "e.h5", "w") as file:
        file.create_group("nothing")
        file["link"] = h5py.ExternalLink(str(folder / "a.h5"), "v")
    (folder / "f.h5").write_bytes((folder / "a.h5").read_bytes()[:900])
    with pytest.raises(CacheError) as caught:
        take(cache, folder, "s")
    lines = str(caught.value).splitlines()
    for file, what in (
        ("a", "v lies in other files"), ("b", "expected numbers"), ("c", ""),
        ("d", ""), ("e", "no array in it"), ("f", "h5py"),
    ):  # fmt: skip
        assert any(f"{file}.h5: " in line and what in line for line in lines), (file, lines)
    assert nothing_in(cache)


def test_a_cache_is_merged_not_imported(cache, tmp_path) -> None:
    with pytest.raises(CacheError, match="a feature cache; add it with: feat cache merge"):
        take(FeatureCache.create(tmp_path / "other"), cache.path, "s")


@pytest.mark.parametrize(
    ("header", "numbered"),
    [("0,1,2,3,4,5", False), (",0,1,2,3,4,5", True), ("index,a,b,c,d,e,f", True), ("", False)],
)
def test_a_csv_as_pandas_writes_it(cache, folder, header, numbered) -> None:
    folder.mkdir()
    array = RNG.random((9, 6)).astype(np.float32)
    lines = [
        ",".join([str(row)] * numbered + [repr(float(value)) for value in values])
        for row, values in enumerate(array)
    ]
    (folder / "a.csv").write_text("\n".join([header] * bool(header) + lines) + "\n")
    take(cache, folder, "s")
    np.testing.assert_array_equal(cache.read("a", "s"), array, strict=True)


def test_lines_of_other_lengths_are_no_array(tmp_path) -> None:
    (tmp_path / "a.csv").write_text("1,2\n3\n")
    (tmp_path / "b.csv").write_text("a,b,c\n1,2\n3,4\n")
    (tmp_path / "c.txt").write_text("1 2\n3 x\n")
    problems: list[str] = []
    assert find_arrays(tmp_path, problems, []) == []
    assert len(problems) == 3
    assert "c.txt: line 2: " in problems[2]


@pytest.mark.parametrize(
    ("layout", "files"),
    [
        ("streams,crops-last,clips", {"a_i3d": (20, 10, 6), "b_i3d": (31, 10, 6)}),
        ("streams,crops-first,clips", {"a_i3d": (10, 20, 6), "b_i3d": (10, 31, 6)}),
        ("plain,crops-first,segments", {"a": (10, 32, 6), "b": (10, 32, 6)}),
        ("crop-files,clips", {f"c/{v}__{i}": (ord(v), 6) for v in "ab" for i in range(10)}),
        ("crop-files,clips", {f"{v}_{i}": (ord(v), 6) for v in "ab" for i in range(10)}),
        ("streams,crop-files,clips", {
            f"{place}/v__{i}": (9, 6) for place in ("RGB", "FlowTest") for i in range(5)
        }),
        ("streams,clips", {"a_rgb": (9, 6), "a_flow": (9, 6)}),
        ("streams,feature-files,clips", {"rgb/v_1/feature": (9, 6), "rgb/v_2/feature": (7, 6)}),
        ("clip-files", {"v_1/0_16": (6,), "v_1/16_32": (6,)}),
    ],
)  # fmt: skip
def test_what_is_recognised_is_the_layout_of_the_table(tmp_path, folder, layout, files) -> None:
    for name, shape in files.items():
        save(folder, name, *shape)
    caches = []
    for place in ("auto", layout):
        cache = FeatureCache.create(tmp_path / place)
        take(cache, folder, "s", layout=place)
        caches.append({entry.key: entry.crc32 for entry in cache.entries()})
    assert caches[0] == caches[1]
    assert layout in (Path(__file__).parents[1] / "docs" / "CACHE.md").read_text()


# What is not clear is refused, with what could be meant


@pytest.mark.parametrize(
    ("shapes", "match"),
    [
        ([(10, 5, 6), (10, 5, 6)], "both its first axes can be crops; .* crops-last or --layout c"),
        ([(1, 10, 6)], "both its first axes can be crops"),
        ([(20, 7, 6), (31, 7, 6)], "neither axis is 1 or 3 or 5 or 10 crops in all"),
        ([(20, 10, 6), (10, 20, 6)], "neither axis is"),
        ([(32, 6)], "the only array has 32 rows, .* --layout clips or --layout segments"),
        ([(9, 6), (9, 6), (9, 6)], "all 3 arrays have 9 rows"),
    ],
)
def test_ambiguous_shapes_are_refused(cache, folder, shapes, match) -> None:
    for number, shape in enumerate(shapes):
        save(folder, f"v{number}x", *shape)
    with pytest.raises(CacheError, match=match):
        take(cache, folder, "s")
    assert nothing_in(cache)


@pytest.mark.parametrize(("layout", "axis"), [("crops-last", 1), ("crops-first", 0)])
def test_a_layout_that_is_given_decides(cache, folder, layout, axis) -> None:
    a = save(folder, "a", 10, 5, 6)
    take(cache, folder, "s", layout=layout)
    np.testing.assert_allclose(cache.read("a", "s"), a.mean(axis), rtol=1e-5, atol=1e-6)


def test_frame_counts_decide_where_crops_are(cache, folder) -> None:
    a = save(folder, "a", 10, 5, 6)
    take(cache, folder, "s", frames={"a": 80})
    np.testing.assert_allclose(cache.read("a", "s"), a.mean(0), rtol=1e-5, atol=1e-6)


def test_ten_equal_files_may_be_crops_or_videos(cache, folder) -> None:
    for number in range(10):
        save(folder, f"cam_{number}", 32, 6)
    with pytest.raises(CacheError, match="may be crops or videos; choose with --layout crop-files"):
        take(cache, folder, "s")
    videos = [f"cam_{number}.mp4" for number in range(10)]
    for place, options, count in (
        ("1", {"names": videos}, 10),
        ("2", {"names": ["cam.mp4"], "layout": "segments"}, 1),
        ("3", {"layout": "plain"}, 10),
        ("4", {"layout": "crop-files,clips"}, 1),
    ):
        other = FeatureCache.create(folder.parent / place)
        assert take(other, folder, "s", **options).videos == count


def test_numbered_videos_of_other_lengths_stay_videos(cache, folder) -> None:
    for number in range(5):
        save(folder, f"cam_{number}", 4 + number, 6)
    assert take(cache, folder, "s").videos == 5


def test_videos_whose_names_end_like_streams_stay_what_the_labels_say(cache, folder) -> None:
    a = save(folder, "cam_flow", 5, 6)
    take(cache, folder, "s", names=["cam_flow.mp4"])
    np.testing.assert_array_equal(cache.read("cam_flow.mp4", "s"), a)


def test_some_files_with_streams_or_crops_and_some_without_are_refused(cache, folder) -> None:
    save(folder, "a_rgb", 5, 6), save(folder, "a_flow", 5, 6), save(folder, "b", 5, 6)
    with pytest.raises(CacheError, match="a has the streams flow and rgb, b none"):
        take(cache, folder, "s")
    for file in folder.iterdir():
        file.unlink()
    save(folder, "a__0", 5, 6), save(folder, "a__1", 5, 6), save(folder, "b", 5, 6)
    with pytest.raises(CacheError, match="a has several crops, b none"):
        take(cache, folder, "s")


def test_a_missing_crop_and_a_crop_of_another_length_are_refused(cache, folder) -> None:
    for crop in range(5):
        save(folder, f"a__{crop}", 5, 6)
        save(folder, f"b__{crop}", 6, 6)
    (folder / "b__2.npy").unlink()
    with pytest.raises(CacheError, match="b has the crops 0 1 3 4, not 0 to 4"):
        take(cache, folder, "s")
    save(folder, "b__2", 7, 6)
    with pytest.raises(CacheError, match=r"the crops of b have the shapes \(6, 6\) and \(7, 6\)"):
        take(cache, folder, "s")


def test_a_video_twice_and_a_name_of_two_videos_are_refused(cache, folder) -> None:
    save(folder, "RGB/a", 5, 6), save(folder, "RGBTest/a", 5, 6)
    with pytest.raises(CacheError, match=r"RGBTest/a\.npy: 'a' comes twice, also in .*RGB/a\.npy"):
        take(cache, folder)
    save(folder, "b", 5, 6)
    with pytest.raises(CacheError, match=r"b of Fire/b\.mp4 or Run/b\.mp4"):
        take(cache, folder / "b.npy", "s", names=["Fire/b.mp4", "Run/b.mp4"])


def test_two_frame_counts_of_one_array_are_refused(cache, folder) -> None:
    save(folder, "a", 5, 6)
    with pytest.raises(CacheError, match="a: 80 frames, or as Run/a 75"):
        take(cache, folder, "s", frames={"Fire/a": 80, "Run/a": 75})


def test_time_last_is_refused(cache, folder) -> None:
    for rows in (20, 31, 17):
        save(folder, f"v{rows}", 64, rows)
    with pytest.raises(CacheError, match=r"expected time first"):
        take(cache, folder, "s", layout="clips")


def test_what_is_said_must_fit_the_files(cache, folder) -> None:
    save(folder, "a", 5, 6)
    with pytest.raises(CacheError, match="--layout clip-files: expected names such as <video>/<s"):
        take(cache, folder, "s", layout="clip-files")
    with pytest.raises(CacheError, match="do not name their stream: give it with --stream"):
        take(cache, folder)
    for text in ("odd", "clips,segments", "plain,streams"):
        with pytest.raises(ValueError, match="layout"):
            parse_layout(text)


@given(
    axes=st.sampled_from(["SD", "SCD", "CSD", "files__", "files_"]),
    num_crops=st.sampled_from([1, 3, 5, 10]),
    rows=st.lists(st.one_of(st.sampled_from([1, 3, 5, 10, 31, 32]), st.integers(1, 40)),
                  min_size=1, max_size=5),
    segments=st.booleans(),
    counted=st.booleans(),
    seed=st.integers(0, 2**20),
)  # fmt: skip
@settings(max_examples=30)
def test_features_are_read_rightly_or_not_at_all(
    axes, num_crops, rows, segments, counted, seed
) -> None:
    rng = np.random.default_rng(seed)
    if segments:
        rows = [32] * len(rows)
    # 32 clips of 16 frames in each of several videos are what only frame counts tell from segments
    elif not counted and len(rows) > 1 and set(rows) == {32}:
        return
    if axes == "SD":
        num_crops = 1
    truth, frames = {}, {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "in"
        folder.mkdir()
        for number, count in enumerate(rows):
            video = f"v{number}x"
            array = rng.standard_normal((count, num_crops, 4)).astype(np.float32)
            truth[video] = array.mean(1)
            frames[video] = int(rng.integers(1300, 3000)) if segments else count * 16 - seed % 16
            match axes:
                case "SD":
                    np.save(folder / f"{video}.npy", array[:, 0])
                case "SCD":
                    np.save(folder / f"{video}.npy", array)
                case "CSD":
                    np.save(folder / f"{video}.npy", array.transpose(1, 0, 2))
                case _:
                    for crop in range(num_crops):
                        np.save(folder / f"{video}{axes[5:]}{crop}.npy", array[:, crop])
        cache = FeatureCache.create(Path(place) / "cache")
        try:
            take(cache, folder, "s", frames=frames if counted else {}, names=list(frames))
        except CacheError as error:
            assert "--layout" in str(error)  # noqa: PT017 - refusing is one of two right answers
            return
        assert cache.videos() == sorted(truth)
        for video, features in truth.items():
            np.testing.assert_allclose(cache.read(video, "s"), features, rtol=1e-5, atol=1e-6)
            entry = cache.find(video, "s")
            assert entry.config["layout"] == ("segments" if segments else "clips")
            assert not counted or entry.source.num_frames == frames[video]


# All or nothing


def test_all_problems_are_told_and_nothing_is_written(cache, folder) -> None:
    for number in range(8):
        save(folder, f"v{number}", 5 + number, 6)
    nan = np.ones((5, 6), np.float32)
    nan[3, 4] = np.nan
    np.save(folder / "v1.npy", nan)
    np.save(folder / "v2.npy", np.full((4, 6), 1e300))
    np.save(folder / "v3.npy", np.array([{"a": 1}], object), allow_pickle=True)
    save(folder, "v4", 9, 7)
    (folder / "v5.npy").write_bytes(b"no array")
    save(folder, "v6", 9)
    with pytest.raises(CacheError) as caught:
        take(cache, folder, "s", frames={"v7": 16 * 30})
    lines = str(caught.value).splitlines()
    for file, what in (
        ("v1", "1 of 5 rows (first: row 3) with NaN or infinity"),
        ("v2", "4 of 4 rows (first: row 0) with NaN or infinity"),
        ("v3", "an array of object, expected numbers"),
        ("v4", "rows of 7 values, the others have 6"),
        ("v5", ""),
        ("v6", "shape (9,), expected (S, D), as the others"),
        ("v7", "12 rows of 16 frames do not fit 480 frames, expected 30"),
    ):
        assert [what in line for line in lines if f"{file}.npy" in line] == [True], file
    assert len(lines) == 7
    assert nothing_in(cache)


def test_contradicting_labels_leave_the_cache_as_it_was(cache, folder) -> None:
    save(folder, "a", 5, 6)
    head = "video,split,category,anomaly\n"
    write_whole(cache.labels_path, f"{head}a.mp4,train,,\n")
    write_whole(folder / "labels.csv", f"{head}a.mp4,test,,0:16\n")
    arguments = ["import", str(folder), "--cache", str(cache.path), "--stream", "s", "--origin",
                 "x", "--labels", str(folder / "labels.csv")]  # fmt: skip
    result = CliRunner().invoke(cache_group, arguments)
    assert isinstance(result.exception, CacheError)
    assert "nothing imported, 1 conflicts" in str(result.exception)
    assert nothing_in(cache)


def test_a_shard_of_many_is_not_left_alone(cache, folder, monkeypatch) -> None:
    monkeypatch.setattr("cache.exchange.storing._BATCH_BYTES", 1)
    for number in range(4):
        save(folder, f"v{number}", 5 + number, 6)
    bad = np.full((3, 6), np.inf, np.float32)
    np.save(folder / "w.npy", bad)
    with pytest.raises(CacheError, match=r"w\.npy"):
        take(cache, folder, "s")
    assert nothing_in(cache)
    (folder / "w.npy").unlink()
    assert take(cache, folder, "s").videos == 4
    assert len(list(cache.shards_dir.iterdir())) == 4
    assert not list((cache.path / "partial").iterdir())


def test_two_imports_of_the_same_at_once_leave_each_others_files(cache, monkeypatch) -> None:
    monkeypatch.setattr("cache.exchange.storing._BATCH_BYTES", 1)  # written when taken
    record = make_record()
    with Staging(cache) as ours, Staging(cache) as theirs:
        ours.take([record], [])
        theirs.take([record], [])
        with Staging(cache) as third:
            third.take([record], [])
            with pytest.raises(CacheError, match="a problem"):
                third.publish(["a problem"])
        theirs.publish([])
        ours.publish([])
    assert len(list(cache.shards_dir.iterdir())) == len(cache) == 1
    assert not list((cache.path / "partial").iterdir())


def test_the_command_says_what_it_took_and_who_found_features(tmp_path, folder) -> None:
    save(folder, "a_i3d", 5, 10, 6), save(folder, "b_i3d", 7, 10, 6)
    write_whole(
        folder / "labels.csv",
        "video,split,category,anomaly\nx/a.mp4,train,,\nx/b.mp4,train,,\nx/c.mp4,train,,\n",
    )
    arguments = ["import", str(folder), "--cache", str(tmp_path / "c"), "--origin", "x",
                 "--labels", str(folder / "labels.csv")]  # fmt: skip
    result = CliRunner().invoke(cache_group, arguments)
    assert result.exit_code == 0, result.output
    assert "streams: b_i3d is of x/b.mp4, stream i3d" in result.stdout
    assert "i3d: 2 videos, (S, C, D), D = 6, a row is a clip of 16 frames, 10 crops averaged" in (
        result.stdout
    )
    assert "1 labelled videos without features: x/c.mp4" in result.stdout
    assert result.stdout.endswith("2 of 3 labelled videos have i3d\n")


# How many rows a video has


def test_one_row_more_or_less_is_told_and_shifts_nothing(cache, folder) -> None:
    frames, arrays = {}, {}
    for number in range(30):
        rows = 20 + number
        extra = {3: 1, 7: -1}.get(number, 0)
        arrays[f"v{number}"] = save(folder, f"v{number}", rows + extra, 6)
        frames[f"v{number}"] = 16 * rows
    report = take(cache, folder, "s", frames=frames)
    assert (report.one_row_more, report.one_row_less) == (["v3"], ["v7"])
    np.testing.assert_array_equal(cache.read("v3", "s"), arrays["v3"][:-1])
    np.testing.assert_array_equal(cache.read("v7", "s"), arrays["v7"])
    assert frames_of(cache, "v7", "s")[-1] == (16 * 25, 16 * 26)
    frames |= {f"v{number}": frames[f"v{number}"] + 32 for number in (11, 12)}
    with pytest.raises(CacheError, match=r"v11.*\n.*v12.*"):  # two rows are never right
        take(cache, folder, "t", frames=frames)
    many = {video: count + 16 * (number % 3 == 0) for number, (video, count) in
            enumerate(sorted(frames.items())) if video not in ("v11", "v12")}  # fmt: skip
    with pytest.raises(CacheError, match="rows of 16 frames do not fit"):  # nor one in so many
        take(cache, folder, "t", frames=many)


def test_overlapping_clips_are_on_record(cache, folder) -> None:
    save(folder, "a", 28, 6)
    with pytest.raises(CacheError, match="would fit: --clip-len 64 --clip-stride 16"):
        take(cache, folder, "s", frames={"a": 500})
    take(cache, folder, "s", frames={"a": 500}, clip_len=64, clip_stride=16)
    assert frames_of(cache, "a", "s")[:2] == [(0, 64), (16, 80)]
    assert cache.find("a", "s").config["clip_stride"] == 16


@given(st.integers(1, 3000), st.integers(1, 64), st.integers(1, 64), st.booleans())
@settings(max_examples=200)
def test_expected_rows_are_those_that_a_loop_counts(frames, clip_len, stride, pad) -> None:
    rows = start = 0
    while start < frames:
        rows += pad or start + clip_len <= frames
        start += stride
    rule = ClipRule(clip_len=clip_len, clip_stride=stride)
    rows = max(rows, 1)
    assert rule.difference(rows, frames) == 0
    assert rows == rule.expected(frames)[pad]
    assert find_misfits({"a": rows}, {"a": frames}, rule) == {}


# Names


def test_names_meet_by_path_then_by_file_name(tmp_path) -> None:
    labels = ["Abuse/a.mp4", "Fire/b.mp4", "Run/b.mp4", "caf\u00e9.mp4", "d.e.mp4"]
    found = match_names(
        ["RGB/Abuse/a", "Fire/b", "x/b", "cafe\u0301", "d.e", "b", "other"], labels, ["other"]
    )
    assert found.videos == {
        "RGB/Abuse/a": "Abuse/a.mp4",
        "Fire/b": "Fire/b.mp4",
        "cafe\u0301": "caf\u00e9.mp4",
        "d.e": "d.e.mp4",
        "other": "other",
    }
    assert found.ambiguous == {"b": ["Fire/b.mp4", "Run/b.mp4"]}
    alone = match_names(["Test/a", "Train/c"], ["Abuse/a.mp4", "Abuse/c.mp4"])
    assert alone.by_file_name == ["Test/a", "Train/c"]
    assert match_names(["Test/a", "Train/a"], ["Abuse/a.mp4"]).videos == {}


def test_cached_videos_lend_their_names_and_frame_counts(cache, folder) -> None:
    save(folder, "a", 5, 6)
    take(cache, folder, "s", names=["x/a.mp4"], frames={"a": 70})
    save(folder, "a", 5, 8)
    take(cache, folder, "t")
    assert cache.videos() == ["x/a.mp4"]
    assert frames_of(cache, "x/a.mp4", "t")[-1] == (64, 70)


@pytest.mark.parametrize(
    "content",
    [
        b"0.1 0.2 0.3\n0.4 0.5 0.6\n",  # blanks for commas
        "0.1,0.2\n0.3,0.4\n".encode("utf-16"),
        b"0.1,0.2\n0.3,\xff\xfe\x00",
        b"\xff\xd8\xff\xe0 no text at all",
    ],
)
def test_a_table_that_cannot_be_read_is_no_list_to_be_passed_over(cache, folder, content) -> None:
    folder.mkdir()
    np.savetxt(folder / "a.csv", RNG.random((12, 2)), delimiter=",")
    (folder / "b.csv").write_bytes(content)
    with pytest.raises(CacheError, match=r"b\.csv"):
        take(cache, folder, "i3d")
    assert cache.videos() == []


def test_lists_beside_features_are_passed_over(cache, folder) -> None:
    folder.mkdir()
    np.savetxt(folder / "a.csv", RNG.random((12, 2)), delimiter=",")
    (folder / "labels.csv").write_text("video,split,category,anomaly,frames\na.mp4,train,,,192\n")
    (folder / "test.txt").write_text("Abuse028_x264.mp4  Abuse  165  240  -1  -1\n")
    take(cache, folder, "i3d")
    assert cache.videos() == ["a"]
