"""NumPy's files: mapped, unpacked, and every way in which they can be wrong."""

from __future__ import annotations

import io
import json
import pickle
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as np_st

from handful import Columns, DataLoader
from handful.data.npy import read_npy, read_npz
from handful.errors import ArgumentError, DataError, FormatError

DTYPES = ["u1", "i1", "<i2", ">i2", "<i4", "<i8", "<f2", "<f4", ">f8", "?", "<c8"]
SIX = np.arange(6, dtype=np.int16).reshape(2, 3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all examples of a property."""
    return tmp_path_factory.mktemp("npy")


def save(folder: Path, content: bytes, name: str = "a.npy") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def as_npy(array: np.ndarray, **options) -> bytes:
    content = io.BytesIO()
    np.save(content, array, **options)
    return content.getvalue()


def with_header(text: str | bytes, items: bytes = b"", version: int = 1) -> bytes:
    text = text if isinstance(text, bytes) else text.encode()
    length = struct.pack("<H" if version == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes([version, 0]) + length + text + items


def header_of(descr: str, shape: str, order: str = "False") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n"


arrays = st.sampled_from(DTYPES).flatmap(
    lambda dtype: np_st.arrays(
        dtype, np_st.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=4)
    )
)


@settings(deadline=None)
@given(array=arrays, is_fortran=st.booleans())
def test_what_was_saved_is_read_bit_for_bit(folder, array, is_fortran):
    array = np.asfortranarray(array) if is_fortran else array
    read = read_npy(save(folder, as_npy(array)))
    assert read.dtype == array.dtype.newbyteorder("=")
    assert read.shape == array.shape
    assert read.tobytes() == array.astype(read.dtype).tobytes()


@settings(deadline=None)
@given(first=arrays, second=arrays, compressed=st.booleans())
def test_arrays_of_one_length_come_as_columns(folder, first, second, compressed):
    count = min(len(first), len(second))
    first, second = first[:count], second[:count]
    path = folder / "a.npz"
    (np.savez_compressed if compressed else np.savez)(path, X=first, y=second)
    columns = read_npz(path)
    assert columns.names == ("X", "y")
    for tensor, array in zip(columns.tensors, (first, second), strict=True):
        native = array.astype(array.dtype.newbyteorder("="))
        assert tensor.shape == array.shape
        assert tensor.numpy().tobytes() == native.tobytes()


def test_a_map_reads_nothing_before_it_is_used(tmp_path):
    path = save(tmp_path, as_npy(SIX))
    array = read_npy(path)
    assert isinstance(array, np.memmap)
    assert not array.flags.writeable
    with path.open("r+b") as file:
        file.seek(-2, 2)
        file.write(b"\x07\x01")
    assert array[1, 2] == 263


def test_stored_arrays_of_an_archive_are_mapped(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, X=SIX)
    columns = read_npz(path)
    content = path.read_bytes()
    start = content.index(SIX.tobytes())
    with path.open("r+b") as file:
        file.seek(start)
        file.write(b"\x07\x01")
    assert columns.tensors[0][0, 0] == 263


def test_chosen_arrays_come_in_the_order_of_their_names(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, X=SIX, y=np.arange(2), meta=np.arange(5))
    assert read_npz(path, ["y", "X"]).names == ("y", "X")
    with pytest.raises(DataError, match=r"a\.npz: arrays must have the same length"):
        read_npz(path)
    with pytest.raises(ArgumentError, match=r"an array of .*a\.npz must be one of X"):
        read_npz(path, ["Y"])


@pytest.mark.parametrize("version", [1, 2, 3])
def test_headers_of_all_versions_are_read(tmp_path, version):
    text = header_of("'<i2'", "(2, 3)")
    path = save(tmp_path, with_header(text, SIX.tobytes(), version))
    assert read_npy(path).tolist() == SIX.tolist()


class Harm:
    def __reduce__(self):
        return (open, ("harm-was-done", "w"))


def test_a_pickle_is_refused_and_never_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    array = np.array([Harm()], dtype=object)
    path = save(tmp_path, as_npy(array, allow_pickle=True))
    with pytest.raises(DataError, match=r"a\.npy must hold numbers; got Python obj"):
        read_npy(path)
    np.savez(tmp_path / "a.npz", X=array, allow_pickle=True)
    with pytest.raises(DataError, match=r"a\.npz, array 'X' must hold numbers; got P"):
        read_npz(tmp_path / "a.npz")
    plain = save(tmp_path, pickle.dumps(Harm()), "p.npy")
    with pytest.raises(FormatError, match=r"p\.npy must begin with NumPy's magic"):
        read_npy(plain)
    assert not (tmp_path / "harm-was-done").exists()


WRONG = {
    "empty": (b"", "must begin with NumPy's magic number, .*; got no bytes"),
    "wrong magic": (b"PK\x03\x04morebytes", "got 50 4B 03 04"),
    "wrong version": (b"\x93NUMPY\x04\x00\x10\x00", "got 93 4E 55 4D 50 59 04 00"),
    "cut in the length": (as_npy(SIX)[:9], "must have a whole header; the file ends"),
    "cut in the header": (as_npy(SIX)[:60], "must have a whole header; the file ends"),
    "short": (as_npy(SIX)[:-1], r"12 bytes .* int16 of shape \(2, 3\); got 11"),
    "long": (as_npy(SIX) + b"\0", r"12 bytes .* int16 of shape \(2, 3\); got 13"),
    "long header": (with_header(b" " * 70_000, version=2), "at most 65536 bytes; got"),
    "no header": (with_header("hello"), "header that says dtype, order and shape; got"),
    "other keys": (with_header("{'descr': '<i2'}"), "its keys must be descr, fort"),
    "code": (with_header("__import__('os').abort()"), "must have a header that says"),
    "wrong dtype": (with_header(header_of("'<q9'", "(1,)")), "must have a header that"),
    "no dtype": (with_header(header_of("7", "(1,)")), "its descr must be a dtype"),
    "no shape": (with_header(header_of("'<i2'", "(-1,)")), "its shape must be sizes"),
    "huge": (
        with_header(header_of("'<i2'", "(2**40, 5)".replace("2**40", str(2**40)))),
        "must hold 10995116277760 bytes behind its header, .*; got 0",
    ),
    "too huge": (with_header(header_of("'<i2'", f"({2**61},)")), "its shape must be"),
    "no order": (with_header(header_of("'<i2'", "(1,)", "0")), "its order a boolean"),
    "nested": (with_header("(" * 5000), "must have a header that says"),
    "text": (as_npy(np.array(["a", "b"])), "must be of a dtype that PyTorch knows; "),
    "dates": (as_npy(np.array(["2020"], "M8[D]")), "must be of a dtype that PyTorch"),
    "records": (as_npy(np.zeros(2, "i4,f4")), "must be of a dtype that PyTorch knows"),
    "one value": (as_npy(np.array(5)), "must have a first dimension, the samples; got"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_file_is_one_sentence_that_names_it(tmp_path, name):
    content, match = WRONG[name]
    with pytest.raises(DataError, match=match) as caught:
        read_npy(save(tmp_path, content))
    assert str(caught.value).startswith(str(tmp_path / "a.npy"))


def as_npz(*members: tuple[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", compression) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return content.getvalue()


WHOLE = as_npz(("X.npy", as_npy(SIX)))
WRONG_ARCHIVES = {
    "empty": (b"", "must be a whole ZIP archive of arrays"),
    "a .npy file": (as_npy(SIX), "must be a whole ZIP archive of arrays"),
    "cut": (WHOLE[:-30], "must be a whole ZIP archive of arrays"),
    "no arrays": (as_npz(("a.txt", b"hello")), "must hold arrays, .*; got none"),
    "short array": (
        as_npz(("X.npy", as_npy(SIX)[:-1])),
        "'X' must hold 12 bytes",
    ),
    "no array": (as_npz(("X.npy", b"hello")), "array 'X' must begin with NumPy's"),
    "one value": (as_npz(("X.npy", as_npy(np.array(1)))), "must have a first dimens"),
    "no checksum": (
        as_npz(("X.npy", as_npy(SIX)), compression=zipfile.ZIP_DEFLATED).replace(
            struct.pack("<I", zipfile.crc32(as_npy(SIX))), b"abcd"
        ),
        "must be a whole ZIP archive of arrays, .*CRC",
    ),
}


@pytest.mark.parametrize("name", WRONG_ARCHIVES)
def test_a_wrong_archive_is_one_sentence_that_names_it(tmp_path, name):
    content, match = WRONG_ARCHIVES[name]
    with pytest.raises(DataError, match=match) as caught:
        read_npz(save(tmp_path, content, "a.npz"))
    assert str(caught.value).startswith(str(tmp_path / "a.npz"))


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_an_archive_that_promises_more_than_it_holds_costs_no_memory(
    tmp_path, compression
):
    member = with_header(header_of("'<i2'", f"({2**30},)"), bytes(12))
    content = as_npz(("X.npy", member), compression=compression)
    place = content.index(b"PK\x01\x02") + 24
    size = struct.pack("<I", len(member) - 12 + 2**31)
    path = save(tmp_path, content[:place] + size + content[place + 4 :], "a.npz")
    tracemalloc.start()
    with pytest.raises(FormatError, match=r"a\.npz, array 'X' must (lie within|hold)"):
        read_npz(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * 2**20


@pytest.mark.parametrize("read", [read_npy, read_npz])
def test_missing_files_and_folders_are_refused(tmp_path, read):
    with pytest.raises(FormatError, match=r"none must be a \.np. file; there is no"):
        read(tmp_path / "none")
    with pytest.raises(FormatError, match=r"must be a \.np. file; got a folder"):
        read(tmp_path)


near_headers = st.one_of(
    st.binary(max_size=40),
    st.builds(
        header_of,
        st.sampled_from(["'<i2'", "'|O'", "[('a', '<i2')]", "'<U3'", "'xx'", "None"]),
        st.sampled_from(["(2,)", "(0,)", "()", "2", "(2, -1)", "(True,)", "(1.0,)"]),
        st.sampled_from(["True", "False", "0"]),
    ).map(str.encode),
)


@settings(deadline=None, max_examples=300)
@given(
    content=st.one_of(
        st.binary(max_size=60),
        st.builds(
            with_header, near_headers, st.binary(max_size=8), st.sampled_from([1, 2, 3])
        ),
    ),
    cut=st.integers(0, 80),
)
def test_any_bytes_give_an_array_or_an_error_that_names_the_file(folder, content, cut):
    for name, part in (("whole", content), ("cut", content[:cut])):
        path = save(folder, part, name)
        try:
            outcome = read_npy(path)
        except DataError as error:
            outcome = error
        assert isinstance(outcome, np.ndarray) or str(path) in str(outcome)


PACKED = as_npz(("X.npy", as_npy(SIX)), compression=zipfile.ZIP_DEFLATED)


@settings(deadline=None, max_examples=400)
@given(
    whole=st.sampled_from([WHOLE, PACKED]),
    position=st.integers(0, 600),
    byte=st.integers(0, 255),
    cut=st.integers(0, 600),
)
def test_a_damaged_archive_gives_columns_or_an_error_that_names_it(
    folder, whole, position, byte, cut
):
    content = bytearray(whole)
    content[position % len(content)] = byte
    for part in (content, content[:cut]):
        path = save(folder, bytes(part), "a.npz")
        try:
            outcome = read_npz(path)
        except DataError as error:
            outcome = error
        assert isinstance(outcome, Columns) or str(path) in str(outcome)


@pytest.mark.parametrize("kind", ["npy", "npz", "compressed"])
def test_a_loader_gathers_each_row_once_and_resumes_at_every_batch(tmp_path, kind):
    rows = np.arange(50, dtype=np.float32).reshape(25, 2)
    if kind == "npy":
        data = read_npy(save(tmp_path, as_npy(rows)))
    else:
        path = tmp_path / "a.npz"
        (np.savez if kind == "npz" else np.savez_compressed)(path, X=rows, y=rows[:, 0])
        data = read_npz(path)

    def make() -> DataLoader:
        return DataLoader(data, batch_size=4, shuffle=True, seed=1)

    def ids(batches) -> list[float]:
        parts = (batch if kind == "npy" else batch["X"] for batch in batches)
        return [float(value) for part in parts for value in part[:, 0]]

    loader = make()
    assert loader.path.startswith("batched")
    order = ids(loader)
    assert sorted(order) == rows[:, 0].tolist()
    assert order == ids(make())
    for done in range(8):
        loader = make()
        batches = iter(loader)
        for _ in range(done):
            next(batches)
        other = make()
        other.load_state_dict(json.loads(json.dumps(loader.state_dict())))
        assert ids(other) == order[4 * done :]


def test_a_mapped_array_in_another_byte_order_is_native_in_memory(tmp_path):
    array = read_npy(save(tmp_path, as_npy(SIX.astype(">i2"))))
    assert array.dtype.isnative
    assert torch.equal(torch.from_numpy(array), torch.from_numpy(SIX))
