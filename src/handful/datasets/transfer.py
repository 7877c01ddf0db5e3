"""Fetch one file from one mirror into a folder, whole and verified or not at all.

::

    caller                        helper thread (daemon)
      |-- start ------------------> resolve, connect, ask, read the answer's head
      |   wait, 8 s at most         |
      | <------------- answer ------'
      |   read the body, at most 15 s without a byte, into a temporary file
      |   compare size and sha256
      '-- pooch compares sha256 again and renames the file

The helper thread is there because the time-out of a connection holds for each address
of a host, and a host behind a wall may have many; the wait holds for all of it.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import queue
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pooch
import requests
import urllib3
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TransferSpeedColumn,
)

from handful.datasets.remote import RemoteFile
from handful.errors import FormatError

__all__ = ["fetch_file"]

_CONNECT_SECONDS = 5.0
_ANSWER_SECONDS = 8.0
_SILENCE_SECONDS = 15.0
_CHUNK_BYTES = 1 << 16


def fetch_file(file: RemoteFile, mirror: str, folder: Path) -> Path:
    """Download ``<mirror>/<file>.gz`` into a folder.

    The bytes go to a temporary file in the same folder, are verified, and then renamed,
    so that the final name never holds a part of the file and two processes may do this
    at the same time. A file that is already there with the right checksum is kept.

    Args:
        file: What to fetch.
        mirror: The address below which the file lies, with or without a final slash.
        folder: Where to put the file; made where it is missing.

    Returns:
        The path of the compressed file.

    Raises:
        ConnectionError: The mirror cannot be reached, does not have the file or broke
            off; the message is the reason alone, in a few words.
        FormatError: The mirror sent something else. Nothing is kept.
        OSError: The folder cannot be written.
    """
    url = f"{mirror.rstrip('/')}/{file.name}.gz"

    def download(url: str, output_file: str, _: object) -> None:
        _download(url, Path(output_file), file)

    with _silence_pooch():
        path = pooch.retrieve(
            url,
            known_hash=f"sha256:{file.sha256}",
            fname=f"{file.name}.gz",
            path=folder,
            downloader=download,
        )
    return Path(path)


@contextlib.contextmanager
def _silence_pooch() -> Iterator[None]:
    """Drop what pooch logs in this thread; it prints to standard error by default."""
    this_thread = threading.get_ident()

    def is_of_another_thread(record: logging.LogRecord) -> bool:
        return record.thread != this_thread

    logger = pooch.get_logger()
    logger.addFilter(is_of_another_thread)
    try:
        yield
    finally:
        logger.removeFilter(is_of_another_thread)


def _download(url: str, output_file: Path, file: RemoteFile) -> None:
    try:
        with _open_url(url) as response:
            if response.status_code != requests.codes.ok:
                raise ConnectionError(f"HTTP status {response.status_code}")
            num_bytes, sha256 = _save_body(response, output_file, file)
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        raise ConnectionError(_say_reason(error)) from error
    if num_bytes > file.num_bytes:
        found = "more bytes than that"
    else:
        found = f"{num_bytes} bytes with sha256 {sha256}"
    if (num_bytes, sha256) != (file.num_bytes, file.sha256):
        raise FormatError(
            f"{url} must be {file.num_bytes} bytes with sha256 {file.sha256}; got "
            f"{found}. Most likely a proxy or a log-in page answered in place of the "
            "mirror, or the file was damaged on its way; nothing was kept."
        )


def _open_url(url: str) -> requests.Response:
    answers: queue.SimpleQueue[requests.Response | Exception] = queue.SimpleQueue()
    is_given_up = threading.Event()

    def ask() -> None:
        try:
            response = requests.get(
                url,
                headers={"Accept-Encoding": "identity"},
                stream=True,
                timeout=(_CONNECT_SECONDS, _SILENCE_SECONDS),
            )
        except Exception as error:
            answers.put(error)
            return
        answers.put(response)
        if is_given_up.is_set():
            response.close()

    threading.Thread(target=ask, name="handful-download", daemon=True).start()
    try:
        answer = answers.get(timeout=_ANSWER_SECONDS)
    except queue.Empty:
        is_given_up.set()
        raise requests.Timeout from None
    if isinstance(answer, Exception):
        raise answer
    return answer


def _save_body(
    response: requests.Response, output_file: Path, file: RemoteFile
) -> tuple[int, str]:
    """Write the body, stopping after the first chunk past the expected size."""
    num_bytes = 0
    digest = hashlib.sha256()
    with _show_progress() as progress, output_file.open("wb") as output:
        task = progress.add_task(f"{file.name}.gz", total=file.num_bytes)
        # Some servers label .gz files as an encoding, which must not be undone.
        for chunk in response.raw.stream(_CHUNK_BYTES, decode_content=False):
            output.write(chunk)
            digest.update(chunk)
            num_bytes += len(chunk)
            progress.update(task, completed=num_bytes)
            if num_bytes > file.num_bytes:
                break
    return num_bytes, digest.hexdigest()


def _show_progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
    )


def _say_reason(error: Exception) -> str:
    if isinstance(error, (requests.Timeout, urllib3.exceptions.TimeoutError)):
        return "no answer in time"
    if isinstance(error, requests.exceptions.ProxyError):
        return "the proxy did not let it through"
    if isinstance(error, requests.exceptions.SSLError):
        return "its TLS certificate was not accepted"
    if isinstance(error, requests.ConnectionError):
        return "host not found" if "resol" in str(error) else "connection failed"
    if isinstance(error, urllib3.exceptions.HTTPError):
        return "broke off in the middle"
    return type(error).__name__
