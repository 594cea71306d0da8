import json
import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
from cache_samples import make_config, make_record, reseal, reseal_structure, sha256_of
from click.testing import CliRunner
from marks import quick_first

from cache import FeatureCache, NameEntry
from cache.commands.upkeep import cache_group
from cache.exchange.connections import over_connections
from cache.exchange.remote import Remote
from cache.exchange.transfer import pull_cache, push_cache
from cache.upkeep.compact import compact_cache
from cache.upkeep.verify import verify_cache
from data.errors import CacheError, ConfigError
from data.labels import VideoLabel, read_labels, write_labels

pytest.importorskip("paramiko", reason="transfer tests need paramiko: pip install paramiko")
from cache_servers import CuttingProxy, DrippingProxy, HttpServer, SftpServer

pytestmark = [
    pytest.mark.usefixtures("one_viewer"),
    # the servers' threads may be told of a connection's end after the test has gone on
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:(botocore|moto|s3fs|werkzeug).*"),
]

NUM_VIDEOS = 6


def name(content: str) -> NameEntry:
    return NameEntry(sha256=sha256_of(content), size=1, mtime_ns=1)


def fill(cache: FeatureCache, first: int = 0, count: int = NUM_VIDEOS) -> None:
    for number in range(first, first + count):
        video = f"d/{number}.mp4"
        cache.write([make_record(video, dim=512), make_record(video, "flow", dim=512)])
        cache.set_names({video: name(video)})


@pytest.fixture
def cache(tmp_path) -> FeatureCache:
    cache = FeatureCache.create(tmp_path / "here")
    fill(cache)
    write_labels(cache.labels_path, [VideoLabel(video="d/0.mp4", split="train")])
    return cache


@pytest.fixture
def other(tmp_path) -> FeatureCache:
    return FeatureCache.create(tmp_path / "other")


def features(cache: FeatureCache) -> dict[str, bytes]:
    return {entry.key: cache.read_key(entry.key).tobytes() for entry in cache.entries()}


def same(a: FeatureCache, b: FeatureCache) -> bool:
    a, b = FeatureCache(a.path), FeatureCache(b.path)
    return features(a) == features(b) and a.names() == b.names() and not verify_cache(b).problems


def sftp(server, path: Path, port: int | None = None) -> Remote:
    url = f"sftp://ann:secret@127.0.0.1:{port or server.port}/{path.name}"
    return Remote(url, new_host_keys=True)


# A local path: a USB disk, a mounted share


@pytest.mark.parametrize("what", ["s.mp4", "cam1"])
def test_a_folder_of_something_else_does_not_become_a_cache(cache, tmp_path, what) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    (videos / what).touch() if "." in what else (videos / what).mkdir()
    (videos / "labels.csv").write_text("video,split,category,anomaly\ns.mp4,train,,0:5\n")
    before = sorted(path.name for path in videos.iterdir())
    with pytest.raises(CacheError, match=f"neither empty nor a feature cache .found {what}"):
        push_cache(cache, Remote(str(videos)))
    with pytest.raises(CacheError, match=f"neither empty nor a feature cache .found {what}"):
        FeatureCache.create(videos)
    assert sorted(path.name for path in videos.iterdir()) == before
    (tmp_path / "disk" / "lost+found").mkdir(parents=True)
    assert FeatureCache.create(tmp_path / "disk").videos() == []
    shutil.rmtree(cache.path / "index")
    (cache.path / "feat-cache.json").unlink()  # what rsync of a part brings is completed
    assert features(FeatureCache.create(cache.path))


def test_push_to_a_path_then_pull_gives_the_same(cache, other, tmp_path) -> None:
    url = str(tmp_path / "disk" / "features")
    report = push_cache(cache, Remote(url), reread=True)
    assert (report.shards, report.already, report.labels) == (NUM_VIDEOS, 0, 1)
    assert report.nbytes == sum(p.stat().st_size for p in cache.shards_dir.iterdir())
    assert same(cache, FeatureCache(url))
    assert pull_cache(other, Remote(url)).shards == NUM_VIDEOS
    assert same(cache, other)
    assert read_labels(other.labels_path) == read_labels(cache.labels_path)


