"""Every bad input gets a sentence, an exit status, and leaves no trace."""

from __future__ import annotations

from importlib.metadata import version

import pytest

from bad_inputs.answers import Answer, all_cases, key_of
from bad_inputs.case import Case
from bad_inputs.page import PAGE, ask_all, read_counts, write_page

for package in ("pyarrow", "PIL", "simplejpeg"):
    pytest.importorskip(package, reason=f"{package} is not installed")

CASES = all_cases()


@pytest.fixture(scope="module")
def answers() -> dict[str, Answer]:
    """Give every bad input to the command line, in two processes."""
    found = [*ask_all("plain"), *ask_all("torch")]
    return {answer.title: answer for answer in found}


@pytest.mark.parametrize("case", [c for c in CASES if c.code], ids=key_of)
def test_bad_input_gets_one_sentence_and_leaves_no_trace(
    case: Case, answers: dict[str, Answer]
) -> None:
    answer = answers[key_of(case)]
    assert answer.code == case.code, answer.err
    assert answer.err.startswith("handful: ")
    assert answer.err.count("\n") == 1
    for part in case.says:
        assert part in answer.err
    assert "Traceback" not in answer.err
    assert "--debug" not in answer.err  # said of errors that are not ours
    assert answer.changed == []
    assert answer.has_torch is case.needs_torch


@pytest.mark.parametrize("case", [c for c in CASES if not c.code], ids=key_of)
def test_odd_input_that_is_no_fault_is_trained_on(
    case: Case, answers: dict[str, Answer]
) -> None:
    answer = answers[key_of(case)]
    assert (answer.code, answer.err) == (0, "")
    assert "new/run.json" in answer.changed


def test_the_page_has_every_answer_as_it_is_printed(
    answers: dict[str, Answer],
) -> None:
    pins = (PAGE.parents[1] / "constraints.txt").read_text()
    if f"torch=={version('torch')};" not in pins:
        pytest.skip("another PyTorch than that of constraints.txt words its part anew")
    page = write_page(answers.values(), read_counts())
    assert PAGE.read_text(encoding="utf-8") == page, "run scripts/bad-inputs"


def test_titles_tell_cases_apart() -> None:
    assert len({key_of(case) for case in CASES}) == len(CASES)
