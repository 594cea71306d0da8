import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from file_modes import as_a_user
from hypothesis import given
from hypothesis import strategies as st

from data.errors import DecodeError
from data.frame_names import natural_key
from data.videos import (
    VideoSource,
    content_sha256,
    find_videos,
    frame_paths,
    source_stamp,
)


def touch(path: Path, content: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def ids(root: Path) -> list[str]:
    return [source.video_id for source in find_videos(root)]


def test_files_and_frame_folders_come_in_natural_order(tmp_path):
    for name in ("v10.mp4", "v2.AVI", "b/1.mkv", "b/notes.txt", "labels.csv"):
        touch(tmp_path / name)
    for i in (1, 2):
        touch(tmp_path / "test" / "07" / f"{i}.jpg")
    assert ids(tmp_path) == ["b/1.mkv", "test/07", "v2.AVI", "v10.mp4"]
    kinds = {source.video_id: source.kind for source in find_videos(tmp_path)}
    assert kinds == {"b/1.mkv": "file", "test/07": "frames", "v2.AVI": "file", "v10.mp4": "file"}


def test_same_stem_videos_have_different_ids(tmp_path):
    for name in ("a/x.mp4", "b/x.mp4", "a/x.avi"):
        touch(tmp_path / name)
    assert ids(tmp_path) == ["a/x.avi", "a/x.mp4", "b/x.mp4"]


def test_hidden_files_and_folders_are_skipped(tmp_path):
    for name in ("._a.mp4", ".cache/b.mp4", "a.mp4", "frames/1.png", "frames/._1.png"):
        touch(tmp_path / name)
    assert ids(tmp_path) == ["a.mp4", "frames"]
    assert [path.name for path in frame_paths(find_videos(tmp_path)[1])] == ["1.png"]


def test_a_folder_of_images_given_directly_is_one_video(tmp_path):
    touch(tmp_path / "clip7" / "1.jpg")
    assert ids(tmp_path / "clip7") == ["clip7"]


def test_pictures_beside_videos_are_not_frames(tmp_path, caplog):
    for name in ("a/x.mp4", "a/poster.jpg", "cover.png"):
        touch(tmp_path / name)
    assert ids(tmp_path) == ["a/x.mp4"]
    assert "1 images beside videos are ignored" in caplog.text
    assert "images in the top folder are ignored" in caplog.text


def test_a_single_file_is_a_video(tmp_path):
    path = touch(tmp_path / "-odd % name.mp4")
    assert find_videos(path) == [VideoSource(video_id=path.name, path=path, kind="file")]


def test_links_are_followed_and_loops_end(tmp_path, caplog):
    touch(tmp_path / "store" / "v.mp4")
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "linked").symlink_to(tmp_path / "store")
    (tmp_path / "store" / "again").symlink_to(tmp_path / "clips")
    (tmp_path / "clips" / "gone.mp4").symlink_to(tmp_path / "nowhere.mp4")
    (tmp_path / "clips" / "gone.txt").symlink_to(tmp_path / "nowhere.txt")
    assert ids(tmp_path / "clips") == ["linked/v.mp4"]
    assert "gone.mp4: ignored: a link to what is not there" in caplog.text
    assert "gone.txt" not in caplog.text