def test_only_what_is_missing_is_sent(cache, tmp_path) -> None:
    remote = Remote(f"file://{tmp_path}/disk")
    push_cache(cache, remote)
    fill(cache, NUM_VIDEOS, 2)
    report = push_cache(cache, remote)
    assert (report.shards, report.already) == (2, NUM_VIDEOS)
    assert push_cache(cache, remote).shards == 0


def test_compacted_shards_are_not_sent_again(cache, other, tmp_path) -> None:
    remote = Remote(str(tmp_path / "disk"))
    push_cache(cache, remote)
    pull_cache(other, remote)
    compact_cache(cache)
    report = push_cache(cache, remote)
    assert (report.shards, report.already) == (0, 1)
    compact_cache(FeatureCache(tmp_path / "disk"))
    report = pull_cache(other, remote)
    assert (report.shards, report.already) == (0, 1)


def test_an_upload_cut_half_way_is_done_again(cache, tmp_path) -> None:
    remote = Remote(str(tmp_path / "disk"))
    push_cache(cache, remote)
    victim = next((tmp_path / "disk" / "shards").glob("*.h5"))
    victim.write_bytes(victim.read_bytes()[:1000])
    assert push_cache(cache, remote).shards == 1
    assert same(cache, FeatureCache(tmp_path / "disk"))


def test_a_shard_damaged_here_is_not_sent(cache, tmp_path) -> None:
    bad = next(cache.shards_dir.glob("*.h5"))
    data = bytearray(bad.read_bytes())
    data[-1] ^= 1
    bad.write_bytes(data)
    report = push_cache(FeatureCache(cache.path), Remote(str(tmp_path / "disk")))
    assert report.damaged == [bad.name]
    assert report.shards == NUM_VIDEOS - 1
    assert not (tmp_path / "disk" / "shards" / bad.name).exists()
    args = ["push", str(tmp_path / "disk"), "--cache", str(cache.path)]
    result = CliRunner().invoke(cache_group, args)
    assert result.exit_code == 1
    assert bad.name in result.stderr


# Nothing of the other side is trusted


def bit_flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def absurd(path: Path) -> None:
    reseal(path, lambda t: t["records"][0]["features"].update(shape=[10**12, 512]))


def hostile_name(path: Path) -> None:
    reseal(path, lambda t: t["records"][0]["source"].update(name="../../x"))
    path.rename(path.with_name(f"{'0' * 64}.h5"))


@pytest.mark.parametrize("damage", [bit_flip, truncated, absurd, hostile_name])
def test_damaged_shards_there_are_refused_and_the_others_come(cache, other, damage) -> None:
    damage(sorted(cache.shards_dir.glob("*.h5"))[0])
    report = pull_cache(other, Remote(str(cache.path)))
    assert len(report.damaged) == 1
    assert report.shards == NUM_VIDEOS - 1
    assert verify_cache(other).problems == []


def test_a_shard_whose_every_checksum_is_forged_is_refused_by_its_structure(cache, other) -> None:
    path = sorted(cache.shards_dir.glob("*.h5"))[0]
    reseal(path, lambda t: t["records"][0]["features"].update(shape=[10**12, 512]))
    reseal_structure_or_skip(path)
    report = pull_cache(other, Remote(str(cache.path)))
    assert len(report.damaged) == 1


def reseal_structure_or_skip(path: Path) -> None:
    try:
        reseal_structure(path)
    except CacheError:
        path.rename(path.with_name(f"{sha256_of(path.name)}.h5"))


