"""CSV files as columns: what is read, and every way in which a file can be wrong."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from handful import DataLoader
from handful.data.csv_file import CsvTable, read_csv
from handful.data.csv_schema import TableSchema
from handful.errors import ArgumentError, DataError, FormatError

pytest.importorskip("pyarrow", reason="pyarrow is missing")

CARS = """\
speed,color,new,price,maker
1.5,red,true,100,vw
2,blue,false,200.5,bmw
-3e2,red,true,300,vw
"""


def save(folder: Path, text: str | bytes, name: str = "t.csv") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def read(folder: Path, text: str | bytes, **options) -> CsvTable:
    return read_csv(save(folder, text), **options)


def test_a_matrix_has_numbers_then_codes_then_the_target(tmp_path):
    table = read(tmp_path, CARS, target="maker")
    numbers, codes, target = table.data.tensors
    assert numbers.dtype is torch.float32
    assert numbers.tolist() == [[1.5, 1, 100], [2, 0, 200.5], [-300, 1, 300]]
    assert codes.dtype is target.dtype is torch.int64
    assert codes.tolist() == [[1], [0], [1]]
    assert target.tolist() == [1, 0, 1]
    assert [c.name for c in table.schema.numbers] == ["speed", "new", "price"]
    assert table.schema.categories[0].categories == ("blue", "red")
    assert table.schema.target.classes == ("bmw", "vw")
    assert len(table) == 3


def test_named_columns_keep_the_order_and_names_of_the_file(tmp_path):
    table = read(tmp_path, CARS, target="price", layout="named")
    assert table.data.names == ("speed", "color", "new", "maker", "price")
    sample = table.data[1]
    assert [sample["speed"].item(), sample["new"].item()] == [2, 0]
    assert sample["color"].item() == sample["maker"].item() == 0
    assert sample["price"].item() == pytest.approx(200.5)
    assert sample["price"].dtype is torch.float32


def test_a_column_may_be_called_self(tmp_path):
    table = read(tmp_path, "self,y\n1,2\n", layout="named")
    assert table.data.names == ("self", "y")


def test_without_a_target_all_columns_are_inputs(tmp_path):
    (matrix,) = read(tmp_path, "a,b\n1,2\n3,4\n").data.tensors
    assert matrix.tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize("target", ["c", 2, -1])
def test_the_target_is_found_by_name_or_place(tmp_path, target):
    table = read(tmp_path, "a,b,c\n1,2,x\n3,4,y\n", target=target)
    assert table.data.tensors[1].tolist() == [0, 1]


def target_of(tmp_path: Path, cells: list[object], **options) -> CsvTable:
    rows = "".join(f"1,{cell}\n" for cell in cells)
    return read(tmp_path, f"x,y\n{rows}", target="y", **options)


def test_few_whole_numbers_are_classes_with_codes_in_their_order(tmp_path):
    table = target_of(tmp_path, [30, 10, "20.0", -5, 10])
    assert table.schema.target.classes == (-5, 10, 20, 30)
    assert table.data.tensors[1].tolist() == [3, 1, 2, 0, 1]


@pytest.mark.parametrize("cells", [range(21), [0, 1, 0.5], [0.5] * 9])
def test_many_whole_numbers_or_fractions_are_values(tmp_path, cells):
    table = target_of(tmp_path, list(cells))
    assert table.schema.target.kind == "values"
    assert table.data.tensors[1].dtype is torch.float32
    assert table.data.tensors[1].tolist() == list(cells)


def test_a_late_fraction_makes_all_of_a_target_values(tmp_path):
    table = target_of(tmp_path, [0, 1] * 5000 + [0.5])
    assert table.schema.target.kind == "values"


def test_what_dtypes_say_of_the_target_holds(tmp_path):
    classes = target_of(tmp_path, list(range(30)), dtypes={"y": "classes"})
    assert len(classes.schema.target.classes) == 30
    values = target_of(tmp_path, [0, 1], dtypes={"y": "values"})
    assert values.data.tensors[1].tolist() == [0.0, 1.0]
    assert values.data.tensors[1].dtype is torch.float32


def test_true_and_false_are_classes_by_their_texts(tmp_path):
    assert target_of(tmp_path, ["true", "false"]).schema.target.classes == (
        "false",
        "true",
    )


def test_a_column_of_digits_is_text_if_dtypes_say_so(tmp_path):
    table = read(
        tmp_path, "zip,x\n01,5\n1,6\n", dtypes={"zip": "category", "x": "number"}
    )
    assert table.schema.categories[0].categories == ("01", "1")


def test_an_ignored_column_is_not_read(tmp_path):
    table = read(tmp_path, "id,x\nfoo,1\nbar,2\n", dtypes={"id": "ignore"})
    assert [c.name for c in table.schema.columns] == ["x"]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_byte_order_marks_and_line_ends_make_no_difference(tmp_path, end, mark):
    text = CARS.replace("\n", end).encode()
    table = read(tmp_path, mark + text, target="maker")
    assert table.schema == read(tmp_path, CARS, target="maker").schema


def test_quoted_cells_may_hold_delimiters_quotes_and_newlines(tmp_path):
    text = 'x,name\n1,"a, ""b"""\n"2","two\nlines"\n\n3,"5"" pipe"\n'
    table = read(tmp_path, text)
    texts = ('5" pipe', 'a, "b"', "two\nlines")
    assert table.schema.categories[0].categories == texts
    assert table.data.tensors[1].tolist() == [[1], [2], [0]]
    assert table.data.tensors[0].tolist() == [[1], [2], [3]]


