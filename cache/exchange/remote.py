"""A cache somewhere else: on a server, in object storage, on another disk, through fsspec.

Nothing that comes from there is trusted: names are checked before use, sizes bounded, and bytes
checked by whoever asked for them. A server may not take forever, nor send on to another one.
"""

import logging
import queue
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar, cast

from data.errors import CacheError
from data.process import stall_seconds

logger = logging.getLogger(f"feat.{__name__}")

T = TypeVar("T")

#: Protocols whose uploads appear whole or not at all; elsewhere a rename makes them so.
ATOMIC_PROTOCOLS = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "az", "memory"})
MAX_TRIES = 4
BLOCK = 1 << 18
PIECE = 8 << 20
#: Bytes a second, of all connections, below which one is given up.
MIN_RATE = 1 << 14
_PACKAGES = {
    "sftp": "paramiko",
    "ssh": "paramiko",
    "http": "aiohttp",
    "https": "aiohttp",
    "s3": "s3fs",
}


class Remote:
    """One folder behind an fsspec URL. Lost connections are made anew, a few times."""

    def __init__(
        self, url: str, options: Mapping[str, Any] | None = None, *, new_host_keys: bool = False
    ) -> None:
        """Connect to a folder; it need not exist.

        Args:
            url: a local path, sftp://user@host/path, s3://bucket/path, https://..., ...
            options: passed to the fsspec file system, such as `endpoint_url` for S3.
            new_host_keys: accept SFTP servers that ~/.ssh/known_hosts does not know.

        Raises:
            CacheError: an unknown protocol, a package that is missing, or no connection.
        """
        self._url = url
        self.url = re.sub(r"(://[^/@:]*):[^/@]*@", r"\1@", url)  # without a password, to be shown
        self.protocol = url.split("://", 1)[0] if "://" in url else "file"
        self._options = dict(options or {})
        self._new_host_keys = new_host_keys
        self._min_rate = MIN_RATE
        self._is_closed = False
        self._errors = _remote_errors()
        self._fs: Any = None
        self._root = ""
        self._stall_seconds = stall_seconds()
        self._moved = 0  # bytes that the operation under way has moved
        self._has_moved = False  # whether anything has gone or come that need not again
        self._retry("connect", lambda: None)

    @property
    def is_atomic(self) -> bool:
        """Whether an upload appears whole or not at all."""
        return self.protocol in ATOMIC_PROTOCOLS

    @property
    def is_http(self) -> bool:
        """Whether this is plain HTTP: read-only, and not every server lists its folders."""
        return self.protocol in ("http", "https")

    @property
    def _is_sftp(self) -> bool:
        return self.protocol in ("sftp", "ssh")

    def names(self) -> tuple[str, ...]:
        """Return the names of all files and folders that lie here."""

        def action() -> tuple[str, ...]:
            try:
                found = self._fs.ls(self._root, detail=False)
            except (FileNotFoundError, NotADirectoryError):
                return ()
            root = self._root.rstrip("/")  # which object storage may list as a file of its own
            paths = (str(path).rstrip("/") for path in found)
            return tuple(path.rpartition("/")[2] for path in paths if path != root)

        return self._retry("list the folder", action)

    def list(self, folder: str) -> dict[str, int | None]:
        """Return the names of the files in a folder, with their sizes where they are known."""

        def action() -> dict[str, int | None]:
            try:
                items = self._fs.ls(self._join(folder), detail=True)
            except (FileNotFoundError, NotADirectoryError):
                return {}
            return {
                str(item["name"]).rstrip("/").rpartition("/")[2]: item.get("size")
                for item in items
                if item.get("type") == "file"
            }

        return self._retry(f"list {folder}", action)

    def size(self, name: str) -> int | None:
        """Return the size of a file, None if there is none.

        Raises:
            CacheError: the server cannot be asked, or does not tell.
        """

        def action() -> int | None:
            try:
                if self.is_http:
                    with self._open(name) as file:
                        told = file.r.headers.get("Content-Length", "")
                        size = int(told) if told.isascii() and told.isdigit() else None
                else:
                    self._fs.invalidate_cache()
                    size = self._fs.info(self._join(name)).get("size")
            except FileNotFoundError:
                return None
            if not isinstance(size, int):
                raise CacheError(f"{self.url}: the server does not tell the size of {name}")
            return size

        return self._retry(f"look at {name}", action)

    def read_small(self, name: str, limit: int) -> bytes | None:
        """Return a file of at most `limit` bytes, None if there is none.

        Raises:
            CacheError: it is larger, or cannot be read.
        """

        def action() -> bytes | None:
            try:
                with self._open(name) as file:
                    data = self._read_up_to(file, limit + 1)
            except FileNotFoundError:
                return None
            if len(data) > limit:
                raise CacheError(f"{self.url}: {name} is larger than {limit} bytes")
            return data

        return self._retry(f"read {name}", action)

    def read_range(self, name: str, size: int, offset: int) -> bytes:
        """Return `size` bytes of a file from `offset` on.

        Raises:
            CacheError: there are fewer, or the file cannot be read.
        """

        def action() -> bytes:
            if not self.is_http:
                return bytes(self._fs.cat_file(self._join(name), start=offset, end=offset + size))
            with self._open(name, offset) as file:
                return self._read_up_to(file, size)

        is_counted = self.is_http or self._is_sftp
        data = self._retry(f"read {name}", action, size=0 if is_counted else size) if size else b""
        self._has_moved = True
        if len(data) != size:
            raise CacheError(f"{self.url}: {name}: {len(data)} bytes at {offset}, expected {size}")
        return data

    def blocks(self, name: str, size: int) -> Iterator[bytes]:
        """Yield a file of `size` bytes in pieces, going on where a lost connection stopped.

        Raises:
            CacheError: it is shorter or cannot be read.
        """
        # larger pieces over HTTP: a server without ranges sends all that comes before, each time
        piece = PIECE * 8 if self.is_http else PIECE
        for offset in range(0, size, piece):
            yield self.read_range(name, min(piece, size - offset), offset)

    def upload(self, path: Path, name: str) -> None:
        """Put a local file in place; elsewhere it appears whole or not at all.

        Raises:
            CacheError: it cannot be written, or arrived with another size.
        """
        folder, _, last = name.rpartition("/")
        temp = name if self.is_atomic else (f"{folder}/" if folder else "") + f".tmp-{last}"
        expected = path.stat().st_size

        def action() -> None:
            if not self.is_atomic:
                self._make_folder(self._join(folder))
            self._fs.put_file(str(path), self._join(temp))
            self._fs.invalidate_cache()
            arrived = self._fs.info(self._join(temp)).get("size")
            if arrived != expected:
                raise OSError(f"{name}: {arrived} bytes arrived of {expected}")
            if temp != name:
                self._fs.mv(self._join(temp), self._join(name))

        self._retry(f"write {name}", action, size=expected)
        self._has_moved = True

    def _make_folder(self, path: str) -> None:
        """Make a folder that need not be new: another connection may make it at this moment."""
        try:
            self._fs.makedirs(path, exist_ok=True)
        except OSError:
            if not self._fs.isdir(path):
                raise

    def another(self, *, share: int) -> "Remote":
        """Return a connection of its own to the same folder.

        Args:
            share: how many there are; so much slower may each be.

        Raises:
            CacheError: it cannot be made.
        """
        other = Remote(self._url, self._options, new_host_keys=self._new_host_keys)
        other._min_rate = MIN_RATE // share
        other._has_moved = True
        return other

    def close(self) -> None:
        """End the connection; what is under way on it is given up, by a CacheError."""
        self._is_closed = True
        if self._is_sftp and self._fs is not None:  # fsspec's others end by themselves
            self._fs.client.close()

    def _read_up_to(self, file: Any, limit: int) -> bytes:
        parts = []
        while limit > 0 and (part := file.read(min(limit, BLOCK))):
            parts.append(bytes(part))
            limit -= len(part)
            self._moved += len(part)
        return b"".join(parts)

    def _join(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}" if name else self._root

    def _open(self, name: str, offset: int = 0) -> Any:
        """Open a file for reading; over HTTP as a stream that begins at `offset`."""
        if not self.is_http:
            return self._fs.open(self._join(name), "rb")
        headers = {"Accept-Encoding": "identity", "Range": f"bytes={offset}-"}
        if not offset:
            del headers["Range"]
        # any size keeps fsspec from asking for it, which would turn a lost connection into
        # "no such file"
        file = self._fs.open(self._join(name), "rb", block_size=0, size=1, headers=headers)
        if offset and file.r.status != 206:  # a server without ranges
            while offset > 0:
                part = self._read_up_to(file, min(offset, BLOCK))
                if not part:
                    raise OSError("the file ends too early")
                offset -= len(part)
        return file

    def _connect(self) -> None:
        import fsspec

        if self._is_sftp:
            self._fs, self._root = _open_sftp(
                self._url, self._options, self._read_up_to, new_host_keys=self._new_host_keys
            )
            return
        options = self._options
        if self.is_http:
            options = {**options, "client_kwargs": _http_client(options.get("client_kwargs", {}))}
        self._fs, self._root = fsspec.core.url_to_fs(
            self._url, skip_instance_cache=True, use_listings_cache=False, **options
        )

    def _connect_and(self, action: Callable[[], T]) -> T:
        if self._fs is None:
            self._connect()
        return action()

    def _in_time(self, action: Callable[[], T], size: int) -> T:
        """Do something in a thread, which is left alone when it moves too few bytes.

        Args:
            action: what to do.
            size: the bytes that it moves, if it does not count them as they come.

        Raises:
            TimeoutError: it is slower than the least rate for the time that is allowed.
        """
        results: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()

        def run() -> None:
            try:
                results.put((action(), None))
            except BaseException as error:  # noqa: BLE001 - raised where it is waited for
                results.put((None, error))

        rate = self._min_rate
        self._moved = before = 0
        started = checked = time.monotonic()
        threading.Thread(target=run, daemon=True, name="feat-remote").start()
        while True:
            with suppress(queue.Empty):
                value, error = results.get(timeout=min(0.5, self._stall_seconds))
                if error is not None:
                    raise error
                return cast(T, value)
            if self._is_closed:
                raise CacheError(f"{self.url}: the connection was closed")
            now, moved, stall = time.monotonic(), self._moved, self._stall_seconds
            if now - checked < stall:
                continue
            if moved - before < rate * stall and now - started > stall + size / MIN_RATE:
                raise TimeoutError(
                    f"less than {rate >> 10} KiB a second for {stall:g} s (FEAT_STALL_SECONDS "
                    "allows more)"
                )
            checked, before = now, moved

    def _retry(self, what: str, action: Callable[[], T], *, size: int = 0) -> T:
        """Do something, connecting anew and waiting a little after each failure.

        Args:
            what: for messages.
            action: what to do.
            size: the bytes that it moves, if it does not count them as they come.
        """
        for attempt in range(MAX_TRIES):
            if self._is_closed:
                raise CacheError(f"{self.url}: the connection was closed")
            try:
                return self._in_time(lambda: self._connect_and(action), size)
            except (PermissionError, FileNotFoundError, NotImplementedError) as error:
                raise self._failure(what, error) from error
            except ImportError as error:
                package = _PACKAGES.get(self.protocol)
                advice = f"needs {package}: pip install {package}" if package else f"fails: {error}"
                raise CacheError(f"{self.url}: {self.protocol} {advice}") from error
            except self._errors as error:
                self._fs = None
                if attempt == MAX_TRIES - 1 or _is_final(error):
                    raise self._failure(what, error) from error
                logger.warning("%s: %s failed (%s), trying again", self.url, what, error)
                time.sleep(0.2 * 4**attempt)
        raise AssertionError("unreachable")

    def _failure(self, what: str, error: BaseException) -> CacheError:
        reason = " ".join(str(error).replace(" ssl:default", "").split())[:200]
        advice = "check the address, and that the server is there"
        if self._has_moved:
            advice = "what has arrived is kept, the same command goes on from there"
        return CacheError(f"{self.url}: cannot {what}: {reason or type(error).__name__}; {advice}")