def test_a_pipe_called_mp4_is_no_video(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    touch(tmp_path / "real.mp4")
    assert ids(tmp_path) == ["real.mp4"]


@pytest.mark.parametrize("name", ["", "no/such/folder"])
def test_nothing_found_says_what_was_expected(tmp_path, name):
    with pytest.raises(DecodeError, match=r"no video found|no such folder") as caught:
        find_videos(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_frames_are_in_natural_order_whatever_their_suffix(tmp_path):
    names = ["50% 9.png", "50% 10.jpg", "50% 8.TIF", "50% 011.bmp", "50% 12.jpeg"]
    for name in [*names, "readme.txt"]:
        touch(tmp_path / name)
    source = VideoSource(video_id="v", path=tmp_path, kind="frames")
    assert [path.name for path in frame_paths(source)] == [
        "50% 8.TIF",
        "50% 9.png",
        "50% 10.jpg",
        "50% 011.bmp",
        "50% 12.jpeg",
    ]


def numbered(form: str, *numbers: int) -> list[str]:
    return [form.format(number) for number in numbers]


# names in a folder, those that are frames, what is said of the others
SEQUENCES = [
    (numbered("{}.jpg", *range(1, 12)), numbered("{}.jpg", *range(1, 12)), ""),
    (numbered("{}.jpg", 0, 5, 10), numbered("{}.jpg", 0, 5, 10), ""),  # every fifth frame
    (numbered("v2_{:04}.png", 1, 2, 3), numbered("v2_{:04}.png", 1, 2, 3), ""),
    (numbered("img {}.jpg", 7), numbered("img {}.jpg", 7), ""),
    (["1.jpg", "2.PNG", "3.jpeg"], ["1.jpg", "2.PNG", "3.jpeg"], ""),
    (["Img_1.jpg", "img_2.jpg"], ["Img_1.jpg", "img_2.jpg"], ""),
    (
        [*numbered("img_{:05}.jpg", 1, 2), *numbered("flow_x_{:05}.jpg", 1, 2), "flow_y_00001.jpg"],
        numbered("img_{:05}.jpg", 1, 2),
        "3 images of optical flow left out",
    ),
    (
        [*numbered("{}.jpg", 1, 2), "x_1.jpg", "y_1.jpg"],
        numbered("{}.jpg", 1, 2),
        "2 images of optical flow left out",
    ),
    (
        ["1.jpg", "2.jpg", "cover.jpg", "thumb.png"],
        ["1.jpg", "2.jpg"],
        "cover.jpg and 1 more without a number left out",
    ),
    (["b.jpg", "a.jpg"], ["a.jpg", "b.jpg"], "names without numbers, taken in alphabetical order"),
    (["9.5.png", "10.5.png"], ["9.5.png", "10.5.png"], ""),
    (
        ["9.75.png", "9.50.png", "10.50.png"],
        ["9.50.png", "9.75.png", "10.50.png"],
        "names in which several numbers change, taken in their order: a gap would not be seen",
    ),
    (
        ["09-59-01.jpg", "10-00-00.jpg", "10-01-00.jpg"],
        ["09-59-01.jpg", "10-00-00.jpg", "10-01-00.jpg"],
        "names in which several numbers change, taken in their order: a gap would not be seen",
    ),
]


@pytest.mark.parametrize(("names", "frames", "note"), SEQUENCES)
def test_frames_are_told_from_what_lies_beside_them(tmp_path, caplog, names, frames, note):
    for name in names:
        touch(tmp_path / "v" / name)
    (source,) = find_videos(tmp_path)
    assert [path.name for path in frame_paths(source)] == frames
    assert [record.getMessage() for record in caplog.records] == (
        [f"{tmp_path / 'v'}: {note}"] if note else []
    )


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (numbered("{}.jpg", 1, 2, 4, 5), "no image between 2.jpg and 4.jpg, .* put back what is"),
        (numbered("{}.jpg", 0, 5, 10, 20), "no image between 10.jpg and 20.jpg"),
        (numbered("{}.jpg", 1, 17, 30), "no image between 1.jpg and 17.jpg"),
        (["1.jpg", "01.jpg"], "01.jpg and 1.jpg have the same number; remove one"),
        (["1.jpg", "2.jpg", "2.png"], "2.jpg and 2.png have the same number"),
        (["1.jpg", "2.jpg", "2 (1).jpg"], "2 like 1.jpg, 1 like 2 \\(1\\).jpg; .* remove copies"),
        (["1.jpg", "2.jpg", "2 - Copy.jpg"], "2 like 1.jpg, 1 like 2 - Copy.jpg"),
        (["a1.jpg", "a2.jpg", "b1.jpg", "b2.jpg"], "2 like a1.jpg, 2 like b1.jpg"),
        (["img_1.jpg", "mask_1.jpg"], "2 kinds of names"),
        (["c1_1.jpg", "c1_2.jpg", "c2_1.jpg"], "several sequences: c1_1.jpg and c2_1.jpg"),
        (["flow_x_1.jpg", "flow_y_1.jpg"], "2 kinds of names"),
    ],
)
def test_a_folder_that_is_not_one_sequence_is_refused(tmp_path, names, message):
    for name in names:
        touch(tmp_path / "v" / name)
    (source,) = find_videos(tmp_path)
    for refuses in (frame_paths, source_stamp, content_sha256):
        with pytest.raises(DecodeError, match=f"^v: .*{message}"):
            refuses(source)


def test_one_name_however_the_disk_has_it(tmp_path):
    for name in (" blank.mp4 ", "back\\slash.mp4", "cafe\u0301.mp4"):
        touch(tmp_path / name)
    assert ids(tmp_path) == ["back/slash.mp4", "blank.mp4", "caf\u00e9.mp4"]
    assert all(source.path.is_file() for source in find_videos(tmp_path))
    touch(tmp_path / "back" / "slash.mp4")
    with pytest.raises(DecodeError, match=r"both go by the name back/slash.mp4: .* rename one"):
        find_videos(tmp_path)