def test_a_quote_within_a_cell_without_quotes_is_text(tmp_path):
    table = read(tmp_path, 'x,name\n1,5" pipe\n2,a\n')
    assert table.schema.categories[0].categories == ('5" pipe', "a")


def test_newlines_in_quotes_hold_across_blocks_of_the_reader(tmp_path):
    rows = "".join(f'{i},"a\nb,{"x" * 100}"\n' for i in range(60_000))
    table = read(tmp_path, f"i,text\n{rows}")
    assert table.data.tensors[0][:, 0].tolist() == list(range(60_000))


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_another_delimiter_is_read_when_it_is_said(tmp_path, delimiter):
    text = CARS.replace(",", delimiter)
    table = read(tmp_path, text, delimiter=delimiter, target="maker")
    assert table.data.tensors[0].shape == (3, 3)


def test_without_a_header_columns_are_numbered(tmp_path):
    table = read(tmp_path, "5,0,0\n4,1,2\n", header=False, target=0)
    assert [c.name for c in table.schema.columns] == ["1", "2"]
    assert table.data.tensors[0].tolist() == [[0, 0], [1, 2]]
    assert table.schema.target.classes == (4, 5)


def test_a_large_file_is_read_whole_and_in_order(tmp_path):
    count = 150_000
    rows = "".join(f"{i},{i % 7},{'ab'[i % 2]}{i % 5}\n" for i in range(count))
    table = read(tmp_path, f"i,y,c\n{rows}", target="y")
    numbers, codes, target = table.data.tensors
    assert torch.equal(numbers[:, 0], torch.arange(count, dtype=torch.float32))
    assert torch.equal(target, torch.arange(count) % 7)
    known = table.schema.categories[0].categories
    assert [known[c] for c in codes[-10:, 0]] == [
        f"{'ab'[i % 2]}{i % 5}" for i in range(count - 10, count)
    ]


# Missing cells.

GAPS = "x,c,b,y\n1,red,true,0\nNA,blue,false,1\n3,,true,0\n5,red,,1\n"


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("x,y\n1,2\n\n,3\n", r"t\.csv, line 4, column 'x' must have a value; got an"),
        ("x,y\n1,2\nnan,3\n", r"line 3, column 'x' must have a value; got 'nan'"),
        ("c,y\na,2\n,3\n", r"line 3, column 'c' must have a value; got an empty"),
        ("b,y\ntrue,2\nNA,3\n", r"line 3, column 'b' must have a value; got 'NA'"),
        ("x,c,z\n1,a\n,2\n\nNA,3\n", r"line 2 must have 3 cells"),
        ('t,x\n"two\nlines",1\nb,\n', r"line 4, column 'x' must have a value"),
    ],
)
def test_a_missing_cell_is_named_by_line_and_column(tmp_path, text, match):
    with pytest.raises(DataError, match=match):
        read(tmp_path, text)


def test_rows_with_gaps_are_dropped_and_counted(tmp_path):
    table = read(tmp_path, GAPS, target="y", missing="drop")
    assert table.num_dropped == 3
    assert table.data.tensors[0].tolist() == [[1, 1]]
    assert table.schema.categories[0].categories == ("red",)
    assert table.schema.target.classes == (0,)


