"""The small tables: shapes, dtypes, names, and known numbers."""

from __future__ import annotations

import numpy as np
import pytest

from handful.datasets.tables import load_digits, load_regression, load_wine
from handful.errors import ArgumentError


def test_wine_has_178_wines_of_three_classes():
    wine = load_wine()
    assert wine.features.shape == (178, 13)
    assert wine.features.dtype == np.float32
    assert wine.target.dtype == np.int64
    assert np.bincount(wine.target).tolist() == [59, 71, 48]
    assert wine.features[0, 0] == np.float32(14.23)
    assert wine.feature_names[0] == "alcohol"
    assert len(wine.feature_names) == 13
    assert wine.class_names == ("class_0", "class_1", "class_2")


def test_digits_are_whole_numbers_from_0_to_16():
    digits = load_digits()
    assert digits.features.shape == (1797, 64)
    assert digits.features.dtype == np.float32
    assert set(np.unique(digits.features)) == set(range(17))
    assert digits.target.dtype == np.int64
    assert digits.target[:10].tolist() == list(range(10))
    assert len(digits.feature_names) == 64
    assert digits.class_names == tuple("0123456789")


def test_the_best_line_through_the_regression_data_is_known():
    data = load_regression()
    assert data.features.shape == data.target.shape == (100, 1)
    assert data.features.dtype == data.target.dtype == np.float64
    x, y = data.features, data.target
    weight = (x * y).sum() / (x * x).sum()
    assert weight == pytest.approx(42.5904, abs=5e-5)
    assert ((weight * x - y) ** 2).mean() == pytest.approx(318.7931, abs=5e-5)
    assert data.class_names is None
    assert data.feature_names == ("x",)


def test_the_feature_of_the_regression_data_is_standardized():
    x = load_regression(num_samples=33, seed=5).features
    assert x.shape == (33, 1)
    assert x.mean() == pytest.approx(0, abs=1e-12)
    assert x.std() == pytest.approx(1)


def test_regression_data_depend_on_the_seed_alone():
    first, same, other = (load_regression(seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.target, same.target)
    assert not np.array_equal(first.target, other.target)


def test_without_noise_the_target_lies_on_a_line():
    data = load_regression(noise=0.0)
    slope, intercept = np.polyfit(data.features[:, 0], data.target[:, 0], 1)
    np.testing.assert_allclose(data.target, slope * data.features + intercept)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_samples": 1}, "`num_samples` must be 2 or more; got 1"),
        ({"noise": -1.0}, r"`noise` must be .*; got -1\.0"),
        ({"noise": float("nan")}, "`noise` must be .*; got nan"),
        ({"seed": -1}, "`seed` must lie .*; got -1"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        load_regression(**arguments)
