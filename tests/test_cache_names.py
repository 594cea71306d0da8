import multiprocessing
import os
import shutil

import pytest
from cache_samples import sha256_of
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from cache import NameEntry
from cache.names import NameLine, NameStore, read_manifest, write_manifest
from cache.records import are_plain_names, check_video_name
from data.errors import CacheError, StorageError

BAD_NAMES = [
    "..",
    ".",
    "/a",
    "a/",
    "a//b",
    "a/../b",
    "a\n..",
    "a\x00b",
    "C:\\x",
    "a\\..\\b",
    "\ud800",
    "x" * 999,
]


def entry(text: str, size: int = 1) -> NameEntry:
    return NameEntry(sha256=sha256_of(text), size=size, mtime_ns=-5)


def load(folder) -> dict[str, NameEntry]:
    store = NameStore(folder)
    store.refresh()
    return store.names()


def test_names_come_back(tmp_path) -> None:
    names = {"a/ü 1.mp4": entry("x"), "b.mp4": entry("y", 10**12)}
    NameStore(tmp_path).set(names)
    assert load(tmp_path) == names


def test_the_latest_entry_counts_and_none_removes(tmp_path) -> None:
    store = NameStore(tmp_path)
    store.set({"a": entry("1"), "b": entry("1")})
    store.set({"a": entry("2"), "b": None})
    store.set({"c": entry("3")})
    assert load(tmp_path) == {"a": entry("2"), "c": entry("3")}


def test_a_clock_that_is_behind_does_not_lose_an_update(tmp_path, monkeypatch) -> None:
    NameStore(tmp_path).set({"a": entry("1")})
    monkeypatch.setattr("time.time_ns", lambda: 1)
    NameStore(tmp_path).set({"a": entry("2")})
    assert load(tmp_path) == {"a": entry("2")}


def test_after_the_last_time_there_is_nothing_is_said_and_nothing_lost(tmp_path) -> None:
    write_manifest(tmp_path, {"a": NameLine.of(2**63 - 1, entry("1"))})
    with pytest.raises(CacheError, match="a was last named in the year 2262"):
        NameStore(tmp_path).set({"b": entry("2"), "a": entry("3")})
    NameStore(tmp_path).set({"b": entry("2")})
    assert load(tmp_path) == {"a": entry("1"), "b": entry("2")}


def test_a_file_that_could_not_be_read_once_is_read_later(tmp_path, monkeypatch, caplog) -> None:
    NameStore(tmp_path).set({"a": entry("1")})
    store = NameStore(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("cache.names.read_manifest", failing_disk)
        for _ in range(2):
            store.refresh()
            assert store.names() == {}
    store.refresh()
    assert store.names() == {"a": entry("1")}
    assert len(caplog.records) == 1


def failing_disk(path):
    raise StorageError(f"{path}: cannot read: Input/output error")


def test_saying_the_same_again_writes_nothing(tmp_path) -> None:
    NameStore(tmp_path).set({"a": entry("1")})
    before = os.listdir(tmp_path)
    NameStore(tmp_path).set({"a": entry("1")})
    assert os.listdir(tmp_path) == before


def test_files_stay_few_and_nothing_is_lost(tmp_path) -> None:
    store = NameStore(tmp_path)
    for number in range(300):
        store.set({f"{number}.mp4": entry(str(number))})
        assert len(os.listdir(tmp_path)) <= 17
    assert load(tmp_path) == {f"{n}.mp4": entry(str(n)) for n in range(300)}


def _write_many(folder, first: int) -> None:
    store = NameStore(folder)
    for number in range(first, first + 60):
        store.set({f"{number}.mp4": entry(str(number)), "shared.mp4": entry(str(number))})


def test_concurrent_writers_lose_nothing(tmp_path) -> None:
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=_write_many, args=(tmp_path, 1000 * k)) for k in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join()
        assert child.exitcode == 0
    names = load(tmp_path)
    assert len(names) == 181
    for number in (1000 * k + n for k in range(3) for n in range(60)):
        assert names[f"{number}.mp4"] == entry(str(number))