@pytest.fixture
def denied(tmp_path):
    """A folder that cannot be read, beside one that can; root obeys modes in a child only."""
    touch(tmp_path / "ok.mp4")
    touch(tmp_path / "denied" / "a.mp4")
    touch(tmp_path / "listed" / "b.mp4")
    (tmp_path / "denied").chmod(0)
    (tmp_path / "listed").chmod(0o444)  # its names can be read, its files cannot
    yield tmp_path
    for name in ("denied", "listed"):
        (tmp_path / name).chmod(0o755)


def test_unreadable_folders_are_told_and_the_others_searched(denied):
    script = f"""if True:
        import pathlib
        from data.errors import DecodeError
        from data.videos import find_videos
        root, unreadable = pathlib.Path({str(denied)!r}), dict()
        found = find_videos(root, unreadable=unreadable)
        assert [source.video_id for source in found] == ["ok.mp4"], found
        assert sorted(unreadable) == ["denied", "listed"], unreadable
        assert "denied: cannot be read: Permission denied; make it" in unreadable["denied"]
        for folder in (root, root / "denied"):
            try:
                find_videos(folder)
            except DecodeError as error:
                assert "denied: cannot be read: Permission denied" in str(error), error
            else:
                raise AssertionError("not refused")
    """
    done = subprocess.run([*as_a_user(), sys.executable, "-c", script], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


def test_frame_paths_of_an_emptied_folder_is_an_error(tmp_path):
    with pytest.raises(DecodeError, match="no image in"):
        frame_paths(VideoSource(video_id="v", path=tmp_path, kind="frames"))


def test_a_files_digest_is_that_of_its_bytes(tmp_path):
    # recipe: printf 'abc' | sha256sum
    path = touch(tmp_path / "a.mp4", b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert content_sha256(find_videos(path)[0]) == expected


def test_a_folders_digest_follows_content_and_order_not_names(tmp_path):
    for name, content in (("1.png", b"one"), ("2.png", b"two"), ("note.txt", b"n")):
        touch(tmp_path / "a" / name, content)
    for name, content in (("x09.png", b"one"), ("x10.png", b"two")):
        touch(tmp_path / "b" / name, content)
    for name, content in (("1.png", b"two"), ("2.png", b"one")):
        touch(tmp_path / "c" / name, content)
    lines = [hashlib.sha256(content).hexdigest() for content in (b"one", b"two")]
    expected = hashlib.sha256("\n".join(["frames-v1", *lines, ""]).encode()).hexdigest()
    digests = [content_sha256(source) for source in find_videos(tmp_path)]
    assert digests[:2] == [expected, expected]
    assert digests[2] != expected


def test_stamp_changes_with_size_and_time(tmp_path):
    for name in ("1.png", "2.png"):
        touch(tmp_path / "v" / name, b"123")
    source = find_videos(tmp_path)[0]
    before = source_stamp(source)
    assert before.size == 6
    os.utime(tmp_path / "v" / "1.png", ns=(1, before.mtime_ns + 5))
    assert source_stamp(source).mtime_ns == before.mtime_ns + 5
    touch(tmp_path / "v" / "3.png", b"1")
    assert source_stamp(source).size == 7
    before = source_stamp(source)
    other = touch(tmp_path / "3.png", b"2")
    os.utime(other, ns=(1, (tmp_path / "v" / "3.png").stat().st_mtime_ns))
    other.replace(tmp_path / "v" / "3.png")
    after = source_stamp(source)
    assert (after.size, after.mtime_ns) == (before.size, before.mtime_ns)
    assert after != before  # another file of the same size and time was put in its place


@given(st.lists(st.integers(0, 10**12), unique=True, min_size=1, max_size=20), st.text(max_size=5))
def test_natural_order_is_the_numbers_order(numbers, prefix):
    prefix = prefix.rstrip("0123456789")
    names = sorted((f"{prefix}{number}.jpg" for number in numbers), key=natural_key)
    assert names == [f"{prefix}{number}.jpg" for number in sorted(numbers)]


@given(st.lists(st.text(max_size=8), max_size=10))
def test_natural_key_orders_any_names_and_tells_them_apart(names):
    in_order = sorted(names, key=natural_key)
    names.reverse()
    assert sorted(names, key=natural_key) == in_order
