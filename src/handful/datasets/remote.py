"""What the mirrors serve: names, sizes and checksums of each data set's files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["FASHION_MNIST", "MNIST", "RemoteDataset", "RemoteFile"]


@dataclass(frozen=True, kw_only=True, slots=True)
class RemoteFile:
    """One file, compressed with gzip on every mirror."""

    name: str
    """Name without ``.gz``, such as ``train-images-idx3-ubyte``."""

    num_bytes: int
    """Size of the compressed file that the mirrors serve."""

    sha256: str
    """Checksum of the compressed file that the mirrors serve, in hexadecimal."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RemoteDataset:
    """The files of one data set and the places that may have them."""

    name: str
    """Name of the data set and of its folder, such as ``fashion-mnist``."""

    files: tuple[RemoteFile, ...]
    """Every file; a folder that lacks one of them does not count."""

    mirrors: tuple[str, ...]
    """Addresses below which ``<file>.gz`` lies, in the order to try them."""

    system_dir: Path | None = None
    """Where an operating system's package puts the files."""

    package: str | None = None
    """Name of that package in Debian."""


def _name_files(*sizes_and_sums: tuple[int, str]) -> tuple[RemoteFile, ...]:
    """Give the four files that MNIST and its relatives share their names."""
    names = (
        "train-images-idx3-ubyte",
        "train-labels-idx1-ubyte",
        "t10k-images-idx3-ubyte",
        "t10k-labels-idx1-ubyte",
    )
    return tuple(
        RemoteFile(name=name, num_bytes=num_bytes, sha256=sha256)
        for name, (num_bytes, sha256) in zip(names, sizes_and_sums, strict=True)
    )


# Sizes and checksums agree with the lists in tensorflow/datasets (url_checksums).
MNIST = RemoteDataset(
    name="mnist",
    files=_name_files(
        (
            9_912_422,
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        ),
        (
            28_881,
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        ),
        (
            1_648_877,
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        ),
        (
            4_542,
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        ),
    ),
    mirrors=(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
)

FASHION_MNIST = RemoteDataset(
    name="fashion-mnist",
    files=_name_files(
        (
            26_421_880,
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        ),
        (
            29_515,
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        ),
        (
            4_422_102,
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        ),
        (
            5_148,
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        ),
    ),
    mirrors=(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
    ),
    system_dir=Path("/usr/share/datasets/fashion-mnist"),
    package="dataset-fashion-mnist",
)
