"""Small image sets on disk, and a web server on loopback that serves files."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from handful.datasets.remote import RemoteDataset, RemoteFile

NAMES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def as_idx(array: np.ndarray) -> bytes:
    sizes = struct.pack(f">{array.ndim}I", *array.shape)
    return bytes([0, 0, 0x08, array.ndim]) + sizes + array.astype(np.uint8).tobytes()


def make_image_files(num_train: int = 20, num_test: int = 10) -> dict[str, bytes]:
    rng = np.random.default_rng(0)
    files = {}
    for part, n in (("train", num_train), ("t10k", num_test)):
        files[f"{part}-images-idx3-ubyte"] = as_idx(rng.integers(0, 256, (n, 28, 28)))
        files[f"{part}-labels-idx1-ubyte"] = as_idx(np.arange(n) % 10)
    return files


@pytest.fixture
def image_files() -> dict[str, bytes]:
    """The four plain IDX files of a set of 20 and 10 images, by name."""
    return make_image_files()


@pytest.fixture
def save_files() -> Callable[[Path, dict[str, bytes]], None]:
    """Write files into a folder that need not exist."""

    def save(folder: Path, files: dict[str, bytes]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (folder / name).write_bytes(content)

    return save


@pytest.fixture
def idx_bytes() -> Callable[[np.ndarray], bytes]:
    """Turn an array into a uint8 IDX file."""
    return as_idx


@pytest.fixture(autouse=True)
def _loopback_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the user's mirror and proxy out of the tests."""
    monkeypatch.delenv("HANDFUL_MIRROR", raising=False)
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@dataclass
class Mirror:
    """A server on loopback: what it serves, and what it was asked for."""

    base: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    break_off_after: int | None = None
    """Close the connection after so many bytes of a body."""
    hold_after: int | None = None
    """Send so many bytes of a body; the rest, and at 0 the head, when released."""
    released: threading.Event = field(default_factory=threading.Event)


def make_handler(mirror: Mirror) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            mirror.asked.append(self.path)
            with contextlib.suppress(ConnectionError):  # The client may have gone.
                self.answer(mirror.files.get(self.path))

        def answer(self, body: bytes | None) -> None:
            if mirror.hold_after == 0:
                mirror.released.wait()
            if body is None:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            for name, value in mirror.headers.items():
                self.send_header(name, value)
            self.end_headers()
            if mirror.hold_after:
                self.wfile.write(body[: mirror.hold_after])
                mirror.released.wait()
                body = body[mirror.hold_after :]
            self.wfile.write(body[: mirror.break_off_after])

        def log_message(self, *_: object) -> None:
            """Keep the requests out of the test's output."""

    return Handler


@pytest.fixture
def make_mirror() -> Iterator[Callable[..., Mirror]]:
    """Start servers that run until the test ends."""
    running: list[tuple[Mirror, ThreadingHTTPServer, threading.Thread]] = []

    def make(files: dict[str, bytes] | None = None, **settings: object) -> Mirror:
        mirror = Mirror(files=files or {}, **settings)
        server = ThreadingHTTPServer(("127.0.0.1", 0), make_handler(mirror))
        mirror.base = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        running.append((mirror, server, thread))
        return mirror

    yield make
    for mirror, server, thread in running:
        mirror.released.set()
        server.shutdown()
        server.server_close()
        thread.join()


@dataclass
class Served:
    """A small data set as mirrors serve it."""

    dataset: RemoteDataset
    packed: dict[str, bytes]

    def paths(self, prefix: str = "") -> dict[str, bytes]:
        return {f"{prefix}/{name}": body for name, body in self.packed.items()}


@pytest.fixture
def served(image_files: dict[str, bytes]) -> Served:
    """A data set named ``small`` without mirrors, and its compressed files."""
    packed = {f"{name}.gz": gzip.compress(b) for name, b in image_files.items()}
    files = tuple(
        RemoteFile(
            name=name,
            num_bytes=len(packed[f"{name}.gz"]),
            sha256=hashlib.sha256(packed[f"{name}.gz"]).hexdigest(),
        )
        for name in NAMES
    )
    return Served(RemoteDataset(name="small", files=files, mirrors=()), packed)


@pytest.fixture
def wait_until() -> Callable[[Callable[[], bool]], None]:
    """Wait for something that another thread or process does."""

    def wait(is_done: Callable[[], bool]) -> None:
        while not is_done():
            time.sleep(0.01)

    return wait