def test_gaps_are_filled_with_means_and_the_empty_category(tmp_path):
    table = read(tmp_path, GAPS, target="y", missing="mean")
    numbers, codes, _ = table.data.tensors
    assert numbers.tolist() == [[1, 1], [3, 0], [3, 1], [5, pytest.approx(2 / 3)]]
    assert table.schema.categories[0].categories == ("", "blue", "red")
    assert codes[:, 0].tolist() == [2, 1, 0, 2]


def test_means_of_the_first_file_fill_the_second(tmp_path):
    schema = read(tmp_path, "x,y\n1,0\n3,1\n", target="y", missing="mean").schema
    again = read(tmp_path, "y,x\n0,\n1,7\n", schema=schema)
    assert again.data.tensors[0].tolist() == [[2], [7]]


@pytest.mark.parametrize("missing", ["raise", "mean"])
@pytest.mark.parametrize("cells", [["1", ""], ["a", ""], ["1.5", "NA"]])
def test_a_missing_target_is_never_filled(tmp_path, missing, cells):
    with pytest.raises(DataError, match=r"line 3, column 'y' must have a value"):
        target_of(tmp_path, cells, missing=missing)


def test_a_column_without_any_value_has_no_mean(tmp_path):
    with pytest.raises(DataError, match=r"t\.csv, column 'x' must have a value for"):
        read(tmp_path, "x,z\n,1\n,2\n", missing="mean")


def test_dropping_every_row_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"t\.csv must have a row without missing"):
        read(tmp_path, "x,z\n,1\n,2\n", missing="drop")


@pytest.mark.parametrize("cell", ["inf", "-inf", "1e39"])
def test_numbers_that_float32_does_not_hold_are_named(tmp_path, cell):
    with pytest.raises(DataError, match=rf"line 3, column 'b' .* got '{cell}'"):
        read(tmp_path, f"a,b\n1,2\n3,{cell}\n")
    with pytest.raises(DataError, match=rf"line 3, column 'y' .* got '{cell}'"):
        target_of(tmp_path, [1, cell])


# The same reading of another file.


def test_a_schema_reads_another_file_the_same_way_by_way_of_json(tmp_path):
    first = read(tmp_path, CARS, target="maker")
    plain = json.loads(json.dumps(first.schema.to_dict()))
    schema = TableSchema.from_dict(plain)
    other = "maker,price,more,color,new,speed\nvw,1,?,blue,0,8\n"
    table = read(tmp_path, other, schema=schema)
    numbers, codes, target = table.data.tensors
    assert numbers.tolist() == [[8, 0, 1]]
    assert codes.tolist() == [[0]]
    assert target.tolist() == [1]
    assert table.schema == first.schema


def test_codes_are_those_of_the_schema_though_others_occur(tmp_path):
    schema = read(tmp_path, "c,y\na,10\nb,20\nc,30\n", target="y").schema
    table = read(tmp_path, "c,y\nc,30\nb,20\n", schema=schema)
    assert table.data.tensors[0].tolist() == [[2], [1]]
    assert table.data.tensors[1].tolist() == [2, 1]


def test_an_unknown_category_is_named_or_gets_the_extra_code(tmp_path):
    schema = read(tmp_path, "c,x\na,1\nb,2\n").schema
    path = save(tmp_path, "c,x\nb,1\nz,2\n", "second.csv")
    with pytest.raises(DataError, match=r"second\.csv, line 3, column 'c' .* got 'z'"):
        read_csv(path, schema=schema)
    table = read_csv(path, schema=schema, unknown="extra")
    assert table.data.tensors[1].tolist() == [[1], [2]]


def test_an_unknown_category_behind_dropped_rows_has_the_files_line(tmp_path):
    first = read(tmp_path, "c,x\na,1\nb,2\n").schema
    schema = dataclasses.replace(first, missing="drop")
    with pytest.raises(DataError, match=r"line 4, column 'c' .* got 'z'"):
        read(tmp_path, "c,x\na,1\na,\nz,2\n", schema=schema)


@pytest.mark.parametrize(
    ("cells", "more", "match"),
    [
        (["a", "b"], "z", r"line 2, column 'y' .* 2 classes .*\('a', 'b'\); got 'z'"),
        ([1, 2], 3, r"line 2, column 'y' .* 2 classes .*\(1, 2\); got '3'"),
        ([1, 2], 1.5, r"line 2, column 'y' must be a whole number .*; got '1\.5'"),
    ],
)
def test_an_unknown_class_is_named_beside_the_known_ones(tmp_path, cells, more, match):
    schema = target_of(tmp_path, cells).schema
    with pytest.raises(DataError, match=match):
        read(tmp_path, f"x,y\n1,{more}\n", schema=schema)


