"""Writing a figure into files, the same bytes each time."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from handful.errors import unknown_choice
from handful.runs.files import write_atomic

__all__ = ["save_figure"]

_DPI = 200
# Without these, a file would hold the time at which it was written.
_METADATA: Mapping[str, dict[str, None]] = {
    "pdf": {"CreationDate": None},
    "png": {},
    "svg": {"Date": None},
}


def save_figure(
    figure: Figure, path: str | Path, *, formats: Sequence[str] = ("png", "svg")
) -> list[Path]:
    """Write a figure into one file per format.

    The same figure gives the same bytes: no file holds a date or a random name.

    Args:
        figure: The figure.
        path: The file; its suffix, if it is that of a format, is replaced by each
            format's. The folder exists.
        formats: Some of ``"png"`` (200 dots per inch), ``"svg"``, ``"pdf"``.

    Returns:
        The files, in the order of ``formats``. Each is written whole or not at all.

    Raises:
        ArgumentError: A format is unknown.
        OSError: A file cannot be written.
    """
    for name in formats:
        if name not in _METADATA:
            raise unknown_choice("formats", name, _METADATA)
    stem = Path(path)
    stem = stem.with_suffix("") if stem.suffix[1:] in _METADATA else stem
    files = []
    for name in formats:
        files.append(stem.with_name(f"{stem.name}.{name}"))
        write_atomic(files[-1], _render(figure, name))
    return files


def _render(figure: Figure, name: str) -> bytes:
    buffer = io.BytesIO()
    # The names of an SVG's parts are hashed with a salt, which is random if not set.
    with mpl.rc_context({"svg.hashsalt": "handful"}):
        figure.savefig(buffer, format=name, dpi=_DPI, metadata=_METADATA[name])
    return buffer.getvalue()
