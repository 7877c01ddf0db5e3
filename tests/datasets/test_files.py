"""Where data sets are found, how they are downloaded, and what failures say."""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pooch
import pytest

from handful.datasets import transfer
from handful.datasets.files import find_or_download
from handful.datasets.remote import FASHION_MNIST, MNIST, RemoteFile
from handful.datasets.transfer import fetch_file
from handful.errors import ArgumentError, FormatError, MissingDataError

pytestmark = pytest.mark.timeout(60)

DOWNLOAD = """
import sys
from pathlib import Path
from handful.datasets.remote import RemoteFile
from handful.datasets.transfer import fetch_file
mirror, folder, name, num_bytes, sha256 = sys.argv[1:]
file = RemoteFile(name=name, num_bytes=int(num_bytes), sha256=sha256)
fetch_file(file, mirror, Path(folder))
"""


def download_command(mirror: str, folder: Path, file) -> list[str]:
    sizes = (file.name, str(file.num_bytes), file.sha256)
    return [sys.executable, "-c", DOWNLOAD, mirror, str(folder), *sizes]


def dotted(name: str) -> str:
    return name.replace("-idx", ".idx")


@pytest.mark.parametrize(
    "spell",
    [str, lambda name: f"{name}.gz", dotted, lambda name: f"{dotted(name)}.gz"],
    ids=["plain", "gz", "dotted", "dotted-gz"],
)
def test_each_spelling_of_the_files_is_found(
    tmp_path, monkeypatch, served, image_files, save_files, spell
):
    folder = tmp_path / "data" / "small"
    save_files(folder, {spell(name): body for name, body in image_files.items()})
    monkeypatch.setenv("HANDFUL_DATA", str(tmp_path / "data"))
    found = find_or_download(served.dataset)
    assert found == {name: folder / spell(name) for name in image_files}


def test_the_folders_are_tried_in_the_documented_order(
    tmp_path, monkeypatch, served, image_files, save_files
):
    system = tmp_path / "system"
    dataset = replace(served.dataset, system_dir=system)
    data = tmp_path / "data"
    cache = Path(pooch.os_cache("handful")) / "small"
    monkeypatch.setenv("HANDFUL_DATA", str(data))
    for folder in (system, cache, data, data / "small"):
        save_files(folder, image_files)
        found = find_or_download(dataset)
        assert {path.parent for path in found.values()} == {folder}


def test_a_folder_that_lacks_a_file_does_not_count(
    tmp_path, monkeypatch, served, image_files, save_files
):
    data = tmp_path / "data"
    monkeypatch.setenv("HANDFUL_DATA", str(data))
    save_files(data, image_files)
    save_files(data / "small", dict(list(image_files.items())[:3]))
    found = find_or_download(served.dataset)
    assert {path.parent for path in found.values()} == {data}


def test_a_folder_with_the_name_of_a_file_does_not_count(
    tmp_path, monkeypatch, served, image_files, save_files
):
    monkeypatch.setenv("HANDFUL_DATA", str(tmp_path))
    save_files(tmp_path, image_files)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    (tmp_path / "t10k-labels-idx1-ubyte").mkdir()
    with pytest.raises(MissingDataError, match="lacks t10k-labels-idx1-ubyte"):
        find_or_download(served.dataset)


def test_files_are_downloaded_into_the_cache_and_then_found_there(
    tmp_path, monkeypatch, served, make_mirror
):
    mirror = make_mirror(served.paths("/small"))
    monkeypatch.setenv("HANDFUL_MIRROR", mirror.base)
    cache = tmp_path / "cache"
    first = find_or_download(served.dataset, cache_dir=cache)
    assert {path.name: path.read_bytes() for path in first.values()} == served.packed
    assert sorted(path.name for path in cache.iterdir()) == sorted(served.packed)
    assert find_or_download(served.dataset, cache_dir=cache) == first
    assert mirror.asked == [f"/small/{name}" for name in served.packed]


def test_only_the_missing_files_are_downloaded(
    tmp_path, served, make_mirror, save_files
):
    mirror = make_mirror(served.paths())
    names = list(served.packed)
    save_files(tmp_path, {name: served.packed[name] for name in names[:2]})
    dataset = replace(served.dataset, mirrors=(mirror.base,))
    find_or_download(dataset, cache_dir=tmp_path)
    assert mirror.asked == [f"/{name}" for name in names[2:]]


def test_the_users_mirror_is_asked_first_and_the_next_one_where_it_fails(
    tmp_path, monkeypatch, served, make_mirror
):
    paths = served.paths("/small")
    last = paths.popitem()
    own = make_mirror(paths)
    public = make_mirror(served.paths())
    monkeypatch.setenv("HANDFUL_MIRROR", f"{own.base}/")
    dataset = replace(served.dataset, mirrors=(f"{public.base}/",))
    found = find_or_download(dataset, cache_dir=tmp_path)
    assert {p.name: p.read_bytes() for p in found.values()} == served.packed
    assert own.asked == [*paths, last[0]]
    assert public.asked == [last[0].removeprefix("/small")]


