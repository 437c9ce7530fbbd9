"""How many requests to one neighbour may be sent a second time: a share of all, so that retries never are the load.

The rule is Envoy's retry budget, kept as a balance:
https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/upstream/circuit_breaking
"""

import threading

_REQUESTS_A_RETRY = 5
"""So many requests earn one retry: a fifth, as with Envoy."""
_FEW = 3
"""Retries that are free at the start, when nothing is earned yet."""
_MOST = 10
"""Retries that a time without any can save up."""


class RetryBudget:
    """The balance of one neighbour. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards _earned
        self._earned = _FEW * _REQUESTS_A_RETRY
        """In requests."""

    def add_request(self) -> None:
        """A request is sent for the first time."""
        with self._lock:
            self._earned = min(self._earned + 1, _MOST * _REQUESTS_A_RETRY)

    def take_retry(self) -> bool:
        """Whether one may be sent again."""
        with self._lock:
            if self._earned < _REQUESTS_A_RETRY:
                return False
            self._earned -= _REQUESTS_A_RETRY
            return True