def _http_client(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options of aiohttp's client: no redirect to another server, no limit of its own."""
    aiohttp = import_module("aiohttp")

    async def check(session: Any, context: Any, params: Any) -> None:
        old, location = params.url, params.response.headers.get("Location", "")
        new = old.join(type(old)(location))
        if new.host != old.host or (new.scheme, new.port) not in (
            (old.scheme, old.port),
            ("https", 443),
        ):
            raise CacheError(
                f"{old.origin()}: sends on to another server, {new}; give that address if you "
                "trust it"
            )

    tracing = aiohttp.TraceConfig()
    tracing.on_request_redirect.append(check)
    # aiohttp ends every request after five minutes, however much arrives; `Remote` has its own rule
    return {
        "timeout": aiohttp.ClientTimeout(total=None),
        **options,
        "trace_configs": [tracing, *options.get("trace_configs", [])],
    }


def _open_sftp(
    url: str,
    options: dict[str, Any],
    read_up_to: Callable[[Any, int], bytes],
    *,
    new_host_keys: bool,
) -> tuple[Any, str]:
    """Return an SFTP file system that knows its server, and the path."""
    from fsspec.implementations.sftp import SFTPFileSystem

    paramiko = import_module("paramiko")

    class KnownHostsSFTP(SFTPFileSystem):  # type: ignore[misc]
        """fsspec's accepts whatever key a server shows; this one asks ~/.ssh/known_hosts."""

        cachable = False

        def _connect(self) -> None:
            self.client = paramiko.SSHClient()
            self.client.load_system_host_keys()
            policy = paramiko.AutoAddPolicy() if new_host_keys else paramiko.RejectPolicy()
            self.client.set_missing_host_key_policy(policy)
            self.client.connect(self.host, **self.ssh_kwargs)
            self.ftp = self.client.open_sftp()
            self.ftp.get_channel().settimeout(60.0)

        def cat_file(self, path: str, start: int = 0, end: int = 0, **_: Any) -> bytes:
            with self.ftp.open(path, "rb") as file:
                file.seek(start)
                return read_up_to(file, end - start)

    kwargs = SFTPFileSystem._get_kwargs_from_urls(url)
    if "username" not in kwargs and "user" in kwargs:
        kwargs["username"] = kwargs.pop("user")
    fs = KnownHostsSFTP(**{**kwargs, **options})
    return fs, SFTPFileSystem._strip_protocol(url)


def _is_final(error: BaseException) -> bool:
    """Return whether trying again would change nothing: wrong password, unknown host key, ..."""
    text = f"{type(error).__name__} {error}"
    signs = ("Authentication", "known_hosts", "NoCredentials", "NoSuchBucket", "Protocol not known")
    return any(sign in text for sign in signs)


def _remote_errors() -> tuple[type[BaseException], ...]:
    """Return what the file systems raise when a server or the way to it fails."""
    errors: list[type[BaseException]] = [OSError, EOFError, ValueError]
    for module, name in (
        ("paramiko", "SSHException"),
        ("aiohttp", "ClientError"),
        ("botocore.exceptions", "BotoCoreError"),
        ("botocore.exceptions", "ClientError"),
    ):
        with suppress(ImportError):
            errors.append(getattr(import_module(module), name))
    return tuple(errors)
