"""Table schemas as plain values."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handful.data.csv_schema import ColumnSchema, TableSchema, TargetSchema
from handful.errors import ArgumentError

SCHEMA = TableSchema(
    (
        ColumnSchema("x", "number", mean=1.5),
        ColumnSchema("b", "boolean", mean=0.25),
        ColumnSchema("c", "category", ("", "red")),
    ),
    TargetSchema("y", "classes", (-1, 3)),
    "mean",
    "named",
)

names = st.text(max_size=4)
sorted_texts = st.lists(names, min_size=1, max_size=4, unique=True).map(sorted)
classes = st.one_of(
    sorted_texts, st.lists(st.integers(), min_size=1, unique=True).map(sorted)
).map(tuple)


@st.composite
def schemas(draw: st.DrawFn) -> TableSchema:
    missing = draw(st.sampled_from(["raise", "drop", "mean"]))
    labels = draw(st.lists(names, min_size=1, max_size=5, unique=True))
    target = None
    if len(labels) > 1 and draw(st.booleans()):
        kinds = [TargetSchema(labels[0], "values")]
        kinds.append(TargetSchema(labels[0], "classes", draw(classes)))
        target = draw(st.sampled_from(kinds))
        labels = labels[1:]
    columns = []
    for label in labels:
        kind = draw(st.sampled_from(["number", "boolean", "category"]))
        if kind == "category":
            columns.append(ColumnSchema(label, kind, tuple(draw(sorted_texts))))
        else:
            finite = st.floats(allow_nan=False, allow_infinity=False)
            mean = draw(finite) if missing == "mean" else None
            columns.append(ColumnSchema(label, kind, mean=mean))
    layout = draw(st.sampled_from(["matrix", "named"]))
    return TableSchema(tuple(columns), target, missing, layout)


@given(schema=schemas())
def test_a_schema_comes_back_from_json_as_it_was(schema):
    assert TableSchema.from_dict(json.loads(json.dumps(schema.to_dict()))) == schema


plain = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), names),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner),
    max_leaves=5,
)


@settings(max_examples=400)
@given(
    value=plain,
    path=st.sampled_from(
        [
            *((key,) for key in SCHEMA.to_dict()),
            *(("columns", 0, key) for key in ("name", "kind", "categories", "mean")),
            *(("columns", 2, key) for key in ("name", "kind", "categories", "mean")),
            *(("target", key) for key in ("name", "kind", "classes")),
            ("columns", 1),
            (),
        ]
    ),
)
def test_any_other_value_gives_a_schema_or_an_argument_error(value, path):
    values = SCHEMA.to_dict()
    place = values
    for key in path[:-1]:
        place = place[key]
    if path:
        place[path[-1]] = value
    else:
        values = value
    try:
        outcome = TableSchema.from_dict(values)
    except ArgumentError as error:
        outcome = error
    assert isinstance(outcome, TableSchema) or "schema" in str(outcome)


def changed(path: tuple[object, ...], value: object) -> dict[str, object]:
    values = place = SCHEMA.to_dict()
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return values


@pytest.mark.parametrize(
    ("path", "value", "match"),
    [
        (("format",), "x", r"schema must be what TableSchema\.to_dict\(\) returned"),
        (("version",), 2, "schema must be of version 1 or before; got 2"),
        (("columns",), [], "columns of a schema must be one or more"),
        (("columns", 0, "name"), "y", "each with a name of its own; got"),
        (("columns", 0, "name"), 3, "name in a schema must be a text; got 3"),
        (("columns", 0, "kind"), "numbr", "Did you mean 'number'"),
        (("columns", 0, "mean"), None, "mean of a schema's number columns must be"),
        (("columns", 0, "mean"), float("nan"), "must be a finite number; got nan"),
        (("columns", 2, "categories"), [], "must be given for a category column"),
        (("columns", 2, "categories"), ["b", "a"], "must be sorted, each there once"),
        (("target", "classes"), [1, "a"], "all texts or all whole numbers"),
        (("target", "classes"), [True], "classes in a schema must be a list of str or"),
        (("target", "kind"), "values", "must be given for classes, and only for them"),
        (("target",), 4, "target of a schema must be a mapping or None; got 4"),
        (("missing",), "skip", "missing in a schema must be one of drop, mean, raise"),
    ],
)
def test_what_is_wrong_in_a_schema_is_named(path, value, match):
    with pytest.raises(ArgumentError, match=match):
        TableSchema.from_dict(changed(path, value))


def test_the_schema_without_a_target_has_the_same_inputs():
    bare = SCHEMA.without_target()
    assert bare.target is None
    assert bare.columns == SCHEMA.columns
