"""What the tables tell of the whole installation, for metrics: the outbox to operators, and the sources that sync."""

from dataclasses import dataclass

from dari.adapters.postgres.database import Database, Role

# A source whose lease somebody holds is being synced, however long that takes: it waits for nobody.
_LOOK = """
SELECT
    (SELECT count(*) FROM dari.alert_deliveries WHERE delivered_time IS NULL),
    (SELECT coalesce(extract(epoch FROM clock_timestamp() - min(a.create_time)), 0)::float8
        FROM dari.alert_deliveries d JOIN dari.alerts a ON a.number = d.alert WHERE d.delivered_time IS NULL),
    count(*) FILTER (WHERE NOT paused AND NOT is_held AND failures = 0),
    count(*) FILTER (WHERE NOT paused AND failures > 0),
    count(*) FILTER (WHERE NOT paused AND is_held AND failures = 0),
    count(*) FILTER (WHERE paused),
    coalesce(extract(epoch FROM clock_timestamp() - min(next_time) FILTER (
        WHERE NOT paused AND next_time <= clock_timestamp() AND lease_until <= clock_timestamp())), 0)::float8
FROM dari.knowledge_base_sources
"""


@dataclass(frozen=True, slots=True)
class StoredFigures:
    """Of all tenants, at one moment."""

    outbox_messages: int = 0
    """Messages that have not arrived, one for each alert and target."""
    outbox_oldest_s: float = 0.0
    sources_well: int = 0
    sources_failing: int = 0
    sources_held: int = 0
    sources_paused: int = 0
    overdue_s: float = 0.0
    """How long the source that waits longest is due."""


def read_stored_figures(database: Database) -> StoredFigures:
    """Read them. Raises `Unavailable` where the database is down."""
    with database.transaction(Role.HOUSEKEEPER, tenant=None, snapshot=True) as transaction:
        ((*values,),) = transaction.execute(_LOOK).fetchall()
    return StoredFigures(*values)
