"""Looks for an order, one after the other, in which what clients did at once would have come out the same.

The search is Wing and Gong's, with the states already tried remembered as Lowe does: what is left of the calls can be
done in some order that keeps each call between its begin and its end. A read or a refusal that fits is taken at once;
nothing is lost by it, since it changes nothing wherever it stands.

Testing for linearizability, https://www.cs.ox.ac.uk/people/gavin.lowe/LinearizabiltyTesting/paper.pdf
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tests.faults.mapping.sequential_mapping import WRITTEN, Result, State, Step


@dataclass(frozen=True)
class Call:
    """One step of one client, by the clock that all of them share."""

    step: Step
    result: Result
    begin_ns: int
    end_ns: int


def fits_a_serial_order(before: State, calls: Sequence[Call], after: State) -> bool:
    """Whether the calls, one by one in some order, lead from one state to the other and give what they gave."""
    tried: set[tuple[frozenset[int], frozenset[object]]] = set()

    def leads_on(state: State, left: frozenset[int]) -> bool:
        left = _without_idle(state, calls, left)
        if not left:
            return state == after
        known = (left, frozenset(state.items()))
        if known in tried:
            return False
        tried.add(known)
        for place in _possible_next(calls, left):
            following, result = calls[place].step.after(state)
            if result == calls[place].result and leads_on(following, left - {place}):
                return True
        return False

    return leads_on(before, frozenset(range(len(calls))))


def _without_idle(state: State, calls: Sequence[Call], left: frozenset[int]) -> frozenset[int]:
    """Those left when all reads and refusals are done that can be next."""
    while True:
        idle = {place for place in _possible_next(calls, left) if _is_idle(state, calls[place])}
        if not idle:
            return left
        left -= idle


def _is_idle(state: State, call: Call) -> bool:
    return call.result[0] not in WRITTEN and call.step.after(state)[1] == call.result


def _possible_next(calls: Sequence[Call], left: frozenset[int]) -> list[int]:
    """Those that began before any of the others had ended."""
    first_end_ns = min((calls[place].end_ns for place in left), default=0)
    return [place for place in sorted(left) if calls[place].begin_ns <= first_end_ns]
