"""docs/CACHE_FORMAT.md is right: its code runs, and its formulas give what is on disk."""

import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import zlib
from pathlib import Path

import numpy as np
import pytest
from cache_samples import make_record, sha256_of

from cache import FeatureCache, NameEntry

DOC = Path(__file__).resolve().parents[1] / "docs" / "CACHE_FORMAT.md"
CODE = re.findall(r"```python\n(.*?)```", DOC.read_text(), re.DOTALL)


@pytest.fixture
def cache(tmp_path) -> FeatureCache:
    cache = FeatureCache.create(tmp_path / "features")
    cache.write([make_record(), make_record(stream="flow", flow_stats=True)])
    return cache


def test_ten_lines_of_h5py_read_a_cache(cache, monkeypatch) -> None:
    assert len(CODE[0].splitlines()) <= 10
    monkeypatch.chdir(cache.path.parent)
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(CODE[0], str(DOC), "exec"), {})
    assert sorted(out.getvalue().splitlines()) == [
        "a/one.mp4 flow (5, 8) 0 75",
        "a/one.mp4 rgb (5, 8) 0 75",
    ]


def test_a_memory_map_without_hdf5(cache, monkeypatch) -> None:
    monkeypatch.chdir(cache.path.parent)
    space: dict[str, object] = {}
    exec(compile(CODE[1], str(DOC), "exec"), space)
    np.testing.assert_array_equal(space["features"], make_record().features)


def test_checksums_and_keys_follow_the_document(cache) -> None:
    (path,) = cache.shards_dir.iterdir()
    data = path.read_bytes()
    word, layout, length, digest = data[:91].decode().split(" ")
    assert (word, layout, data[91:92]) == ("feat-shard", "0001", b"\n")
    text = data[92 : 92 + int(length)]
    assert hashlib.sha256(text).hexdigest() == digest
    table = json.loads(text)
    assert table["userblock"] == 92 + int(length)
    assert table["file_size"] == len(data)
    taken = []
    for row in table["records"]:
        body = {"config": table["configs"][row["config"]], "video": row["source"]["sha256"]}
        canonical = json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
        assert hashlib.sha256(canonical).hexdigest() == row["key"]
        for name in ("features", "clips", "flow_stats"):
            place = row[name]
            if place:
                item = {"float32": 4, "clips": 32}[place["dtype"]]
                size = item * int(np.prod(place["shape"]))
                piece = data[place["offset"] : place["offset"] + size]
                assert zlib.crc32(piece) == place["crc32"]
                taken.append((place["offset"], place["offset"] + size))
    crc, position = 0, table["userblock"]
    for start, end in [*sorted(taken), (len(data), len(data))]:
        crc, position = zlib.crc32(data[position:start], crc), end
    assert crc == table["structure_crc32"]


def test_names_files_are_as_documented(cache) -> None:
    entry = NameEntry(sha256=sha256_of("x"), size=5, mtime_ns=7)
    cache.set_names({"x.mp4": entry})
    (path,) = (cache.path / "names").iterdir()
    first, line = path.read_text().splitlines()
    assert first == '{"format":"feat names","version":1}'
    value = json.loads(line)
    assert value.pop("time_ns") > 10**18
    assert value == {"name": "x.mp4", "sha256": entry.sha256, "size": 5, "mtime_ns": 7}


def test_files_are_named_by_their_sha256(cache) -> None:
    for number in range(20):
        cache.write([make_record(f"{number}.mp4")])
        cache.set_names({f"{number}.mp4": NameEntry(sha256="0" * 64, size=1, mtime_ns=1)})
    FeatureCache(cache.path).videos()
    files = [
        path for name in ("shards", "names", "index") for path in (cache.path / name).iterdir()
    ]
    assert len(files) > 22
    for path in files:
        assert path.stem == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.skipif(shutil.which("rsync") is None, reason="rsync is not installed")
def test_rsync_is_a_merge(cache, tmp_path) -> None:
    other = FeatureCache.create(tmp_path / "other")
    other.write([make_record("theirs.mp4")])
    entry = NameEntry(sha256=sha256_of("theirs.mp4"), size=1, mtime_ns=1)
    other.set_names({"theirs.mp4": entry})
    subprocess.run(["rsync", "-a", f"{other.path}{os.sep}", str(cache.path)], check=True)
    assert FeatureCache(cache.path).videos() == ["a/one.mp4", "theirs.mp4"]
