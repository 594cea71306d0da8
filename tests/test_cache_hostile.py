"""Mutated and hostile shards: each reads with all checks passing, or is refused in one line."""

import copy
import hashlib
import json
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
from cache_samples import make_other, make_record

from cache.shard.read import HEADER
from cache.shard.write import write_shard

# Run in a child of its own, so that a crash, a hang or memory out of bounds is seen.
READER = """
import json, resource, sys
from pathlib import Path
from cache.shard.read import read_record, read_table
from data.errors import CacheError

limit = int(sys.argv[1])
read_table(Path(sys.argv[2]))  # everything imported and allocated before the limit is set
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
expected = json.loads(Path(sys.argv[3]).read_text())
for line in sys.stdin:
    path = Path(line.strip())
    try:
        table = read_table(path)
        found = {
            key: [
                record.features.tobytes().hex(),
                record.clips.to_array().tobytes().hex(),
                "" if record.bounds is None else record.bounds.tobytes().hex(),
            ]
            for key in table.records
            for record in [read_record(table, key)]
        }
        same = all(expected.get(key) == value for key, value in found.items())
        answer = "read" if same else "WRONG"
    except CacheError as error:
        one_line = str(error).startswith(str(path)) and "\\n" not in str(error)
        answer = "refused" if one_line and len(str(error)) < 1000 else f"UNCLEAR {error!r}"
    print(answer, flush=True)
"""


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Return one of many kinds of damaged or hostile shards."""
    kind = rng.randrange(10)
    out = bytearray(data)
    if kind == 0:  # bit flips
        for _ in range(rng.choice([1, 1, 2, 8, 64])):
            out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    elif kind == 1:  # truncated
        del out[rng.randrange(len(out)) :]
    elif kind == 2:  # something inserted, deleted or doubled
        at, size = rng.randrange(len(out)), rng.choice([1, 8, 512])
        piece = rng.choice([rng.randbytes(size), b"", bytes(out[at : at + size]) * 2])
        out[at : at + size] = piece
    elif kind == 3:  # a run of zeros or ones, as a torn page
        at, size = rng.randrange(len(out)), rng.choice([16, 512, 4096])
        out[at : at + size] = rng.choice([b"\0", b"\xff"]) * len(out[at : at + size])
    elif kind == 4:  # two pieces exchanged
        size = rng.choice([64, 512])
        a, b = rng.randrange(len(out) - size), rng.randrange(len(out) - size)
        out[a : a + size], out[b : b + size] = out[b : b + size], out[a : a + size]
    elif kind == 5:  # garbage of any size, with or without a right beginning
        out = bytearray(data[: rng.choice([0, 16, 92])] + rng.randbytes(rng.randrange(3000)))
    else:  # the table changed, its own checksum right
        out = bytearray(forge(data, rng))
    return bytes(out)


VALUES = [
    -1, 0, 1, 2**31, 2**32, 2**63, 10**30, 1e308, 0.5, True, None, "", "x" * 5000, "../../x",
    "\x00", [], {}, [[]], [10**12, 1024], [1, 1, 1], "object", "float16", "|O",
    "images", "crops", "uint8",
]  # fmt: skip


def forge(data: bytes, rng: random.Random) -> bytes:
    """Change some values of the table to hostile ones and make its checksum right."""
    length = int(data[16:26])
    table = json.loads(data[92 : 92 + length])
    for _ in range(rng.choice([1, 1, 2, 5])):
        node, parents = table, []
        while isinstance(node, dict | list) and node and (not parents or rng.random() < 0.8):
            key = rng.choice(list(node) if isinstance(node, dict) else range(len(node)))
            parents.append((node, key))
            node = node[key]
        holder, key = parents[-1]
        if isinstance(holder, dict) and rng.random() < 0.2:
            del holder[key]
        elif isinstance(holder, dict) and rng.random() < 0.1:
            holder[rng.choice(["extra", "__class__", "\x1b[31m"])] = 1
        elif isinstance(node, int) and not isinstance(node, bool) and rng.random() < 0.5:
            holder[key] = node + rng.choice([-64, -1, 1, 64, 2**40])
        else:
            holder[key] = copy.deepcopy(rng.choice(VALUES))
    text = json.dumps(table, separators=(",", ":")).encode()
    text = text.ljust(length) if rng.random() < 0.9 else text
    version = int(data[11:15]) if rng.random() < 0.95 else rng.randrange(9999)
    head = HEADER.format(
        version=version, table_len=len(text), table_sha256=hashlib.sha256(text).hexdigest()
    )
    return head.encode() + text + data[92 + length :]


def run_reader(tmp_path: Path, count: int, seed: int) -> dict[str, int]:
    records = [
        make_record("a.mp4"),
        make_record("a.mp4", "flow", flow_stats=True),
        make_other("crops", "ten", "a.mp4"),
        make_other("images", "thumbnails", "a.mp4"),
    ]
    good = write_shard(tmp_path, records)
    data = good.read_bytes()
    expected = {
        record.key: [
            record.features.tobytes().hex(),
            record.clips.to_array().tobytes().hex(),
            "" if record.bounds is None else record.bounds.tobytes().hex(),
        ]
        for record in records
    }
    (tmp_path / "expected.json").write_text(json.dumps(expected))
    limit = 1 << 30
    child = subprocess.Popen(
        [sys.executable, "-c", READER, str(limit), str(good), str(tmp_path / "expected.json")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    rng = random.Random(seed)
    path = tmp_path / ("1" * 64 + ".h5")
    counts: dict[str, int] = {}
    for number in range(count):
        path.write_bytes(mutate(data, rng))
        child.stdin.write(f"{path}\n")
        child.stdin.flush()
        answer = child.stdout.readline().strip()
        if answer not in ("read", "refused"):
            path.rename(tmp_path / "culprit.h5")
            child.kill()
            pytest.fail(f"mutation {number} of seed {seed}: {answer or 'the reader crashed'}")
        counts[answer] = counts.get(answer, 0) + 1
    # getrusage would count the process that forked the child, too
    status = Path(f"/proc/{child.pid}/status").read_text()
    peak = int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024
    child.stdin.close()
    assert child.wait(timeout=60) == 0
    child.stdout.close()
    assert 10_000_000 < peak < 2 * limit
    return counts


def test_400_mutated_shards(tmp_path) -> None:
    counts = run_reader(tmp_path, 400, seed=1)
    assert counts["refused"] > 300


@pytest.mark.slow
def test_10000_mutated_shards(tmp_path) -> None:
    counts = run_reader(tmp_path, 10_000, seed=2)
    assert counts["refused"] > 9000
