"""Ledgers of tokens in memory."""

from collections import Counter
from collections.abc import Collection, Mapping
from datetime import date

from dari.core.errors import Unavailable
from dari.core.token_budgets import Spender, Spent


class Ledger:
    """A TokenLedger that several budgets share, as servers share the database's."""

    def __init__(self, day: date) -> None:
        self.day = day
        self.is_gone = False
        self.looks = 0
        self._spent: Counter[tuple[date, Spender]] = Counter()

    def settle(self, spent: Mapping[Spender, int], asked: Collection[Spender]) -> Mapping[Spender, Spent]:
        self.looks += 1
        if self.is_gone:
            raise Unavailable.of("database")
        for spender, tokens in spent.items():
            self._spent[self.day, spender] += tokens
        return {one: Spent(self.day, self._spent[self.day, one], self._of_tenant(one.tenant)) for one in asked}

    def _of_tenant(self, tenant: str) -> int:
        return sum(
            tokens for (day, spender), tokens in self._spent.items() if (day, spender.tenant) == (self.day, tenant)
        )