def test_odd_files_there_are_left_alone(cache, other) -> None:
    (cache.shards_dir / "evil.sh").write_text("rm -rf /")
    (cache.shards_dir / f"{'0' * 64}.h5").symlink_to("/etc/passwd")
    (cache.path / "names" / "evil.jsonl").write_text("x")
    (cache.path / "names" / f"{'0' * 64}.jsonl").write_text("x")
    (cache.path / "index" / f"{'0' * 64}.rows").write_text("x")
    report = pull_cache(other, Remote(str(cache.path)))
    assert report.shards == NUM_VIDEOS
    assert report.damaged == [f"{'0' * 64}.jsonl"]  # links are not followed
    assert sorted(os.listdir(other.path / "shards")) == sorted(
        path.name for path in cache.shards_dir.iterdir() if path.is_file() and not path.is_symlink()
        and path.name != "evil.sh"
    )  # fmt: skip
    assert verify_cache(other).problems == []


def test_no_cache_and_newer_caches_are_refused(other, tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CacheError, match="no feature cache there"):
        pull_cache(other, Remote(str(tmp_path / "empty")))
    (tmp_path / "empty" / "feat-cache.json").write_text('{"format": "feat cache", "version": 9}')
    for transfer in (pull_cache, push_cache):
        with pytest.raises(CacheError, match="cache format 9, this build reads 1; upgrade"):
            transfer(other, Remote(str(tmp_path / "empty")))


def test_contradictions_are_refused_before_anything_is_fetched(cache, other) -> None:
    other.write([make_record("x.mp4", config=make_config(clip_stride=8))])
    with pytest.raises(CacheError, match=r"nothing pulled, .*clip_stride"):
        pull_cache(other, Remote(str(cache.path)))
    assert len(FeatureCache(other.path)) == 1
    pull_cache(other, Remote(str(cache.path)), allow_mixed=True)
    other.set_names({"d/0.mp4": name("other content")})
    shutil.rmtree(other.path / "names")
    (other.path / "names").mkdir()
    again = FeatureCache(other.path)
    again.set_names({"d/0.mp4": name("other content")})
    with pytest.raises(CacheError, match=r"d/0\.mp4: content .*--latest-names"):
        pull_cache(again, Remote(str(cache.path)), allow_mixed=True)


def test_contradictions_are_refused_before_anything_is_sent(cache, other, tmp_path) -> None:
    """Ann and Bob push to one server: neither takes over a name, a label or the configuration."""
    server = tmp_path / "disk"
    push_cache(cache, Remote(str(server)))
    before = {path: path.read_bytes() for path in server.rglob("*") if path.is_file()}
    other.write([make_record("bob's", sha256="cd" * 32)])
    other.set_names({"d/0.mp4": NameEntry(sha256="cd" * 32, size=9, mtime_ns=9, origin="b" * 16)})
    with pytest.raises(CacheError, match=r"nothing pushed, 1 conflicts: d/0\.mp4: .*latest-names"):
        push_cache(other, Remote(str(server)))
    command = ["push", str(server), "--cache", str(other.path)]
    assert CliRunner().invoke(cache_group, command).exit_code == 1
    write_labels(other.labels_path, [VideoLabel(video="d/0.mp4", split="test")])
    with pytest.raises(CacheError, match=r"1 labels differ: .*d/0\.mp4"):
        push_cache(other, Remote(str(server)), latest_names=True)
    other.labels_path.unlink()
    other.write([make_record("x.mp4", config=make_config(clip_stride=8))])
    with pytest.raises(
        CacheError, match=r"nothing pushed, .*clip_stride.*--allow-mixed keeps both"
    ):
        push_cache(other, Remote(str(server)), latest_names=True)
    assert {path: path.read_bytes() for path in server.rglob("*") if path.is_file()} == before
    assert CliRunner().invoke(cache_group, [*command, "--latest-names"]).exit_code == 1
    done = CliRunner().invoke(cache_group, [*command, "--latest-names", "--allow-mixed"])
    assert done.exit_code == 0, done.output
    assert FeatureCache(server).content("d/0.mp4") == "cd" * 32