@pytest.mark.parametrize("damage", [b"", b"{}\n", b"\xff" * 50, None])
def test_a_damaged_file_is_left_out_and_said(tmp_path, caplog, damage) -> None:
    NameStore(tmp_path).set({"a": entry("1")})
    (bad,) = tmp_path.iterdir()
    NameStore(tmp_path).set({"b": entry("2")})
    data = bad.read_bytes()
    bad.write_bytes(data.replace(b'"size":1', b'"size":9') if damage is None else damage)
    assert load(tmp_path) == {"b": entry("2")}
    assert bad.name in caplog.text
    with pytest.raises(CacheError, match=bad.name):
        read_manifest(bad)


@pytest.mark.parametrize(
    "line",
    [
        '{"name":"../x","time_ns":1,"sha256":null,"size":0,"mtime_ns":0}',
        '{"name":"a","time_ns":-1,"sha256":null,"size":0,"mtime_ns":0}',
        '{"name":"a","time_ns":1,"sha256":"zz","size":0,"mtime_ns":0}',
        '{"name":"a","time_ns":1,"sha256":"' + "0" * 64 + '","size":-1,"mtime_ns":0}',
        '{"name":"a","time_ns":1,"sha256":"' + "0" * 64 + f'","size":{2**70},"mtime_ns":0}}',
        '{"name":"a","time_ns":1,"sha256":"' + "0" * 64 + f'","size":1,"mtime_ns":{-(2**70)}}}',
        '{"name":"a","time_ns":1,"sha256":"' + "0" * 64 + '","size":1.5,"mtime_ns":0}',
        '{"name":"a","time_ns":9223372036854775808,"sha256":null,"size":0,"mtime_ns":0}',
        '{"name":"a","sha256":null,"size":0,"mtime_ns":0}',
        "[" * 100_000,
        "5",
    ],
)
def test_hostile_lines_are_refused(tmp_path, line) -> None:
    from cache.names import HEAD

    data = (HEAD + line + "\n").encode()
    path = tmp_path / (__import__("hashlib").sha256(data).hexdigest() + ".jsonl")
    path.write_bytes(data)
    with pytest.raises(CacheError, match="quarantine it") as caught:
        read_manifest(path)
    assert "\n" not in str(caught.value)


@given(
    st.lists(
        st.text(st.characters(), min_size=1, max_size=5) | st.sampled_from(BAD_NAMES), max_size=4
    )
)
def test_checking_all_at_once_never_admits_what_one_by_one_refuses(names) -> None:
    if are_plain_names(names):
        for name in names:
            assert check_video_name(name) == name


class NamesLikeADict(RuleBasedStateMachine):
    """Two stores on two folders, changed in turn and merged by copying, against a dict."""

    @initialize()
    def start(self) -> None:
        import tempfile
        from pathlib import Path

        self.root = Path(tempfile.mkdtemp())
        self.folders = [self.root / "0", self.root / "1"]
        for folder in self.folders:
            folder.mkdir()
        self.model: dict[str, NameEntry] = {}

    @rule(
        side=st.integers(0, 1),
        name=st.sampled_from("abcdef"),
        content=st.none() | st.sampled_from("xyz"),
    )
    def change(self, side, name, content) -> None:
        # copying first makes the later change the later one in both folders
        self.copy()
        NameStore(self.folders[side]).set({name: entry(content) if content else None})
        self.copy()
        self.model.pop(name, None)
        if content:
            self.model[name] = entry(content)

    @rule()
    def copy(self) -> None:
        a, b = self.folders
        shutil.copytree(a, b, dirs_exist_ok=True)
        shutil.copytree(b, a, dirs_exist_ok=True)

    @invariant()
    def agrees(self) -> None:
        if hasattr(self, "model"):
            assert load(self.folders[0]) == load(self.folders[1]) == self.model

    def teardown(self) -> None:
        shutil.rmtree(self.root)


NamesLikeADict.TestCase.settings = settings(max_examples=8, stateful_step_count=15)
TestNamesLikeADict = NamesLikeADict.TestCase


def test_no_file_grows_larger_than_what_is_read(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("cache.names.MAX_BYTES", 5000)
    monkeypatch.setattr("cache.names.MAX_LINES", 10)
    entries = {f"{number:03d}.mp4": entry(f"{number}") for number in range(400)}
    assert NameStore(tmp_path).set(entries) == 400
    for number in range(400, 440):
        entries |= (one := {f"{number}.mp4": entry(f"{number}")})
        assert NameStore(tmp_path).set(one) == 1
    assert max(path.stat().st_size for path in tmp_path.iterdir()) <= 5000
    again = NameStore(tmp_path)
    again.refresh()
    assert again.names() == entries
