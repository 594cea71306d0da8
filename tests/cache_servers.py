"""Real servers for the transfer tests: SFTP, S3, HTTP, and a proxy that cuts connections."""

import contextlib
import functools
import http.server
import os
import socket
import threading
from pathlib import Path
from typing import Any

import paramiko


class SftpFiles(paramiko.SFTPServerInterface):
    """Serves one folder of the local disk."""

    root: Path

    def _real(self, path: str) -> str:
        return str(self.root / self.canonicalize(path).lstrip("/"))

    def _try(self, action: Any, *args: Any) -> Any:
        try:
            return action(*args)
        except OSError as error:
            return paramiko.SFTPServer.convert_errno(error.errno or 5)

    def list_folder(self, path: str) -> Any:
        def action() -> list[paramiko.SFTPAttributes]:
            return [
                paramiko.SFTPAttributes.from_stat(item.stat(), item.name)
                for item in os.scandir(self._real(path))
            ]

        return self._try(action)

    def stat(self, path: str) -> Any:
        return self._try(lambda: paramiko.SFTPAttributes.from_stat(os.stat(self._real(path))))

    lstat = stat

    def open(self, path: str, flags: int, attr: Any) -> Any:
        def action() -> paramiko.SFTPHandle:
            fd = os.open(self._real(path), flags, 0o644)
            handle = paramiko.SFTPHandle(flags)
            file = os.fdopen(fd, "r+b" if flags & os.O_RDWR else "wb" if flags & 1 else "rb")
            handle.readfile = handle.writefile = file  # type: ignore[attr-defined]
            return handle

        return self._try(action)

    def mkdir(self, path: str, attr: Any) -> Any:
        return self._try(os.mkdir, self._real(path)) or paramiko.SFTP_OK

    def remove(self, path: str) -> Any:
        return self._try(os.remove, self._real(path)) or paramiko.SFTP_OK

    def posix_rename(self, old: str, new: str) -> Any:
        return self._try(os.replace, self._real(old), self._real(new)) or paramiko.SFTP_OK


class _SshLogin(paramiko.ServerInterface):
    def check_auth_password(self, username: str, password: str) -> int:
        good = (username, password) == ("ann", "secret")
        return paramiko.AUTH_SUCCESSFUL if good else paramiko.AUTH_FAILED

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return paramiko.OPEN_SUCCEEDED

    def get_allowed_auths(self, username: str) -> str:
        return "password"


class SftpServer:
    """An SFTP server on a free port of this machine; user ann, password secret.

    Attributes:
        most: connections that are admitted at a time.
    """

    most = 100

    def __init__(self, root: Path) -> None:
        self.key = paramiko.ECDSAKey.generate()
        self._files = type("Files", (SftpFiles,), {"root": root})
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._transports: list[paramiko.Transport] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:
                return
            self._transports = [one for one in self._transports if one.is_active()]
            if len(self._transports) >= self.most:
                client.close()
                continue
            transport = paramiko.Transport(client)
            transport.add_server_key(self.key)
            transport.set_subsystem_handler("sftp", paramiko.SFTPServer, self._files)
            self._transports.append(transport)
            try:
                transport.start_server(server=_SshLogin())
            except (paramiko.SSHException, EOFError, OSError):
                continue  # the connection was cut during the handshake

    def make_known(self, home: Path) -> None:
        """Write the server's key where clients of that home folder look for it."""
        (home / ".ssh").mkdir()
        (home / ".ssh" / "known_hosts").write_text(
            f"[127.0.0.1]:{self.port} {self.key.get_name()} {self.key.get_base64()}\n"
        )

    def close(self) -> None:
        self._socket.close()
        for transport in self._transports:
            transport.close()


class HttpServer:
    """Python's own HTTP server over a folder; `listing` False: folders are not listed.

    With `sends_on`, paths below /old are found below that address. With `tells_sizes` False, no
    answer has a Content-Length.
    """

    def __init__(
        self, root: Path, *, listing: bool = True, sends_on: str = "", tells_sizes: bool = True
    ) -> None:
        requests = self.requests = []  # paths

        class Handler(http.server.SimpleHTTPRequestHandler):
            def log_message(self, format: str, *args: object) -> None:
                pass

            def send_header(self, keyword: str, value: str) -> None:
                if tells_sizes or keyword != "Content-Length":
                    super().send_header(keyword, value)

            def do_GET(self) -> None:
                requests.append(self.path)
                if not (sends_on and self.path.startswith("/old")):
                    super().do_GET()
                    return
                self.send_response(302)
                self.send_header("Location", sends_on + self.path.removeprefix("/old"))
                self.end_headers()

            def list_directory(self, path: Any) -> Any:
                if listing:
                    return super().list_directory(path)
                self.send_error(404)
                return None

        handler = functools.partial(Handler, directory=str(root))
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Proxy:
    """Passes connections on to `port` as `_pump` says."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                return
            passed = [0]  # bytes, both ways
            for a, b in ((client, server), (server, client)):
                threading.Thread(target=self._pump, args=(a, b, passed), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, passed: list[int]) -> None:
        raise NotImplementedError

    def close(self) -> None:
        self._socket.close()


class CuttingProxy(Proxy):
    """Cuts the first `cuts` connections after so many bytes."""

    def __init__(self, port: int, *, cut_after: int, cuts: int, then: int | None = None) -> None:
        self.cuts_left = cuts
        self._then = cut_after if then is None else then  # after so many, from the second cut on
        self._cut_after = cut_after
        self._lock = threading.Lock()
        super().__init__(port)

    def _pump(self, source: socket.socket, sink: socket.socket, passed: list[int]) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(16384):
                passed[0] += len(data)
                with self._lock:
                    cut = passed[0] > self._cut_after and self.cuts_left > 0
                    if cut:
                        self.cuts_left -= 1
                        self._cut_after = self._then
                if cut:
                    break
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


class DrippingProxy(Proxy):
    """After so many bytes of all connections, passes one on every 50 ms."""

    def __init__(self, port: int, *, after: int) -> None:
        self._left = after
        self._closed = threading.Event()
        super().__init__(port)

    def _pump(self, source: socket.socket, sink: socket.socket, passed: list[int]) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 if self._left <= 0 else 16384):
                self._left -= len(data)
                if self._left <= 0 and self._closed.wait(0.05):
                    break
                sink.sendall(data)
        for end in (source, sink):
            end.close()

    def close(self) -> None:
        self._closed.set()
        super().close()