def test_a_folder_contradicts_not_itself(cache, other, tmp_path) -> None:
    """What the folder of a name says of it later, or said before, takes no name over."""
    server = tmp_path / "disk"
    for number, sha256 in enumerate(("ab" * 32, "cd" * 32)):
        entry = NameEntry(sha256=sha256, size=9, mtime_ns=number, origin="a" * 16)
        cache.write([make_record(f"cam {number}", sha256=sha256)])
        cache.set_names({"cam.mp4": entry})
        if number:  # as after many extractions, when the small files of names were merged
            cache._names.merge_files([path.name for path in (cache.path / "names").iterdir()])
        push_cache(cache, Remote(str(server)))
        pull_cache(other, Remote(str(server)))
        assert FeatureCache(other.path).content("cam.mp4") == sha256


def test_labels_that_contradict_are_refused(cache, other) -> None:
    write_labels(other.labels_path, [VideoLabel(video="d/0.mp4", split="test")])
    with pytest.raises(CacheError, match=r"1 labels differ: .*d/0\.mp4"):
        pull_cache(other, Remote(str(cache.path)))


# SFTP


@pytest.fixture
def sftp_server(tmp_path):
    (tmp_path / "server").mkdir()
    server = SftpServer(tmp_path / "server")
    yield server
    server.close()


def test_sftp_push_and_pull(cache, other, tmp_path, sftp_server) -> None:
    folder = tmp_path / "server" / "features"
    assert push_cache(cache, sftp(sftp_server, folder), reread=True).shards == NUM_VIDEOS
    assert same(cache, FeatureCache(folder))
    assert pull_cache(other, sftp(sftp_server, folder)).shards == NUM_VIDEOS
    assert same(cache, other)


