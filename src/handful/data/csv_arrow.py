"""CSV files read by Arrow: what the columns hold, and the cells as typed columns."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from handful.data.csv_text import MISSING_TEXTS, CsvFile, Quoting, scan_quotes
from handful.errors import FormatError
from handful.extras import import_extra

BLOCK_BYTES = 1 << 22
"""What Arrow reads at a time; a row must fit into it."""

FIRST_BYTES = 1 << 20
"""From how much of a file it is told what the columns hold."""

_FOUND = {
    **dict.fromkeys(("int64", "double", "null"), "number"),
    "bool": "boolean",
    "string": "category",
}


@dataclass(frozen=True)
class ArrowCsv:
    """A CSV file, and the modules that read it.

    Attributes:
        file: The file as text.
        names: Its columns.
        arrow: The module ``pyarrow``.
        csv: The module ``pyarrow.csv``.
    """

    file: CsvFile
    names: tuple[str, ...]
    arrow: Any
    csv: Any

    def find_kinds(self) -> dict[str, str]:
        """Return what the columns hold by the first block.

        Returns:
            For each name ``"number"``, ``"boolean"`` or ``"category"``, or the name of
            Arrow's type if it is none of these.

        Raises:
            FormatError: The block is no CSV table.
        """
        with self.file.path.open("rb") as file:
            block = file.read(FIRST_BYTES)
        options = self.csv.ConvertOptions(null_values=MISSING_TEXTS)
        parse = self._parse_options(has_newlines=True)
        if len(block) == FIRST_BYTES:  # Its last row is cut short.
            parse.invalid_row_handler = lambda _: "skip"
            block = block[: max(block.rfind(b"\n"), block.rfind(b"\r")) + 1]
        with self._explained({}):
            table = self.csv.read_csv(
                self.arrow.BufferReader(block),
                read_options=self._read_options(FIRST_BYTES),
                parse_options=parse,
                convert_options=options,
            )
        kinds = {field.name: str(field.type) for field in table.schema}
        if "binary" in kinds.values():  # Texts that are not UTF-8.
            raise self.file.wrong_bytes()
        return {name: _FOUND.get(kind, kind) for name, kind in kinds.items()}

    def read(self, kinds: Mapping[str, str]) -> Any:
        """Return columns as a ``pyarrow.Table``.

        Args:
            kinds: For each column that is wanted ``"number"``, ``"boolean"``,
                ``"category"``, or for a target ``"value"`` or ``"texts"``.

        Returns:
            Columns of float32, booleans, dictionaries of texts, float64 and again
            dictionaries; a missing number or boolean as null or NaN, a missing text as
            the empty one.

        Raises:
            FormatError: The file is no CSV table, or a cell is not of its column's
                kind.
        """
        quoting = scan_quotes(self.file.path, self.file.delimiter)
        if not quoting.is_regular:
            fault = self.file.find_fault({})
            if fault is not None:
                raise fault
        types = {name: self._type_of(kind) for name, kind in kinds.items()}
        try:  # Looking every cell up among the words for none takes longer.
            return self._read_typed(types, ("",), quoting)
        except self.arrow.ArrowInvalid:
            pass
        told = {
            self.names.index(name): kind
            for name, kind in kinds.items()
            if kind not in ("category", "texts")
        }
        with self._explained(told):
            return self._read_typed(types, MISSING_TEXTS, quoting)

    def _read_typed(
        self, types: Mapping[str, Any], nulls: tuple[str, ...], quoting: Quoting
    ) -> Any:
        options = self.csv.ConvertOptions(
            column_types=types, include_columns=list(types), null_values=nulls
        )
        return self.csv.read_csv(
            os.fspath(self.file.path),
            read_options=self._read_options(BLOCK_BYTES),
            parse_options=self._parse_options(has_newlines=quoting.has_newlines),
            convert_options=options,
        )

    def _read_options(self, block_bytes: int) -> Any:
        names = None if self.file.has_header else self.names
        return self.csv.ReadOptions(block_size=block_bytes, column_names=names)

    def _parse_options(self, *, has_newlines: bool) -> Any:
        return self.csv.ParseOptions(
            delimiter=self.file.delimiter, newlines_in_values=has_newlines
        )

    def _type_of(self, kind: str) -> Any:
        if kind in ("category", "texts"):
            return self.arrow.dictionary(self.arrow.int32(), self.arrow.string())
        if kind == "boolean":
            return self.arrow.bool_()
        return self.arrow.float64() if kind == "value" else self.arrow.float32()

    @contextmanager
    def _explained(self, kinds: Mapping[int, str]) -> Iterator[None]:
        """Turn what Arrow says of a file into an error that names the place."""
        try:
            yield
        except (self.arrow.ArrowInvalid, UnicodeDecodeError) as error:
            found = self.file.find_fault(kinds)
            if found is None:
                found = FormatError(
                    f"{self.file.path} must be a CSV table that Arrow can read; got: "
                    f"{str(error).splitlines()[0]}."
                )
            raise found from None


def open_csv(file: CsvFile) -> ArrowCsv:
    """Check a file, read its header, and return what reads its cells.

    Raises:
        ArgumentError: The delimiter is another, as it seems.
        FormatError: There is no file, no header or no row, or two columns have the same
            name.
        MissingExtraError: pyarrow is not installed.
    """
    modules = (
        import_extra(name, extra="arrow", purpose="read_csv")
        for name in ("pyarrow", "pyarrow.csv")
    )
    return ArrowCsv(file, tuple(file.read_names()), *modules)
