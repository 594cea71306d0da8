import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest
from cache_samples import sha256_of

from cache import FeatureCache
from data.errors import CacheError

KEY = sha256_of("video")


@pytest.fixture
def cache(tmp_path) -> FeatureCache:
    return FeatureCache.create(tmp_path / "features")


def age(cache, seconds: float) -> None:
    """Make the claim look as if it had last been renewed `seconds` ago."""
    past = time.time() - seconds
    os.utime(cache.path / "claims" / f"{KEY}.claim", (past, past))


def test_only_one_has_it_and_it_is_free_afterwards(cache) -> None:
    with cache.claim(KEY) as mine:
        assert mine
        with FeatureCache(cache.path).claim(KEY) as theirs:
            assert not theirs
            assert f"process {os.getpid()}" in theirs.owner
        with cache.claim(sha256_of("other")) as other:
            assert other
        assert mine.renew()
    assert os.listdir(cache.path / "claims") == []
    with cache.claim(KEY) as again:
        assert again


def test_a_claim_is_given_back_after_an_exception(cache) -> None:
    with pytest.raises(ZeroDivisionError), cache.claim(KEY):
        raise ZeroDivisionError
    with cache.claim(KEY) as again:
        assert again


def test_an_expired_claim_is_taken_over_and_its_holder_notices(cache) -> None:
    with cache.claim(KEY, lease_seconds=60) as first:
        age(cache, 61)
        with cache.claim(KEY) as second:
            assert second
            assert not first.renew()
            assert not first
            first.release()
            assert second.renew()


def test_a_renewed_claim_does_not_expire(cache) -> None:
    with cache.claim(KEY, lease_seconds=60) as first:
        age(cache, 61)
        assert first.renew()
        with cache.claim(KEY) as second:
            assert not second


def test_a_clock_that_jumps_takes_no_claim_and_keeps_none(cache, monkeypatch) -> None:
    now = time.time()
    with cache.claim(KEY) as first:
        for jump in (-86400.0, 86400.0):
            monkeypatch.setattr(time, "time", lambda jump=jump: now + jump)
            with cache.claim(KEY) as second:
                assert not second
        monkeypatch.setattr(time, "time", lambda: now - 86400.0)
        age(cache, 86400)  # by the clock of the folder, which alone counts
        with cache.claim(KEY) as second:
            assert second
            assert not first.renew()


def test_claims_renew_themselves(cache) -> None:
    with cache.claim(KEY, lease_seconds=1.0) as first:
        time.sleep(1.6)
        with cache.claim(KEY) as second:
            assert not second
        assert first


def test_the_claim_of_a_killed_process_is_free_at_once(cache) -> None:
    code = (
        "import sys, time; from cache import FeatureCache as F; "
        "c = F(sys.argv[1]).claim(sys.argv[2], lease_seconds=86400); "
        "print(c.acquire(), flush=True); time.sleep(60)"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(cache.path), KEY], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "True\n"
    with cache.claim(KEY) as mine:
        assert not mine
    child.send_signal(signal.SIGKILL)
    child.communicate()
    with cache.claim(KEY) as mine:
        assert mine


@pytest.mark.parametrize("text", ["", "garbage", "[]", '{"lease_seconds": 1e300, "pid": "x"}'])
def test_an_unreadable_claim_expires_too(cache, text) -> None:
    (cache.path / "claims" / f"{KEY}.claim").write_text(text)
    with cache.claim(KEY) as mine:
        assert not mine
    age(cache, 301)
    with cache.claim(KEY) as mine:
        assert mine


def test_without_hard_links_claims_still_exclude(cache, monkeypatch) -> None:
    def no_link(*_args: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_link)
    with cache.claim(KEY) as mine, cache.claim(KEY) as theirs:
        assert mine
        assert not theirs


def _compete(path, rounds, wins) -> None:
    cache = FeatureCache(path)
    for number in range(rounds):
        name = sha256_of(str(number))
        claim = cache.claim(name, lease_seconds=3600)
        if claim.acquire():
            wins.put(name)
        # never released: the name stays taken while this process lives
    wins.put(None)
    time.sleep(30)


def test_of_three_competing_processes_exactly_one_wins_each(cache) -> None:
    context = multiprocessing.get_context("fork")
    wins = context.Queue()
    children = [context.Process(target=_compete, args=(cache.path, 40, wins)) for _ in range(3)]
    for child in children:
        child.start()
    names, done = [], 0
    while done < len(children):
        name = wins.get(timeout=60)
        done += name is None
        names += [name] if name else []
    for child in children:
        child.kill()
        child.join()
    assert sorted(names) == sorted(sha256_of(str(n)) for n in range(40))


def test_arguments_are_checked(cache) -> None:
    with pytest.raises(ValueError, match="64 hex digits"):
        cache.claim("../../etc/passwd")
    with pytest.raises(ValueError, match="a lease lasts"):
        cache.claim(KEY, lease_seconds=0)


def test_a_folder_that_cannot_be_written_is_a_clear_error(cache) -> None:
    os.rmdir(cache.path / "claims")
    (cache.path / "claims").write_text("in the way")
    with pytest.raises(CacheError, match="cannot claim work"), cache.claim(KEY):
        pass