@pytest.mark.slow
def test_sftp_goes_on_when_connections_are_cut(
    cache, other, tmp_path, sftp_server, monkeypatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    folder = tmp_path / "server" / "features"
    for transfer, target in ((push_cache, cache), (pull_cache, other)):
        proxy = CuttingProxy(sftp_server.port, cut_after=15_000, cuts=3)
        report = transfer(target, sftp(sftp_server, folder, proxy.port))
        assert proxy.cuts_left == 0
        assert report.shards == NUM_VIDEOS
        proxy.close()
    assert same(cache, other)
    assert not list((folder / "shards").glob(".tmp-*"))


@pytest.mark.slow
def test_sftp_that_stays_away_is_an_error_and_the_next_try_goes_on(
    cache, tmp_path, sftp_server, monkeypatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    folder = tmp_path / "server" / "features"
    monkeypatch.setattr("cache.exchange.connections.CONNECTIONS", 2)
    proxy = CuttingProxy(sftp_server.port, cut_after=60_000, cuts=1000, then=100)
    remote = sftp(sftp_server, folder, proxy.port)
    with pytest.raises(CacheError, match="what has arrived is kept, the same command"):
        push_cache(cache, remote)
    proxy.close()
    whole = list((folder / "shards").glob("[0-9a-f]*.h5"))
    assert 0 < len(whole) < NUM_VIDEOS
    report = push_cache(cache, sftp(sftp_server, folder))
    assert report.already == len(whole)
    assert report.shards == NUM_VIDEOS - len(whole)
    assert same(cache, FeatureCache(folder))


def test_connections_share_the_work_and_its_order_stays(sftp_server, tmp_path) -> None:
    remote = sftp(sftp_server, tmp_path / "server" / "features")
    meeting = threading.Barrier(4)  # nobody goes on before four are at it

    def work(connection: Remote, number: int) -> tuple[int, Remote]:
        if number < 4:
            meeting.wait(30)
        return number, connection

    items, found = zip(*over_connections(remote, range(20), work), strict=True)
    numbers, connections = zip(*found, strict=True)
    assert items == numbers == tuple(range(20))
    assert 4 <= len(set(connections)) <= 8
    assert remote not in connections


def test_where_one_connection_fails_the_others_end_first(sftp_server, tmp_path) -> None:
    remote = sftp(sftp_server, tmp_path / "server" / "features")
    meeting, ended = threading.Barrier(2), []

    def work(connection: Remote, number: int) -> None:
        if number < 2:
            meeting.wait(30)
        if number == 0:
            raise CacheError("the disk is full")
        time.sleep(0.3)
        ended.append(number)

    with pytest.raises(CacheError, match="the disk is full"):
        list(over_connections(remote, range(100), work))
    before = list(ended)
    assert 1 in before
    time.sleep(0.4)
    assert ended == before


def test_ctrl_c_gives_up_what_is_under_way(cache, other, tmp_path) -> None:
    """At once, and nothing that was begun is left."""
    pytest.importorskip("aiohttp")
    push_cache(cache, Remote(str(tmp_path / "www")))
    server = HttpServer(tmp_path / "www")
    proxy = DrippingProxy(server.port, after=60_000)  # among the shards
    threading.Timer(3, os.kill, [os.getpid(), signal.SIGINT]).start()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        pull_cache(other, Remote(f"http://127.0.0.1:{proxy.port}"))
    assert time.monotonic() - started < 60
    assert not list(other.shards_dir.glob(".tmp-*"))
    proxy.close()
    server.close()


def test_a_server_that_admits_few_is_worked_on_with_those(
    cache, other, tmp_path, sftp_server, monkeypatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    folder = tmp_path / "server" / "features"
    sftp_server.most = 3
    assert push_cache(cache, sftp(sftp_server, folder)).shards == NUM_VIDEOS
    # all but one connection have been closed
    assert pull_cache(other, sftp(sftp_server, folder)).shards == NUM_VIDEOS
    assert same(cache, other)
    sftp_server.most = 0
    with pytest.raises(CacheError, match="cannot connect"):
        sftp(sftp_server, folder)


def test_sftp_servers_must_be_known(tmp_path, sftp_server, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    url = f"sftp://ann:secret@127.0.0.1:{sftp_server.port}/features"
    with pytest.raises(CacheError, match="not found in known_hosts"):
        Remote(url)
    sftp_server.make_known(tmp_path)
    Remote(url)
    with pytest.raises(CacheError, match="cannot connect") as caught:
        Remote(url.replace("secret", "wrong"))
    assert "wrong" not in str(caught.value)
    assert "ann@127.0.0.1" in str(caught.value)


# HTTP, for pull


@pytest.mark.parametrize("listing", quick_first([True, False]))
def test_http_pull(cache, other, tmp_path, listing) -> None:
    pytest.importorskip("aiohttp")
    push_cache(cache, Remote(str(tmp_path / "www")))
    server = HttpServer(tmp_path / "www", listing=listing)
    if listing:
        (tmp_path / "www" / "listing.json").unlink()
    try:
        report = pull_cache(other, Remote(f"http://127.0.0.1:{server.port}"))
        assert report.shards == NUM_VIDEOS
        assert same(cache, other)
        with pytest.raises(CacheError, match="HTTP servers are read-only"):
            push_cache(cache, Remote(f"http://127.0.0.1:{server.port}"))
    finally:
        server.close()


@pytest.mark.slow
def test_http_goes_on_when_connections_are_cut(cache, other, tmp_path, monkeypatch) -> None:
    pytest.importorskip("aiohttp")
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    push_cache(cache, Remote(str(tmp_path / "www")))
    server = HttpServer(tmp_path / "www")
    proxy = CuttingProxy(server.port, cut_after=20_000, cuts=3)
    try:
        report = pull_cache(other, Remote(f"http://127.0.0.1:{proxy.port}"))
    finally:
        server.close()
        proxy.close()
    assert proxy.cuts_left == 0
    assert report.shards == NUM_VIDEOS
    assert report.damaged == []
    assert same(cache, other)


# Rude servers


def test_where_nothing_is_there_nothing_has_arrived(other, monkeypatch) -> None:
    pytest.importorskip("aiohttp")
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with pytest.raises(CacheError, match="check the address, and that the server") as caught:
        pull_cache(other, Remote("http://127.0.0.1:9/features"))
    assert "has arrived" not in str(caught.value)
    assert "ssl" not in str(caught.value)


def test_http_without_a_size_says_so_at_once(tmp_path) -> None:
    pytest.importorskip("aiohttp")
    (tmp_path / "www").mkdir()
    (tmp_path / "www" / "file").write_bytes(b"content")
    server = HttpServer(tmp_path / "www", tells_sizes=False)
    try:
        remote = Remote(f"http://127.0.0.1:{server.port}")
        with pytest.raises(CacheError, match="the server does not tell the size of file"):
            remote.size("file")
        assert server.requests == ["/file"]
        assert remote.read_small("file", 10) == b"content"
    finally:
        server.close()


# in an array, a table, the first answer
@pytest.mark.parametrize("after", quick_first([30_000, 3_000, 10]))
def test_http_that_drips_ends(cache, other, tmp_path, monkeypatch, after) -> None:
    pytest.importorskip("aiohttp")
    push_cache(cache, Remote(str(tmp_path / "www")))
    monkeypatch.setenv("FEAT_STALL_SECONDS", "0.3")
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    server = HttpServer(tmp_path / "www")
    proxy = DrippingProxy(server.port, after=after)
    try:
        with pytest.raises(CacheError, match=r"less than \d+ KiB a second for 0\.3 s .*FEAT_STALL"):
            pull_cache(other, Remote(f"http://127.0.0.1:{proxy.port}"))
    finally:
        proxy.close()
        server.close()
    assert verify_cache(other).problems == []


@pytest.mark.slow
def test_sftp_that_drips_ends(cache, other, tmp_path, sftp_server, monkeypatch) -> None:
    folder = tmp_path / "server" / "features"
    push_cache(cache, Remote(str(folder)))
    monkeypatch.setenv("FEAT_STALL_SECONDS", "0.5")
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    proxy = DrippingProxy(sftp_server.port, after=30_000)
    remote = sftp(sftp_server, folder, proxy.port)
    # whether a read or the making of another connection is given up first is chance
    with pytest.raises(CacheError, match=r"less than \d+ KiB a second for 0\.5 s .*FEAT_STALL"):
        pull_cache(other, remote)
    proxy.close()
    assert verify_cache(other).problems == []


@pytest.mark.parametrize("text", ["soon", "0", "-1", "nan", "inf"])
def test_a_stall_time_that_is_none_is_refused(tmp_path, monkeypatch, text) -> None:
    monkeypatch.setenv("FEAT_STALL_SECONDS", text)
    with pytest.raises(ConfigError, match=f"FEAT_STALL_SECONDS: found '{text}', expected seconds"):
        Remote(str(tmp_path))


@pytest.mark.slow
def test_http_may_send_on_to_its_own_folders_only(cache, other, tmp_path) -> None:
    pytest.importorskip("aiohttp")
    push_cache(cache, Remote(str(tmp_path / "www")))
    elsewhere = HttpServer(tmp_path / "www")
    target = f"http://127.0.0.1:{elsewhere.port}"
    away = HttpServer(tmp_path / "www", sends_on=target)
    within = HttpServer(tmp_path / "www", sends_on="/.")
    try:
        with pytest.raises(CacheError) as caught:
            pull_cache(other, Remote(f"http://127.0.0.1:{away.port}/old"))
        assert f"sends on to another server, {target}/feat-cache.json" in str(caught.value)
        assert elsewhere.requests == []
        report = pull_cache(other, Remote(f"http://127.0.0.1:{within.port}/old"))
    finally:
        for server in (elsewhere, away, within):
            server.close()
    assert report.shards == NUM_VIDEOS
    assert same(cache, other)


@pytest.mark.parametrize("size", quick_first([1 << 40, 0, -1]))
def test_shards_of_no_possible_size_are_refused_by_name(cache, tmp_path, size) -> None:
    pytest.importorskip("aiohttp")
    push_cache(cache, Remote(str(tmp_path / "www")))
    listing = json.loads((tmp_path / "www" / "listing.json").read_text())
    bad = sorted(listing["shards"])[0]
    listing["shards"][bad] = size
    (tmp_path / "www" / "listing.json").write_text(json.dumps(listing))
    server = HttpServer(tmp_path / "www")
    try:
        arguments = ["pull", f"http://127.0.0.1:{server.port}", "--cache", str(tmp_path / "new")]
        result = CliRunner().invoke(cache_group, arguments)
    finally:
        server.close()
    assert result.exit_code == 1
    assert f"refused, damaged: {bad}" in result.stderr
    assert f"{NUM_VIDEOS - 1} shards (" in result.stdout


# S3


@pytest.fixture(scope="module")
def s3_port():
    pytest.importorskip("s3fs")
    server_module = pytest.importorskip(
        "moto.server", reason="needs moto: pip install 'moto[server]'"
    )
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield server.get_host_and_port()[1]
    server.stop()


def s3(port: int, bucket: str) -> Remote:
    options = {"key": "k", "secret": "s", "endpoint_url": f"http://127.0.0.1:{port}"}
    return Remote(f"s3://{bucket}/features", options)


def make_bucket(port: int, bucket: str) -> None:
    s3(port, bucket)._fs.mkdir(bucket)


@pytest.mark.slow  # the server alone takes seconds to import
def test_s3_push_and_pull(cache, other, s3_port) -> None:
    make_bucket(s3_port, "plain")
    # the folder itself, as a console makes it; then something of somebody else's
    s3(s3_port, "plain")._fs.call_s3("put_object", Bucket="plain", Key="features/", Body=b"")
    assert s3(s3_port, "plain").names() == ()
    assert push_cache(cache, s3(s3_port, "plain"), reread=True).shards == NUM_VIDEOS
    assert push_cache(cache, s3(s3_port, "plain")).shards == 0
    assert pull_cache(other, s3(s3_port, "plain")).shards == NUM_VIDEOS
    assert same(cache, other)


@pytest.mark.slow
def test_s3_goes_on_when_connections_are_cut(cache, other, s3_port) -> None:
    make_bucket(s3_port, "cut")
    for transfer, target in ((push_cache, cache), (pull_cache, other)):
        proxy = CuttingProxy(s3_port, cut_after=20_000, cuts=3)
        assert transfer(target, s3(proxy.port, "cut")).shards == NUM_VIDEOS
        assert proxy.cuts_left == 0
        proxy.close()
    assert same(cache, other)


# The commands


def test_commands(cache, tmp_path) -> None:
    url = str(tmp_path / "disk")
    result = CliRunner().invoke(cache_group, ["push", url, "--cache", str(cache.path), "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["shards"] == NUM_VIDEOS
    result = CliRunner().invoke(cache_group, ["pull", url, "--cache", str(tmp_path / "new")])
    assert result.exit_code == 0, result.output
    assert "6 shards (" in result.stdout
    assert same(cache, FeatureCache(tmp_path / "new"))
    bad = CliRunner().invoke(cache_group, ["pull", url, "--option", "x"])
    assert bad.exit_code == 2


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("sftp://host/there", "sftp needs paramiko: pip install paramiko"),
        ("https://host/there", "https needs aiohttp: pip install aiohttp"),
        ("gs://bucket/there", "gs fails: .*gcsfs"),
    ],
)
def test_a_package_that_is_missing_is_named(url, message, monkeypatch) -> None:
    for package in ("paramiko", "aiohttp", "gcsfs"):
        monkeypatch.setitem(sys.modules, package, None)  # as where it is not installed
    for module in ("sftp", "http", "gcsfs"):
        monkeypatch.delitem(sys.modules, f"fsspec.implementations.{module}", raising=False)
    with pytest.raises(CacheError, match=message):
        Remote(url)


def test_unknown_protocols_are_an_error() -> None:
    with pytest.raises(CacheError, match=r"nonsense://x: cannot connect: .*[Pp]rotocol"):
        Remote("nonsense://x")
