"""`feat doctor`: each thing that is missing or damaged is told with what to do about it."""

import http.server
import json
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from cache_samples import make_record
from click.testing import CliRunner, Result

from cache import FeatureCache
from data.ffmpeg import find_ffmpeg
from extract.doctor import LITTLE_BYTES, NO_BYTES, check_disks, check_network, check_weights_there
from extract.weights.convert import write_weights
from extract.weights.fetch import RGB_SHA256, weights_file
from feat import cli


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder, with a sound RGB network of one number in the weights folder beside it."""
    weights = tmp_path / "weights"
    header = {"stream": "rgb", "kind": "published", "name": "rgb", "digest": RGB_SHA256}
    state = {"x": np.ones(1, np.float32)}
    write_weights(weights_file(weights, "rgb", RGB_SHA256), state, header)
    monkeypatch.setenv("FEAT_WEIGHTS", str(weights))
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path / "home")
    return tmp_path / "home"


def doctor(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["doctor", "--offline", *map(str, arguments)])


def checks(*arguments: object) -> dict[str, dict[str, str]]:
    found = doctor(*arguments, "--json")
    assert found.stdout, found.output
    return {check["name"]: check for check in json.loads(found.stdout)["checks"]}


def test_a_sound_machine_has_no_failure_and_nothing_is_made(home: Path) -> None:
    found = doctor()
    assert found.exit_code == 0, found.output
    lines = [line.split(maxsplit=2) for line in found.stdout.splitlines() if line[0] != " "]
    assert {line[0] for line in lines} <= {"ok", "warn"}
    shown = {line[1]: line[2] for line in lines}
    assert shown["torch"].startswith(torch.__version__)
    assert find_ffmpeg() in shown["ffmpeg"]
    assert "CPU cores" in shown["gpu"] or torch.cuda.is_available()
    assert "feat extract makes it" in shown["cache"]
    assert "network" not in shown
    assert not list(home.iterdir())


def test_both_streams_weights_are_looked_for_and_read_whole(home: Path) -> None:
    found = checks()
    assert found["rgb weights"]["state"] == "ok"
    assert found["flow weights"]["state"] == "warn"
    assert "flow_imagenet.pt" in found["flow weights"]["found"]
    assert "feat weights fetch --stream flow" in found["flow weights"]["todo"]
    file = Path(found["rgb weights"]["found"])
    content = bytearray(file.read_bytes())
    content[-1] ^= 1  # of the array: the header is sound
    file.write_bytes(content)
    damaged = doctor("--json")
    assert damaged.exit_code == 1
    found = checks()["rgb weights"]
    assert found["state"] == "fail"
    assert "damaged on disk" in found["found"]
    assert "run feat weights fetch" in found["todo"]
    file.unlink()
    assert checks()["rgb weights"]["state"] == "warn"  # feat extract fetches them
    assert [each.state for each in check_weights_there(online=False)] == ["fail", "warn"]


def test_a_weights_folder_that_cannot_be_read_does_not_hide_the_rest(home: Path) -> None:
    (home.parent / "weights" / "rgb-0.safetensors").mkdir()
    found = checks()
    assert found["weights"]["state"] == "fail"
    assert "set FEAT_WEIGHTS to a folder" in found["weights"]["todo"]
    assert found["cache"]["state"] == "ok"


def test_an_ffmpeg_that_is_none_fails_with_what_to_do(home, monkeypatch) -> None:
    monkeypatch.setenv("FEAT_FFMPEG", "no-such-program")
    found = doctor()
    assert found.exit_code == 1
    assert "fail  ffmpeg        FEAT_FFMPEG=no-such-program: no such program" in found.stdout
    assert "-> correct or unset it" in found.stdout


def test_a_cache_is_counted_and_its_damage_told(home: Path) -> None:
    missing = checks("--cache", "features")["cache"]  # one that is named must be there
    assert missing["state"] == "fail"
    assert "make one with feat extract" in missing["todo"]
    cache = FeatureCache.create("features")
    cache.write([make_record("a/one.mp4"), make_record("a/one.mp4", "flow")])
    shard = cache.write([make_record("two.mp4")])
    assert "features: 2 videos, without labels.csv" in checks()["cache"]["found"]
    shard.write_bytes(shard.read_bytes()[:100])
    shutil.rmtree("features/index")
    found = checks()["cache"]
    assert found["state"] == "fail"
    assert f"1 damaged shards: {shard.name}" in found["found"]
    assert "feat cache verify features --repair" in found["todo"]


def test_disk_space_is_told_where_a_folder_will_be(home: Path) -> None:
    free = shutil.disk_usage(home).free
    there, temporary = check_disks({"cache": home / "not" / "yet"})
    assert f"free at {home}" in there.found
    expected = "fail" if free < NO_BYTES else "warn" if free < LITTLE_BYTES else "ok"
    assert there.state == expected
    assert temporary.name == "disk TMPDIR"


class _Answer(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.send_response(200 if self.path == "/weights" else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def host() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Answer)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_network_is_asked_for_the_weights(host: str) -> None:
    assert check_network(f"{host}/weights").state == "ok"
    gone = check_network(f"{host}/other")
    assert gone.state == "warn"
    assert "404" in gone.found


def test_no_host_and_one_that_is_silent_are_warnings() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/weights"
        refused = check_network(url)
        assert (refused.state, "ConnectionError" in refused.found) == ("warn", True)
        silent.listen()
        waited = check_network(url, seconds=0.2)
        assert waited.state == "warn"
        assert "no answer within 0.2 s" in waited.found or "Timeout" in waited.found
