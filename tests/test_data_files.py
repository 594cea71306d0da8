"""Files appear whole or not at all, whoever else writes them and whatever fails."""

import csv
import json
import os
import resource
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from data.errors import CacheError, FeatError
from data.files import new_file, temp_path, write_json, write_rows, write_whole


@pytest.mark.parametrize("one_writer", [False, True])
def test_a_file_is_replaced_by_all_of_the_new_one(tmp_path: Path, one_writer: bool) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"much longer than what comes")
    write_whole(path, "ä\n", one_writer=one_writer)
    assert path.read_bytes() == b"\xc3\xa4\n"
    write_whole(path, b"\x00\xff", one_writer=one_writer)
    assert path.read_bytes() == b"\x00\xff"
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("one_writer", [False, True])
def test_a_block_that_fails_leaves_the_old_file_and_no_other(tmp_path, one_writer) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"old")

    def fail_half_way() -> None:
        with new_file(path, one_writer=one_writer) as partial:
            partial.write_bytes(b"ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail_half_way()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_disk_that_takes_only_a_part_leaves_the_old_file_and_one_line(tmp_path: Path) -> None:
    """The limit of a process's file size stands in for a full disk."""
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    program = (
        "import resource, sys\nfrom pathlib import Path\n"
        "from data.errors import FeatError\nfrom data.files import write_whole\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, (100, {resource.RLIM_INFINITY}))\n"
        "try:\n    write_whole(Path(sys.argv[1]), bytes(10_000))\n"
        "except FeatError as error:\n    sys.stdout.write(str(error))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    expected = f"{path}: cannot be written: File too large; the file would be larger than allowed"
    assert done.stdout.startswith(expected)
    assert "\n" not in done.stdout
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_the_error_is_of_the_kind_that_was_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "absent" / "a.txt"
    with pytest.raises(
        FeatError, match=r"absent/a\.txt: cannot be written: No such file"
    ) as caught:
        write_whole(path, b"")
    assert caught.type is FeatError
    with pytest.raises(CacheError, match="cannot be written"):
        write_whole(path, b"", error=CacheError)


def test_one_writer_overwrites_what_a_killed_one_left(tmp_path: Path) -> None:
    path = tmp_path / "state.bin"
    killed = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom data.files import new_file\n"
        "with new_file(Path(sys.argv[1]), one_writer=True) as partial:\n"
        "    partial.write_bytes(b'half')\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    for _ in range(2):
        subprocess.run([sys.executable, "-c", killed, str(path)], check=False, env=environment)
        (left,) = os.listdir(tmp_path)
        assert left.startswith(".tmp-")
    write_whole(path, b"whole", one_writer=True)
    assert os.listdir(tmp_path) == ["state.bin"]


def test_writers_of_one_file_never_show_a_part_of_it(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    contents = [bytes([number]) * 100_000 for number in range(2)]
    write_whole(path, contents[0])

    def write(content: bytes) -> None:
        for _ in range(20):
            write_whole(path, content)

    writers = [threading.Thread(target=write, args=(content,)) for content in contents]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        assert path.read_bytes() in contents
    assert os.listdir(tmp_path) == ["a.bin"]


def test_temporary_names_are_hidden_and_all_different(tmp_path: Path) -> None:
    names = {temp_path(tmp_path).name for _ in range(100)}
    assert len(names) == 100
    assert all(name.startswith(".tmp-") and f"-{os.getpid()}-" in name for name in names)


def test_the_mode_is_what_the_umask_says(tmp_path: Path) -> None:
    """A shared folder's files are for all who may read the folder: umask 002 lets a group write."""
    before = os.umask(0o002)
    try:
        write_whole(tmp_path / "a", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o664


def test_json_and_rows_come_back(tmp_path: Path) -> None:
    values = {"video": "Straße.mp4", "frames": [1, None]}
    write_json(tmp_path / "a.json", values)
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text) == values
    assert text.startswith('{\n  "video": "Straße.mp4"')
    assert text.endswith("}\n")
    write_rows(tmp_path / "a.csv", [{"video": 'a,"b"', "auc": 0.5}, {"video": "c", "auc": None}])
    with (tmp_path / "a.csv").open(encoding="utf-8", newline="") as file:
        assert list(csv.reader(file)) == [["video", "auc"], ['a,"b"', "0.5"], ["c", ""]]
