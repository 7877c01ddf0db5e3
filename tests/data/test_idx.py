"""Reading IDX files: round trips, and every way in which a file can be wrong."""

from __future__ import annotations

import gzip
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as np_st

from handful.data.idx import read_idx
from handful.errors import FormatError

TYPE_CODES = {
    np.dtype("u1"): 0x08,
    np.dtype("i1"): 0x09,
    np.dtype("i2"): 0x0B,
    np.dtype("i4"): 0x0C,
    np.dtype("f4"): 0x0D,
    np.dtype("f8"): 0x0E,
}
SIX = np.arange(6, dtype=np.int16).reshape(2, 3)


def header(code: int, *sizes: int) -> bytes:
    return struct.pack(f">BBBB{len(sizes)}I", 0, 0, code, len(sizes), *sizes)


def as_idx(array: np.ndarray) -> bytes:
    items = array.astype(array.dtype.newbyteorder(">")).tobytes()
    return header(TYPE_CODES[array.dtype], *array.shape) + items


def save(folder: Path, content: bytes, name: str = "some-file") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all examples of a property."""
    return tmp_path_factory.mktemp("idx")


arrays = st.sampled_from(list(TYPE_CODES)).flatmap(
    lambda dtype: np_st.arrays(
        dtype, np_st.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=5)
    )
)


@settings(deadline=None)
@given(array=arrays, is_gzip=st.booleans())
def test_what_was_written_is_read_bit_for_bit(folder, array, is_gzip):
    content = as_idx(array)
    read = read_idx(save(folder, gzip.compress(content) if is_gzip else content))
    assert read.dtype == array.dtype
    assert read.shape == array.shape
    assert read.tobytes() == array.tobytes()


@pytest.mark.parametrize("dtype", TYPE_CODES, ids=str)
def test_the_array_is_native_contiguous_and_writable(tmp_path, dtype):
    read = read_idx(save(tmp_path, as_idx(np.ones((2, 3), dtype))))
    assert read.dtype.isnative
    assert read.flags.c_contiguous
    assert read.flags.aligned
    read[0, 0] = 7
    assert read.sum() == 12


def test_multi_byte_items_are_big_endian(tmp_path):
    path = save(tmp_path, header(0x0B, 2) + b"\x01\x02\xff\xfe")
    assert read_idx(path).tolist() == [258, -2]


def test_compression_is_told_by_content_and_not_by_name(tmp_path):
    plain = save(tmp_path, as_idx(SIX), "plain.gz")
    packed = save(tmp_path, gzip.compress(as_idx(SIX)), "packed")
    assert read_idx(plain).tolist() == read_idx(packed).tolist() == SIX.tolist()


def test_a_path_may_be_a_string(tmp_path):
    assert read_idx(str(save(tmp_path, as_idx(SIX)))).shape == (2, 3)


def near_idx() -> st.SearchStrategy[bytes]:
    """Bytes that begin as an IDX file may begin."""
    start = st.builds(
        lambda code, num_dims: bytes([0, 0, code, num_dims]),
        st.sampled_from([*TYPE_CODES.values(), 0x0A]),
        st.one_of(st.integers(0, 3), st.integers(0, 255)),
    )
    sizes = st.lists(st.sampled_from([b"\0\0\0\0", b"\0\0\0\x02", b"\xff" * 4]))
    return st.builds(
        lambda start, sizes, rest: start + b"".join(sizes) + rest,
        start,
        sizes,
        st.binary(max_size=40),
    )


@settings(max_examples=400, deadline=None)
@given(
    content=st.one_of(
        st.binary(max_size=200),
        near_idx(),
        near_idx().map(gzip.compress),
        st.binary(max_size=60).map(lambda rest: b"\x1f\x8b\x08" + rest),
        st.tuples(near_idx(), st.integers(0, 60)).map(
            lambda both: gzip.compress(both[0])[: both[1]]
        ),
    )
)
def test_any_bytes_give_an_array_or_a_format_error(folder, content):
    path = save(folder, content)
    try:
        outcome = read_idx(path)
    except FormatError as error:
        outcome = error
    assert isinstance(outcome, np.ndarray) or str(path) in str(outcome)


@settings(deadline=None)
@given(position=st.integers(0, 200), flip=st.integers(1, 255))
def test_a_changed_byte_of_gzip_data_never_changes_the_array(folder, position, flip):
    content = bytearray(gzip.compress(as_idx(SIX)))
    content[position % len(content)] ^= flip
    try:
        read = read_idx(save(folder, bytes(content)))
    except FormatError:
        return
    assert read.tolist() == SIX.tolist()


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "an empty file"),
        (b"\0\0", r"00 00\."),
        (b"PK\x03\x04more", "50 4B 03 04"),
        (b"\0\0\x08\0", "00 00 08 00"),
    ],
)
def test_a_wrong_magic_number_names_the_file_and_the_bytes(tmp_path, content, found):
    path = save(tmp_path, content)
    with pytest.raises(FormatError, match=f"some-file must begin .* got {found}"):
        read_idx(path)


def test_an_unknown_type_code_lists_the_known_ones(tmp_path):
    path = save(tmp_path, header(0x0A, 1) + b"\0")
    with pytest.raises(FormatError, match=r"some-file .*0D float32.*; got 0A"):
        read_idx(path)


def test_a_header_cut_short_says_how_long_it_must_be(tmp_path):
    path = save(tmp_path, header(0x08, 1, 2, 3)[:10])
    with pytest.raises(FormatError, match=r"some-file .* 16 bytes .* got 10 bytes"):
        read_idx(path)


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize(
    ("change", "found"),
    [(lambda idx: idx[:-1], "got 11"), (lambda idx: idx + b"\0", "got more")],
    ids=["short", "long"],
)
def test_a_wrong_number_of_items_says_both_numbers(tmp_path, pack, change, found):
    path = save(tmp_path, pack(change(as_idx(SIX))))
    with pytest.raises(
        FormatError, match=rf"some-file must hold 12 bytes .*int16.*\(2, 3\); {found}"
    ):
        read_idx(path)


def flip_checksum(packed: bytes) -> bytes:
    return packed[:-8] + bytes([packed[-8] ^ 1]) + packed[-7:]


@pytest.mark.parametrize(
    "damage",
    [flip_checksum, lambda packed: packed[:-9], lambda packed: packed + b"rest"],
    ids=["checksum", "cut", "trailing"],
)
def test_damaged_gzip_data_name_the_file(tmp_path, damage):
    path = save(tmp_path, damage(gzip.compress(as_idx(SIX))))
    with pytest.raises(FormatError, match="some-file must be whole gzip data; got"):
        read_idx(path)


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_a_short_file_that_declares_a_huge_array_costs_no_memory(tmp_path, pack):
    path = save(tmp_path, pack(header(0x0E, 2**31, 2**31) + bytes(8)))
    tracemalloc.start()
    with pytest.raises(FormatError, match=rf"must hold {2**65} bytes .* got 8\."):
        read_idx(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4_000_000


def test_a_gzip_bomb_is_not_unpacked(tmp_path):
    path = save(tmp_path, gzip.compress(header(0x08, 10) + bytes(100_000_000)))
    tracemalloc.start()
    with pytest.raises(FormatError, match=r"must hold 10 bytes .* got more"):
        read_idx(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4_000_000


def test_more_dimensions_than_numpy_holds_are_refused(tmp_path):
    path = save(tmp_path, header(0x08, *[1] * 255) + b"\0")
    with pytest.raises(FormatError, match="NumPy can hold; got 255 dimensions"):
        read_idx(path)


@pytest.mark.parametrize(
    ("expected", "wanted"),
    [
        ({"expect_shape": (None, 4)}, r"int16 of shape \(any, 4\)"),
        ({"expect_shape": (None,)}, r"int16 of shape \(any,\)"),
        ({"expect_dtype": np.uint8}, r"uint8 of shape \(2, 3\)"),
    ],
)
def test_another_shape_or_dtype_than_expected_shows_both(tmp_path, expected, wanted):
    path = save(tmp_path, as_idx(SIX))
    with pytest.raises(
        FormatError, match=rf"some-file must hold {wanted}; got int16 .*\(2, 3\)"
    ):
        read_idx(path, **expected)


def test_the_expected_shape_and_dtype_are_accepted(tmp_path):
    path = save(tmp_path, as_idx(SIX))
    read = read_idx(path, expect_shape=(None, 3), expect_dtype=np.int16)
    assert read.tolist() == SIX.tolist()


def test_a_missing_file_and_a_directory_are_os_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_idx(tmp_path / "nowhere")
    with pytest.raises(OSError, match=tmp_path.name):
        read_idx(tmp_path)