def test_a_mirror_that_failed_is_not_asked_for_the_other_files(
    tmp_path, served, make_mirror
):
    broken = make_mirror()
    good = make_mirror(served.paths())
    dataset = replace(served.dataset, mirrors=(broken.base, good.base))
    find_or_download(dataset, cache_dir=tmp_path)
    assert len(broken.asked) == 1
    assert len(good.asked) == 4


def test_a_wrong_file_says_what_was_expected_and_leaves_nothing(
    tmp_path, served, make_mirror
):
    mirror = make_mirror(dict.fromkeys(served.paths(), b"<html>please log in</html>"))
    dataset = replace(served.dataset, mirrors=(mirror.base, "http://127.0.0.1:9"))
    file = dataset.files[0]
    message = (
        rf"{re.escape(mirror.base)}/{file.name}.gz must be {file.num_bytes} bytes with "
        rf"sha256 {file.sha256}; got 26 bytes with sha256 [0-9a-f]{{64}}\. Most likely "
        r"a proxy .* No help from http://127.0.0.1:9 \(connection failed\)"
    )
    with pytest.raises(FormatError, match=message):
        find_or_download(dataset, cache_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_the_right_size_with_another_checksum_is_refused(
    tmp_path, served, make_mirror
):
    flipped = {
        p: body[:-1] + bytes([body[-1] ^ 1]) for p, body in served.paths().items()
    }
    dataset = replace(served.dataset, mirrors=(make_mirror(flipped).base,))
    with pytest.raises(FormatError, match=r"must be .* sha256 .*; got .* sha256"):
        find_or_download(dataset, cache_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_too_long_is_not_read_to_its_end(tmp_path, served, make_mirror):
    long = dict.fromkeys(served.paths(), bytes(2_000_000))
    mirror = make_mirror(long, hold_after=1_000_000)
    dataset = replace(served.dataset, mirrors=(mirror.base,))
    with pytest.raises(FormatError, match="got more bytes than that"):
        find_or_download(dataset, cache_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_file_is_replaced_by_the_next_mirrors(tmp_path, served, make_mirror):
    wrong = make_mirror(dict.fromkeys(served.paths(), b"wrong"))
    good = make_mirror(served.paths())
    dataset = replace(served.dataset, mirrors=(wrong.base, good.base))
    found = find_or_download(dataset, cache_dir=tmp_path)
    assert {p.name: p.read_bytes() for p in found.values()} == served.packed


def test_a_transfer_that_breaks_off_leaves_nothing(tmp_path, served, make_mirror):
    mirror = make_mirror(served.paths(), break_off_after=100)
    dataset = replace(served.dataset, mirrors=(mirror.base,))
    with pytest.raises(MissingDataError, match="broke off in the middle"):
        find_or_download(dataset, cache_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_calls_gzip_an_encoding_is_understood(
    tmp_path, served, make_mirror
):
    mirror = make_mirror(served.paths(), headers={"Content-Encoding": "gzip"})
    dataset = replace(served.dataset, mirrors=(mirror.base,))
    found = find_or_download(dataset, cache_dir=tmp_path)
    assert {p.name: p.read_bytes() for p in found.values()} == served.packed


def test_a_mirror_that_does_not_answer_is_given_up(
    tmp_path, monkeypatch, served, make_mirror
):
    monkeypatch.setattr(transfer, "_ANSWER_SECONDS", 0.2)
    monkeypatch.setattr(transfer, "_SILENCE_SECONDS", 1000)
    mirror = make_mirror(served.paths(), hold_after=0)
    dataset = replace(served.dataset, mirrors=(mirror.base,))
    with pytest.raises(MissingDataError, match=r"\(no answer in time\)"):
        find_or_download(dataset, cache_dir=tmp_path)


def test_a_mirror_that_falls_silent_is_given_up(
    tmp_path, monkeypatch, served, make_mirror
):
    monkeypatch.setattr(transfer, "_SILENCE_SECONDS", 0.2)
    mirror = make_mirror(served.paths(), hold_after=100)
    dataset = replace(served.dataset, mirrors=(mirror.base,))
    with pytest.raises(MissingDataError, match=r"\(no answer in time\)"):
        find_or_download(dataset, cache_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://proxied.invalid/", "the proxy did not let it through"),
        ("https://127.0.0.1:{port}/", "its TLS certificate was not accepted"),
        ("http://127.0.0.1:9/", "connection failed"),
        ("http:///nowhere/", "InvalidURL"),
    ],
)
def test_each_mirrors_reason_is_given_in_a_few_words(
    tmp_path, monkeypatch, served, make_mirror, url, reason
):
    if "proxied" in url:
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    url = url.format(port=make_mirror().base.rpartition(":")[2])
    dataset = replace(served.dataset, mirrors=(url,))
    with pytest.raises(MissingDataError, match=re.escape(f"nor at {url} ({reason}).")):
        find_or_download(dataset, cache_dir=tmp_path)


def test_without_handful_data_the_cache_is_searched(
    tmp_path, monkeypatch, served, image_files, save_files
):
    monkeypatch.delenv("HANDFUL_DATA")
    save_files(tmp_path, image_files)
    found = find_or_download(served.dataset, cache_dir=tmp_path)
    assert {path.parent for path in found.values()} == {tmp_path}


def test_the_failure_says_where_it_looked_and_what_to_do(
    tmp_path, monkeypatch, served, make_mirror, image_files, save_files
):
    data = tmp_path / "data"
    save_files(data, dict(list(image_files.items())[1:]))
    monkeypatch.setenv("HANDFUL_DATA", str(data))
    mirror = make_mirror()
    dataset = replace(
        served.dataset,
        mirrors=(mirror.base, "http://no-such-host.invalid/"),
        package="dataset-small",
    )
    with pytest.raises(MissingDataError, match="small must be on this") as caught:
        find_or_download(dataset, cache_dir=tmp_path / "cache")
    message = str(caught.value)
    for part in (
        f"{data / 'small'}, {data} (which lacks train-images-idx3-ubyte), ",
        str(tmp_path / "cache"),
        f"{mirror.base} (HTTP status 404)",
        "http://no-such-host.invalid/ (host not found)",
        "Put train-images-idx3-ubyte.gz, ",
        "into $HANDFUL_DATA/small",
        "`apt install dataset-small`",
    ):
        assert part in message
    assert message.count(". ") == 1


def test_a_cache_that_cannot_be_written_is_not_blamed_on_the_mirror(
    tmp_path, served, make_mirror
):
    mirror = make_mirror(served.paths())
    dataset = replace(served.dataset, mirrors=(mirror.base,))
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(
        MissingDataError, match=r"cannot be saved in .*cache .*HANDFUL_D"
    ):
        find_or_download(dataset, cache_dir=tmp_path / "cache")


def test_a_mirror_that_is_no_web_address_is_refused(tmp_path, monkeypatch, served):
    monkeypatch.setenv("HANDFUL_MIRROR", "ftp://example.org")
    with pytest.raises(ArgumentError, match=r"HANDFUL_MIRROR must be .*'ftp://example"):
        find_or_download(served.dataset, cache_dir=tmp_path)


def test_downloads_in_two_processes_at_once_both_succeed(
    tmp_path, served, make_mirror, wait_until
):
    mirror = make_mirror(served.paths(), hold_after=0)
    file = served.dataset.files[0]
    folder = tmp_path / "new" / "cache"
    command = download_command(mirror.base, folder, file)
    processes = [
        subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    wait_until(lambda: len(mirror.asked) == 2)
    # Both have asked before either has an answer.
    assert list(folder.glob("*.gz")) == []
    mirror.released.set()
    errors = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    assert [path.name for path in folder.iterdir()] == [f"{file.name}.gz"]
    assert next(folder.iterdir()).read_bytes() == served.packed[f"{file.name}.gz"]


def test_a_killed_download_leaves_nothing_under_the_final_name(
    tmp_path, make_mirror, wait_until
):
    body = bytes(range(256)) * 1000
    sha256 = hashlib.sha256(body).hexdigest()
    file = RemoteFile(name="large", num_bytes=len(body), sha256=sha256)
    mirror = make_mirror({"/large.gz": body}, hold_after=200_000)
    command = download_command(mirror.base, tmp_path, file)
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        wait_until(lambda: any(path.stat().st_size for path in tmp_path.iterdir()))
        process.kill()
    assert not (tmp_path / "large.gz").exists()
    mirror.released.set()
    assert fetch_file(file, mirror.base, tmp_path).read_bytes() == body


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminal")
@pytest.mark.parametrize("is_terminal", [True, False])
def test_progress_is_shown_on_a_terminal_only(
    tmp_path, served, make_mirror, is_terminal
):
    mirror = make_mirror(served.paths())
    file = served.dataset.files[0]
    reader, writer = os.openpty() if is_terminal else os.pipe()
    subprocess.run(
        download_command(mirror.base, tmp_path, file),
        stderr=writer,
        check=True,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
    )
    os.write(writer, b"the end")
    shown = os.read(reader, 100_000).decode()
    os.close(reader)
    os.close(writer)
    if is_terminal:
        assert file.name in shown
        assert "kB" in shown
    else:
        assert shown == "the end"


@pytest.mark.parametrize("dataset", [MNIST, FASHION_MNIST], ids=lambda d: d.name)
def test_the_known_data_sets_are_described_whole(dataset):
    assert len({file.name for file in dataset.files}) == 4
    assert len({file.sha256 for file in dataset.files}) == 4
    assert all(re.fullmatch("[0-9a-f]{64}", file.sha256) for file in dataset.files)
    assert all(url.endswith("/") for url in dataset.mirrors)
    assert len(dataset.mirrors) == 2


def test_recompressed_files_on_this_machine_are_accepted(
    tmp_path, monkeypatch, served, image_files, save_files
):
    weak = {f"{n}.gz": gzip.compress(b, 1) for n, b in image_files.items()}
    assert weak != served.packed
    save_files(tmp_path, weak)
    monkeypatch.setenv("HANDFUL_DATA", str(tmp_path))
    assert len(find_or_download(served.dataset)) == 4
