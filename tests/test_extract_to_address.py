"""`feat extract --cluster ... --cache s3://...`: workers send features, the driver keeps none."""

import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import test_extract_concurrent
import torch
from cache_servers import SftpServer
from click.testing import CliRunner
from cluster_servers import Dask
from test_cache_transfer import make_bucket, s3_port  # noqa: F401 - a fixture
from test_extract_backbones import COLOUR, SMALL, Drawn
from test_extract_concurrent import NUM_VIDEOS, assert_as_alone, finish, start

from cache import FeatureCache
from cache.exchange.mirror import mirrored
from cache.exchange.remote import Remote
from cache.exchange.transfer import pull_cache
from cache.upkeep.verify import verify_cache
from data.clusters.engine import Item, Lost, Prepare, Result
from data.errors import ConfigError
from extract.backbones import BACKBONES
from extract.config import ExtractConfig
from extract.run.report import ExtractReport
from extract.run.runner import run_extraction
from feat import cli

folder = test_extract_concurrent.folder  # the fixture

pytestmark = pytest.mark.filterwarnings(  # of the server's libraries, not of ours
    "ignore::DeprecationWarning:(botocore|moto|s3fs|werkzeug).*"
)


class Here:
    """A cluster of one worker, which is this process."""

    def run(
        self, prepare: Prepare[Item, Result], items: Iterable[Item]
    ) -> Iterator[tuple[Item, Result | Lost]]:
        ready = prepare(1)
        for item in items:
            yield item, ready.call(item, threading.Event())


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Register the stream `colour`; gives a list that grows by each clip."""
    clips: list[int] = []

    def colour(batch: torch.Tensor) -> torch.Tensor:
        clips.append(len(batch))
        return COLOUR.function(batch)

    backbone: Any = Drawn("colour", "frames", (3,), colour)
    monkeypatch.setitem(BACKBONES, "colour", backbone)
    monkeypatch.setattr("extract.run.job._extractors", {})
    threads = torch.get_num_threads()
    yield clips
    torch.set_num_threads(threads)


CONFIG = {"streams": ("colour",), "decode": SMALL}


@pytest.fixture
def videos(tmp_path: Path, make_video) -> Path:
    for number in range(2):
        make_video(tmp_path / "videos" / f"{number}.mp4", num_frames=20 + number)
    (tmp_path / "videos" / "labels.csv").write_text(
        "video,split,category,anomaly\n0.mp4,train,Fire,\n1.mp4,test,Fire,0:9\n"
    )
    return tmp_path / "videos"


def extract_to(address: str, videos: Path, **options: Any) -> ExtractReport:
    config = ExtractConfig(**{**CONFIG, **options})
    with mirrored(Remote(address)) as mirror:
        report = run_extraction(
            videos, mirror, config, cluster=Here(), address=address, thumbnails=False
        )
        assert not any(
            FeatureCache(mirror).shards_dir.joinpath(name).stat().st_blocks * 512 > 1 << 16
            for name in FeatureCache(mirror).shards()
        )
    return report


def test_features_names_and_labels_are_there_and_are_not_made_again(
    videos: Path, tmp_path: Path, computed: list[int]
) -> None:
    address = f"file://{tmp_path / 'there'}"
    report = extract_to(address, videos)
    assert (report.done, report.failed) == (2, [])
    assert len(computed) == 4
    run_extraction(videos, tmp_path / "here", ExtractConfig(**CONFIG), thumbnails=False)
    computed.clear()
    # what is there is a cache: as it is, and when it has been pulled
    pulled = FeatureCache.create(tmp_path / "pulled")
    pull_cache(pulled, Remote(address))
    here = FeatureCache(tmp_path / "here")
    for cache in (FeatureCache(tmp_path / "there"), pulled):
        assert verify_cache(cache).problems == []
        assert cache.videos() == here.videos() == ["0.mp4", "1.mp4"]
        assert cache.labels_path.read_bytes() == here.labels_path.read_bytes()
        for video in here.videos():
            np.testing.assert_array_equal(cache.read(video, "colour"), here.read(video, "colour"))
    again = extract_to(address, videos)
    assert (again.done, again.skipped, computed) == (0, 2, [])


def test_a_driver_that_was_killed_has_nothing_made_again(
    videos: Path, tmp_path: Path, computed: list[int]
) -> None:
    """It sends names when it ends: without, videos are hashed again."""
    address = f"file://{tmp_path / 'there'}"
    extract_to(address, videos)
    for path in (tmp_path / "there" / "names").iterdir():
        path.unlink()
    computed.clear()
    report = extract_to(address, videos)
    assert (report.done, report.skipped, computed) == (0, 2, [])
    assert list((tmp_path / "there" / "names").iterdir())


def test_another_configuration_is_refused_and_the_address_named(
    videos: Path, tmp_path: Path, computed: list[int]
) -> None:
    address = f"file://{tmp_path / 'there'}"
    extract_to(address, videos)
    with pytest.raises(ConfigError) as refused:
        extract_to(address, videos, clip_stride=8)
    assert str(refused.value).startswith(f"{address}: ")


def test_a_damaged_shard_there_counts_as_missing(
    videos: Path, tmp_path: Path, computed: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    address = f"file://{tmp_path / 'there'}"
    extract_to(address, videos)
    first, _ = sorted((tmp_path / "there" / "shards").iterdir())
    content = bytearray(first.read_bytes())
    content[300] ^= 1  # in its table
    first.write_bytes(content)
    computed.clear()
    assert extract_to(address, videos).done == 1
    assert len(computed) == 2
    assert "counts as missing" in caplog.text


def test_without_a_cluster_it_is_refused(tmp_path: Path, make_video) -> None:
    make_video(tmp_path / "videos" / "a.mp4", num_frames=8)
    command = ["extract", str(tmp_path / "videos"), "--cache", "s3://bucket/features"]
    done = CliRunner().invoke(cli, command)
    assert done.exit_code == 2
    assert "feat cache push s3://bucket/features" in done.stderr


def test_a_dry_run_writes_nothing_there(tmp_path: Path, make_video) -> None:
    pytest.importorskip("distributed", reason="needs Dask: pip install distributed")
    make_video(tmp_path / "videos" / "a.mp4", num_frames=8)
    address = f"file://{tmp_path / 'there'}"
    command = ["extract", str(tmp_path / "videos"), "--cache", address, "--dry-run"]
    done = CliRunner().invoke(cli, [*command, "--cluster", "dask", "--scheduler", "tcp://x:1"])
    assert done.exit_code == 0, done.output
    assert f"would extract 1, 0 already there, 0 refused -> {address}" in done.stdout
    assert not (tmp_path / "there").exists()


@pytest.fixture(params=["s3", "sftp"])
def server(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Remote]:
    """An empty folder on a server that all processes may write to."""
    if request.param == "s3":
        port = request.getfixturevalue("s3_port")
        make_bucket(port, "sent")
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
        yield Remote("s3://sent/features")
        return
    (tmp_path / "served").mkdir()
    sftp = SftpServer(tmp_path / "served")
    monkeypatch.setenv("HOME", str(tmp_path))
    sftp.make_known(tmp_path)
    yield Remote(f"sftp://ann:secret@127.0.0.1:{sftp.port}/features")
    sftp.close()


@pytest.mark.slow
def test_workers_of_dask_send_to_a_server(
    folder: Path, random_rgb_weights: Path, tmp_path: Path, server: Remote
) -> None:
    pytest.importorskip("distributed", reason="needs Dask: pip install distributed")
    address = server.url.replace("ann@", "ann:secret@")
    with ExitStack() as killed:
        dask = Dask(tmp_path, killed)
        for _ in range(2):
            dask.start_worker()
        options = (*dask.options, "--thumbnails", "--cache", address)
        report = finish(start(folder, "unused", random_rgb_weights, *options))
        assert (report["done"], report["cache"]) == (NUM_VIDEOS, server.url)
        again = finish(start(folder, "unused", random_rgb_weights, *options))
        assert (again["done"], again["skipped"]) == (0, NUM_VIDEOS)
    assert not (folder / "unused").exists()
    pulled = f"pulled-{server.protocol}"
    pull_cache(FeatureCache.create(folder / pulled), server)
    assert_as_alone(folder, pulled)
