"""The balance by which requests may be sent twice."""

import pytest

from dari.adapters.retry_budget import RetryBudget


def retries(budget: RetryBudget) -> int:
    """Take all that there are."""
    return next(count for count in range(1_000) if not budget.take_retry())


@pytest.mark.parametrize(("requests", "expected"), [(0, 3), (4, 3), (5, 4), (10, 5), (35, 10), (1_000, 10)])
def test_a_fifth_of_the_requests_may_be_sent_twice_and_a_few(requests: int, expected: int) -> None:
    """And what a quiet time saves up has an end."""
    budget = RetryBudget()
    for _ in range(requests):
        budget.add_request()
    assert retries(budget) == expected


def test_where_every_request_fails_a_fifth_is_sent_twice() -> None:
    """A neighbour that closes all connections gets no second load."""
    budget = RetryBudget()
    retries(budget)
    sent_twice = 0
    for _ in range(1_000):
        budget.add_request()
        sent_twice += budget.take_retry()
    assert 199 <= sent_twice <= 200
