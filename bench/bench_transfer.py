"""`feat cache pull` from a server that takes a while to answer: one connection against several.

Every answer of the HTTP server on this machine is held back, as one that is far away would be late.

Run: python -m bench.bench_transfer [--shards N] [--delay MS]
"""

import argparse
import http.server
import tempfile
import threading
import time
from functools import partial
from pathlib import Path

from bench.bench_cache import make_record
from cache import FeatureCache
from cache.exchange import connections
from cache.exchange.remote import Remote
from cache.exchange.transfer import pull_cache, push_cache


class LateHandler(http.server.SimpleHTTPRequestHandler):
    delay = 0.0

    def do_GET(self) -> None:
        time.sleep(self.delay)
        super().do_GET()

    def log_message(self, format: str, *args: object) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=200)
    parser.add_argument("--delay", type=float, default=40.0, help="milliseconds")
    options = parser.parse_args()
    LateHandler.delay = options.delay / 1000
    with tempfile.TemporaryDirectory(prefix="feat-bench-") as folder:
        root = Path(folder)
        cache = FeatureCache.create(root / "here")
        for number in range(options.shards):
            cache.write([make_record(number, "rgb", 10, 1024)])
        push_cache(cache, Remote(str(root / "www")))
        handler = partial(LateHandler, directory=str(root / "www"))
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print("| connections | s | ms a shard |\n|---:|---:|---:|")
        for count in (1, connections.HTTP_CONNECTIONS):
            connections.HTTP_CONNECTIONS = count
            other = FeatureCache.create(root / f"pulled-{count}")
            begin = time.perf_counter()
            report = pull_cache(other, Remote(f"http://127.0.0.1:{server.server_address[1]}"))
            seconds = time.perf_counter() - begin
            assert report.shards == options.shards
            each = seconds / options.shards * 1000
            print(f"| {count} | {seconds:.1f} | {each:.0f} |", flush=True)


if __name__ == "__main__":
    main()