def test_a_table_without_its_target_is_read_by_a_schema_without(tmp_path):
    schema = target_of(tmp_path, ["a", "b"]).schema
    with pytest.raises(
        DataError, match=r"target 'y' of the schema; got 'x'\..*without"
    ):
        read(tmp_path, "x\n5\n", schema=schema)
    table = read(tmp_path, "x\n5\n", schema=schema.without_target())
    assert len(table.data.tensors) == 1


def test_a_column_of_the_schema_that_is_not_there_is_named(tmp_path):
    schema = read(tmp_path, "a,b\n1,2\n").schema
    with pytest.raises(DataError, match=r"t\.csv must have the column 'b' .* got 'a'"):
        read(tmp_path, "a\n1\n", schema=schema)


# Files that are wrong.

WRONG = {
    "empty": (b"", r"must have a header and rows; the file is empty"),
    "only a byte order mark": (b"\xef\xbb\xbf", "the file is empty"),
    "only empty lines": (b"\n\r\n\n", "the file is empty"),
    "only a header": (b"a,b\n", "must have rows below its header; got the header al"),
    "a short row": (b"a,b\n1,2\n\n3\n", "line 4 must have 2 cells, .*; got 1"),
    "a long row": (b"a,b\n1,2\n3,4,5\n", "line 3 must have 2 cells, .*; got 3"),
    "no number": (
        b"a,b\n" + b"1,2\n" * 500_000 + b"3,x4\n",
        r"line 500002, column 'b' must be a number; got 'x4'\..*'b': 'category'",
    ),
    "a column twice": (b"a,b,a\n1,2,3\n", "got 'a' twice in its header. Rename"),
    "no header": (b"0,1,0\n1,2,3\n", "got '0' twice in its header. Pass header=False"),
    "an open quote": (b'a,b\n1,"x\n2,y\n', "line 2 must be cells of which each quote"),
    "an open quote last": (b'a,b\n1,y\n2,"x', "line 3 must be cells of which each q"),
    "a quote amid": (b'a,b\n1,"x"y"\n2,"z\n', "line 2 must be cells of which each q"),
    "a long cell": (b'a,b\n1,"' + b"x\n" * 70_000, "line 2 must have cells of at most"),
    "not UTF-8": (b"a,b\n1,x\n2,\xff\n", "must be text in UTF-8; got .* on line 3"),
    "UTF-16": ("a,b\n1,2\n".encode("utf-16"), "must be text in UTF-8; .* line 1"),
    "Latin-1 header": (b"a,\xe4\n1,2\n", "must be text in UTF-8; .* line 1"),
    "gzip": (b"\x1f\x8b\x08\0", "must be plain text; got gzip data"),
    "dates": (b"a,b\n1,2020-01-02\n", "column 'b' must hold numbers, .*; got date32"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_file_is_one_sentence_that_names_it(tmp_path, name):
    content, match = WRONG[name]
    with pytest.raises(DataError, match=match) as caught:
        read(tmp_path, content)
    assert str(tmp_path / "t.csv") in str(caught.value)


def test_a_late_byte_that_is_not_utf8_is_named_by_its_line(tmp_path):
    rows = b"1,x\n" * 400_000
    with pytest.raises(FormatError, match="UTF-8; got other bytes on line 400002"):
        read(tmp_path, b"a,b\n" + rows + b"2,\xe4\n" + rows)


def test_a_word_that_is_neither_true_nor_false_is_named(tmp_path):
    rows = "true,1\n" * 300_000
    match = r"line 300002, column 'b' must be true or false; got 'maybe'"
    with pytest.raises(FormatError, match=match):
        read(tmp_path, f"b,x\n{rows}maybe,1\n")


def test_a_target_that_should_be_values_names_the_cell_that_is_none(tmp_path):
    with pytest.raises(FormatError, match=r"line 3, column 'y' .* got 'b'.*'classes'"):
        target_of(tmp_path, [1, "b"], dtypes={"y": "values"})


def test_a_target_that_should_be_classes_names_the_cell_that_is_none(tmp_path):
    with pytest.raises(DataError, match=r"line 3, column 'y' must be a whole number"):
        target_of(tmp_path, [1, 2.5], dtypes={"y": "classes"})


@pytest.mark.parametrize(("given", "likely"), [(",", ";"), (",", "\t"), (";", ",")])
def test_a_wrong_delimiter_names_the_likely_one(tmp_path, given, likely):
    text = CARS.replace(",", likely)
    with pytest.raises(ArgumentError, match=r"delimiter must be .* Pass") as caught:
        read(tmp_path, text, delimiter=given)
    assert f"Pass delimiter={likely!r}" in str(caught.value)


def test_a_wrong_delimiter_beside_decimal_commas_is_noticed_too(tmp_path):
    with pytest.raises(ArgumentError, match=r"Pass delimiter=';'"):
        read(tmp_path, "a;b\n1,5;2,5\n")


def test_missing_files_and_folders_are_refused(tmp_path):
    with pytest.raises(FormatError, match=r"none\.csv must be .* no such file"):
        read_csv(tmp_path / "none.csv")
    with pytest.raises(FormatError, match="must be a CSV file; got a folder"):
        read_csv(tmp_path)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"target": "pric"}, r"target of .* Did you mean 'price'\?"),
        ({"target": 9}, r"target must be a place from -5 to 4, .*; got 9"),
        ({"target": 1.5}, r"target must be a column's name or its place; got 1\.5"),
        ({"missing": "skip"}, "missing must be one of drop, mean, raise; got 'skip'"),
        ({"layout": "rows"}, "layout must be one of matrix, named; got 'rows'"),
        ({"unknown": "x"}, "unknown must be one of extra, raise; got 'x'"),
        ({"delimiter": ", "}, "delimiter must be one ASCII character .*; got ', '"),
        ({"delimiter": '"'}, "delimiter must be one ASCII character"),
        ({"dtypes": {"sped": "number"}}, r"a name in dtypes .* mean 'speed'\?"),
        ({"dtypes": {"speed": "int"}}, r"the kind of 'speed' in dtypes must be one"),
        (
            {"dtypes": {"maker": "number"}, "target": "maker"},
            "the kind of 'maker' in dtypes must be one of classes, values",
        ),
        (
            {"dtypes": dict.fromkeys(CARS.splitlines()[0].split(","), "ignore")},
            r"columns of .* must be more than the target and those that are ignored",
        ),
        ({"schema": 5}, "schema must be a TableSchema; got int"),
    ],
)
def test_arguments_that_cannot_be_used_are_named(tmp_path, options, match):
    with pytest.raises(ArgumentError, match=match):
        read(tmp_path, CARS, **options)


