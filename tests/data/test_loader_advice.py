"""What is said of measurements: the definitions of the causes, and the choice."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from handful.data.loader_advice import (
    CAUSES,
    choose_trial,
    describe_change,
    find_cause,
    write_advice,
)
from handful.data.loader_parts import SampleParts
from handful.data.loader_trials import Trial

DECODED = SampleParts(
    reading=0.01, waiting=0.0, locked=0.1, num_bytes=3000, collating=1e-5
)


def parts(**changes: Any) -> SampleParts:
    return replace(DECODED, **changes)


def trial(name: str, rate: float, **changes: Any) -> Trial:
    settings = {"num_workers": int(name.split()[0])} if name[0].isdigit() else {}
    return replace(Trial(name, settings, "", rate, rate, rate, 0.1), **changes)


@pytest.mark.parametrize(
    ("measured", "cause"),
    [
        (DECODED, "slow decode"),
        (parts(locked=0.5), "slow transform"),
        (parts(locked=0.9, transforming=0.001), "slow decode"),
        (parts(locked=0.0, transforming=0.006), "slow transform"),
        (parts(collating=0.02, is_collated_by_user=True), "slow transform"),
        (parts(collating=0.02), "slow decode"),
        (parts(waiting=0.006), "slow disk"),
        (parts(waiting=0.006, transforming=0.009), "slow disk"),
        (parts(reading=9e-5, collating=None), "tiny rows"),
        (parts(reading=9e-5, is_read_at_once=True, collating=None), "nothing"),
        (parts(reading=9e-5, num_bytes=10**6, collating=None), "slow decode"),
        (parts(reading=2e-4, collating=None), "slow decode"),
        (parts(sending=0.02), "pickling cost"),
        (parts(sending=0.02, waiting=0.009), "pickling cost"),
        (parts(sending=0.001), "slow decode"),
        (None, "nothing"),
    ],
)
def test_each_cause_has_its_definition(
    measured: SampleParts | None, cause: str
) -> None:
    assert find_cause(measured) == cause
    assert cause in CAUSES


def test_a_step_that_hardly_waits_is_the_cause_whatever_the_data_cost() -> None:
    assert find_cause(parts(waiting=0.009), waiting=0.09) == "slow model"
    assert find_cause(parts(waiting=0.009), waiting=0.11) == "slow disk"
    assert find_cause(None, waiting=0.11) == "nothing"


def test_a_batch_transform_counts_from_half_of_the_time_on() -> None:
    assert find_cause(None, transforming=0.5) == "slow transform"
    assert find_cause(None, transforming=0.4) == "nothing"


def test_the_loader_stays_as_it_is_unless_another_is_a_tenth_better() -> None:
    base = trial("as it is", 100)
    assert choose_trial([base, trial("2 processes", 109)]) is base
    assert choose_trial([base, trial("2 processes", 111)]).name == "2 processes"


def test_of_nearly_equal_settings_the_simplest_is_chosen() -> None:
    base, arrays = trial("as it is", 10), trial("in arrays", 101)
    arrays = replace(arrays, needs="handful.Columns")
    two, eight = trial("2 threads", 97), trial("8 threads", 100)
    assert choose_trial([base, eight, two]) is two
    assert choose_trial([base, arrays, eight]) is eight
    assert choose_trial([base, replace(two, samples_per_second=90.0), eight]) is eight


def test_what_was_measured_with_the_step_counts_more_than_alone() -> None:
    base = trial("as it is", 10, with_step=9.0)
    fast_alone = trial("8 threads", 1000, with_step=9.5)
    fast = trial("2 threads", 100, with_step=20.0)
    assert choose_trial([base, fast_alone, fast]) is fast


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        (
            trial("2 x", 1, settings={"num_workers": 2, "persistent_workers": True}),
            "Set num_workers=2 and persistent_workers=True",
        ),
        (
            trial("2 x", 1, settings={"num_workers": 2, "worker_type": "thread"}),
            "Set num_workers=2 and worker_type='thread', if the data set may be read "
            "by several threads at a time",
        ),
        (
            trial("x", 1, needs="handful.DataLoader"),
            "Import DataLoader from handful in place of PyTorch's",
        ),
        (
            trial("x", 1, needs="handful.Columns", settings={"num_workers": 0}),
            "Put the samples in arrays (handful.Columns) for handful.DataLoader, with "
            "num_workers=0",
        ),
    ],
)
def test_a_change_is_said_in_words(changed: Trial, text: str) -> None:
    assert describe_change(changed) == text


def test_the_advice_is_one_sentence_with_the_gain() -> None:
    said = write_advice("slow decode", trial("2 threads", 1), 3.0612)
    assert said == "Set num_workers=2: 3.06 times as many samples a second (measured)."
    said = write_advice("slow decode", trial("2 threads", 1), 3.0612, has_step=True)
    assert said.endswith("3.06 times as many samples trained a second (measured).")


def test_advice_to_change_nothing_says_what_else_would_help() -> None:
    said = write_advice("slow transform", trial("as it is", 1), 1.0)
    assert said == (
        "Leave the loader's settings as they are: nothing measured is clearly faster; "
        "a cheaper transform, or one of whole batches, would help."
    )
    hurried = write_advice("slow disk", trial("as it is", 1), 1.0, lacked_time=True)
    assert "more time would allow more to be measured; a nearer copy" in hurried


def test_a_slow_model_bounds_what_a_loader_could_bring() -> None:
    said = write_advice("slow model", trial("as it is", 1), 1.0, waiting=0.05)
    assert said == (
        "Leave the loader as it is: the step waits for data 5% of its time, so that no "
        "loader could train more than 1.05 times as fast."
    )
