"""Does a transaction again that PostgreSQL gave up for another's sake: a deadlock, or a lost race."""

import random
import time
from collections.abc import Callable
from typing import TypeVar

from dari.adapters.postgres.database import sqlstate
from dari.core.errors import Unavailable

Result = TypeVar("Result")

MAX_ATTEMPTS = 6
_FIRST_PAUSE_S = 0.01
_LOST = "40"
"""Transaction rollback: serialization failure, deadlock. https://www.postgresql.org/docs/18/errcodes-appendix.html"""


def won(transaction: Callable[[], Result]) -> Result:
    """What the transaction gives, done up to MAX_ATTEMPTS times, with pauses of random length that grow.

    It must begin and end inside the call, and do nothing outside the database. Raises what it raises; Unavailable where
    it lost each time.
    """
    for attempt in range(1, MAX_ATTEMPTS):
        try:
            return transaction()
        except Unavailable as error:
            if not (sqlstate(error) or "").startswith(_LOST):
                raise
        # Not the same for two who lost to each other.
        time.sleep(random.uniform(0, _FIRST_PAUSE_S * 2**attempt))  # noqa: S311 - nobody gains by guessing it
    return transaction()
