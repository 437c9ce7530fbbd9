"""Keeps what models read and wrote for each caller in a day."""

import threading
from collections.abc import Collection, Mapping
from datetime import date

from dari.adapters.postgres.database import Database, Role
from dari.core.token_budgets import Spender, Spent

KEPT_DAYS = 35
"""For whoever wants to see a month; the budgets need one."""

# In one order for all servers, so that they cannot wait for each other.
_ADD = """
INSERT INTO dari.token_usage AS known (tenant, day, caller, tokens)
SELECT tenant, (now() AT TIME ZONE 'UTC')::date, caller, tokens
FROM unnest(%s::text[], %s::text[], %s::bigint[]) AS spent (tenant, caller, tokens) ORDER BY tenant, caller
ON CONFLICT (tenant, day, caller) DO UPDATE SET tokens = known.tokens + excluded.tokens
"""
_READ = """
SELECT asked.tenant, asked.caller, today.day,
    coalesce((
        SELECT u.tokens FROM dari.token_usage u
        WHERE (u.tenant, u.day, u.caller) = (asked.tenant, today.day, asked.caller)
    ), 0)::bigint,
    coalesce(of_tenant.tokens, 0)::bigint
FROM (SELECT (now() AT TIME ZONE 'UTC')::date AS day) today
CROSS JOIN unnest(%s::text[], %s::text[]) AS asked (tenant, caller)
LEFT JOIN (
    SELECT u.tenant, u.day, sum(u.tokens) AS tokens FROM dari.token_usage u
    WHERE u.tenant = ANY (%s::text[]) AND u.day = (now() AT TIME ZONE 'UTC')::date GROUP BY u.tenant, u.day
) of_tenant ON of_tenant.tenant = asked.tenant
"""
_FORGET = "DELETE FROM dari.token_usage WHERE day < %s::date - %s"


class PostgresTokenLedger:
    """A TokenLedger."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()  # guards _swept_day
        self._swept_day: date | None = None

    def settle(self, spent: Mapping[Spender, int], asked: Collection[Spender]) -> Mapping[Spender, Spent]:
        """See TokenLedger."""
        tenants, callers = [spender.tenant for spender in asked], [spender.caller for spender in asked]
        with self._database.transaction(Role.HOUSEKEEPER, tenant=None) as transaction:
            if spent:
                columns = ([one.tenant for one in spent], [one.caller for one in spent], list(spent.values()))
                transaction.execute(_ADD, columns)
            rows = transaction.execute(_READ, (tenants, callers, sorted(set(tenants)))).fetchall()
            days = {row[2] for row in rows}
            if spent and self._is_new(days):
                transaction.execute(_FORGET, (max(days), KEPT_DAYS))
        return {Spender(tenant, caller): Spent(day, *tokens) for tenant, caller, day, *tokens in rows}

    def _is_new(self, days: set[date]) -> bool:
        """Whether this is the first look of the day: then what is too old goes."""
        with self._lock:
            before, self._swept_day = self._swept_day, max(days, default=self._swept_day)
            return self._swept_day != before