@pytest.mark.parametrize(
    "options", [{"target": "y"}, {"missing": "drop"}, {"dtypes": {}}, {"layout": "x"}]
)
def test_a_schema_stands_alone(tmp_path, options):
    schema = read(tmp_path, "a,y\n1,2\n").schema
    with pytest.raises(ArgumentError, match="must be None beside a schema"):
        read(tmp_path, "a,y\n1,2\n", schema=schema, **options)


# With the loader.


@pytest.mark.parametrize("layout", ["matrix", "named"])
def test_a_loader_gathers_each_row_once_and_resumes_at_every_batch(tmp_path, layout):
    rows = "".join(f"{i},{'abc'[i % 3]},{i % 4}\n" for i in range(50))
    table = read(tmp_path, f"i,c,y\n{rows}", target="y", layout=layout)

    def make() -> DataLoader:
        return DataLoader(table.data, batch_size=8, shuffle=True, seed=3)

    def ids(batches) -> list[int]:
        numbers = (b[0][:, 0] if layout == "matrix" else b["i"] for b in batches)
        return [int(i) for part in numbers for i in part]

    loader = make()
    assert loader.path.startswith("batched")
    order = ids(loader)
    assert sorted(order) == list(range(50))
    assert order == ids(make()) != list(range(50))
    for done in range(8):
        loader = make()
        batches = iter(loader)
        for _ in range(done):
            next(batches)
        other = make()
        other.load_state_dict(json.loads(json.dumps(loader.state_dict())))
        assert ids(other) == order[8 * done :]


def test_rows_stay_together(tmp_path):
    generator = np.random.default_rng(0)
    numbers = generator.integers(0, 1000, 200)
    rows = "".join(f"{n},c{n % 5},{n % 3}\n" for n in numbers)
    table = read(tmp_path, f"n,c,y\n{rows}", target="y")
    known = table.schema.categories[0].categories
    for n, c, y in DataLoader(table.data, batch_size=7, shuffle=True, seed=0):
        for number, code, target in zip(n[:, 0].tolist(), c[:, 0], y, strict=True):
            assert known[code] == f"c{int(number) % 5}"
            assert target == int(number) % 3
