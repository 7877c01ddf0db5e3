"""Find a data set's files on this machine, or download them."""

from __future__ import annotations

import os
from pathlib import Path

import pooch

from handful.datasets.remote import RemoteDataset, RemoteFile
from handful.datasets.transfer import fetch_file
from handful.errors import ArgumentError, FormatError, MissingDataError

__all__ = ["find_or_download"]


def find_or_download(
    dataset: RemoteDataset, *, cache_dir: str | os.PathLike[str] | None = None
) -> dict[str, Path]:
    """Find a data set's files on this machine, or else download them.

    Looks in ``$HANDFUL_DATA/<dataset>``, ``$HANDFUL_DATA``, the user's cache and the
    folder of the operating system's package, in this order. The first folder that has
    all files counts; each may be plain or ``.gz`` and may be spelt with a dot
    (``train-images.idx3-ubyte``). Otherwise the files are downloaded into the user's
    cache, from ``$HANDFUL_MIRROR/<dataset>/`` if that is set, then from the mirrors;
    a mirror that fails once is not asked again.

    Downloaded files are verified by checksum. Files found here are not, since they may
    have been compressed anew; whoever reads them checks their structure.

    Args:
        dataset: What to find.
        cache_dir: Folder for the downloaded files in place of the user's cache.

    Returns:
        The path of each file by its name without ``.gz``.

    Raises:
        MissingDataError: The files are not here and no mirror answered, or the cache
            cannot be written.
        FormatError: No mirror had the right file, and at least one sent another.
        ArgumentError: ``HANDFUL_MIRROR`` is not an http or https address.
    """
    user_cache = Path(pooch.os_cache("handful"), dataset.name)
    cache = user_cache if cache_dir is None else Path(cache_dir)
    folders = _list_folders(dataset, cache)
    for folder in folders:
        found = _find_files(folder, dataset)
        if len(found) == len(dataset.files):
            return found
    return _download(dataset, cache, folders)


def _list_folders(dataset: RemoteDataset, cache: Path) -> list[Path]:
    folders = []
    if root := os.environ.get("HANDFUL_DATA"):
        folders += [Path(root).expanduser() / dataset.name, Path(root).expanduser()]
    folders.append(cache)
    if dataset.system_dir is not None:
        folders.append(dataset.system_dir)
    return folders


def _find_files(folder: Path, dataset: RemoteDataset) -> dict[str, Path]:
    """Give the path of each of the data set's files that a folder has."""
    found = {}
    for file in dataset.files:
        paths = (folder / spelling for spelling in _spellings(file.name))
        path = next((path for path in paths if path.is_file()), None)
        if path is not None:
            found[file.name] = path
    return found


def _spellings(name: str) -> tuple[str, ...]:
    dotted = name.replace("-idx", ".idx")
    return (f"{name}.gz", name, f"{dotted}.gz", dotted)


def _list_mirrors(dataset: RemoteDataset) -> list[str]:
    own = os.environ.get("HANDFUL_MIRROR")
    if not own:
        return list(dataset.mirrors)
    if not own.startswith(("http://", "https://")):
        raise ArgumentError(
            f"HANDFUL_MIRROR must be an address that begins with http:// or https://; "
            f"got {own!r}. The files are expected below it as <data set>/<file>.gz."
        )
    return [f"{own.rstrip('/')}/{dataset.name}/", *dataset.mirrors]


def _download(
    dataset: RemoteDataset, cache: Path, folders: list[Path]
) -> dict[str, Path]:
    mirrors = _list_mirrors(dataset)
    failures: dict[str, Exception] = {}
    paths = {}
    for file in dataset.files:
        path = _fetch_from_first(file, mirrors, cache, failures)
        if path is None:
            raise _explain_failure(dataset, folders, failures)
        paths[file.name] = path
    return paths


def _fetch_from_first(
    file: RemoteFile, mirrors: list[str], cache: Path, failures: dict[str, Exception]
) -> Path | None:
    """Fetch a file from the first mirror that has it.

    Mirrors that fail move from ``mirrors`` to ``failures``.
    """
    while mirrors:
        try:
            return fetch_file(file, mirrors[0], cache)
        except (ConnectionError, FormatError) as error:
            failures[mirrors.pop(0)] = error
        except OSError as error:
            raise MissingDataError(
                f"{file.name}.gz cannot be saved in {cache} ({error}). Make room there "
                "or make the folder writable, or put the data set's files into "
                "a folder of your own and name it in HANDFUL_DATA."
            ) from error
    return None


def _explain_failure(
    dataset: RemoteDataset, folders: list[Path], failures: dict[str, Exception]
) -> FormatError | MissingDataError:
    wrong = [e for e in failures.values() if isinstance(e, FormatError)]
    reasons = [
        f"{mirror} ({error})"
        for mirror, error in failures.items()
        if not isinstance(error, FormatError)
    ]
    if wrong:
        others = f" No help from {', '.join(reasons)}." if reasons else ""
        return FormatError(f"{' '.join(map(str, wrong))}{others}")
    looked = ", ".join(_describe_folder(folder, dataset) for folder in folders)
    names = ", ".join(f"{file.name}.gz" for file in dataset.files)
    package = f", or run `apt install {dataset.package}` on Debian or Ubuntu"
    return MissingDataError(
        f"{dataset.name} must be on this machine or on a mirror that answers; found it "
        f"neither in {looked} nor at {', '.join(reasons) or 'any mirror'}. Put "
        f"{names} into $HANDFUL_DATA/{dataset.name}, where HANDFUL_DATA names a folder "
        f"of your choice{package if dataset.package else ''}."
    )


def _describe_folder(folder: Path, dataset: RemoteDataset) -> str:
    found = _find_files(folder, dataset)
    if not found:
        return str(folder)
    lacking = [file.name for file in dataset.files if file.name not in found]
    return f"{folder} (which lacks {' and '.join(lacking)})"
