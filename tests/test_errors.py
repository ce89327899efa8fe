"""What errors say, and the faults of several inputs as one."""

import pytest

from dusk.errors import CheckpointError, DataError, DuskError, Faults, InputError, OutputError

ABSENT = CheckpointError("There is no folder a.", remedy="Nearby there is b.")
TORN = CheckpointError("c is not whole:", problems=["x is missing", "y is missing"])


def gathered(*errors: DuskError | None, kind: type[InputError] = InputError) -> Faults:
    """The faults of so many inputs, None for one that has none."""
    faults = Faults(kind)
    for error in errors:
        with faults:
            if error is not None:
                raise error
    return faults


def test_an_error_lists_its_problems_and_the_remedy():
    assert str(DataError("wrong:", problems=["one", "two\nlines"], remedy="Mend it.")) == (
        "wrong:\n  - one\n  - two\n    lines\nWhat to do: Mend it."
    )


def test_inputs_without_faults_raise_nothing():
    faults = gathered(None, None)
    assert len(faults) == 0
    faults.raise_any("never told")


def test_a_single_fault_is_raised_as_it_is():
    with pytest.raises(CheckpointError) as caught:
        gathered(None, ABSENT).raise_any("never told")
    assert caught.value is ABSENT


def test_several_faults_are_one_error_that_says_all_of_each():
    faults = gathered(ABSENT, None, TORN)
    with pytest.raises(InputError) as caught:
        faults.raise_any(f"{len(faults)} of 3 models cannot be opened")
    assert type(caught.value) is InputError
    assert caught.value.problems == [str(ABSENT), str(TORN)]
    assert str(caught.value) == (
        "2 of 3 models cannot be opened\n"
        "  - There is no folder a.\n"
        "    Nearby there is b.\n"
        "  - c is not whole:\n"
        "      - x is missing\n"
        "      - y is missing"
    )


def test_what_inputs_say_alike_is_told_once():
    faults = gathered(ABSENT, CheckpointError(ABSENT.message, remedy=ABSENT.remedy))
    assert len(faults) == 2
    with pytest.raises(CheckpointError) as caught:
        faults.raise_any("never told")
    assert caught.value is ABSENT


def test_errors_of_another_kind_go_on_their_way():
    with pytest.raises(OutputError):
        gathered(ABSENT, OutputError("the disk is full"))
    with pytest.raises(CheckpointError):
        gathered(ABSENT, kind=DataError)
    faults = gathered(DataError("one"), DataError("two"), kind=DataError)
    with pytest.raises(DataError, match="both"):
        faults.raise_any("both")
