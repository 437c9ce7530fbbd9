"""Patience: which thread it belongs to, and that it is cut once, in time, and by nobody who is late."""

import threading

import pytest

from dari.core.patience import Patience, patience_of_this_thread


def test_a_thread_is_patient_outside_of_the_statement_and_so_are_all_others() -> None:
    seen: list[Patience | None] = []
    with Patience(60.0) as patience:
        assert patience_of_this_thread() is patience
        other = threading.Thread(target=lambda: seen.append(patience_of_this_thread()))
        other.start()
        other.join()
    assert seen == [None]
    assert patience_of_this_thread() is None


def test_the_time_that_is_left_is_never_negative() -> None:
    assert Patience(0.0).remaining_s() == 0.0
    assert 0.0 < Patience(60.0).remaining_s() <= 60.0


@pytest.mark.parametrize("order", ["the wait first", "the end first"])
def test_an_end_cuts_the_wait_whichever_comes_first(order: str) -> None:
    cuts: list[str] = []
    patience = Patience(60.0)
    if order == "the end first":
        patience.end()
    patience.cut_by(lambda: cuts.append("cut"))
    if order == "the wait first":
        assert cuts == []
        patience.end()
    assert cuts == ["cut"]
    assert patience.is_over


def test_a_wait_that_is_over_is_not_cut_any_more() -> None:
    cuts: list[str] = []
    patience = Patience(60.0)
    patience.cut_by(lambda: cuts.append("cut"))
    patience.cut_by(None)
    patience.end()
    assert cuts == []
