"""Finds in PostgreSQL's catalogue whatever is left out of the isolation of tenants.

It lists what is there and asks for a reason, rather than to look for what is known: a table, view or function that
nobody thought of is found because it is there.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from psycopg2.extensions import cursor

from dari.adapters.postgres.migrate import OWNER_ROLE, ROLES

_LEDGER = "public.dari_migrations"
"""Which migrations were applied: of no tenant, and for everyone to read."""
_OURS = "n.nspname NOT LIKE 'pg\\_%%' AND n.nspname <> 'information_schema'"
_POLICIES = {
    "dari_app": "(tenant = (( SELECT (current_setting('dari.tenant'::text, true))::dari.tenant_id AS current_setting))"
    "::text)",
    "dari_owner": "COALESCE((current_setting('dari.migrating'::text, true) = 'on'::text), false)",
}
"""The one condition under which the role sees and writes rows of metadata, as PostgreSQL prints it."""
_OF_ALL_TENANTS = {
    "dari.alert_deliveries": {"SELECT", "INSERT", "UPDATE", "DELETE"},
    "dari.alert_matters": {"SELECT", "INSERT", "UPDATE", "DELETE"},
    "dari.alerts": {"SELECT", "INSERT", "UPDATE", "DELETE"},
    "dari.knowledge_base_sources": {"SELECT"},
    "dari.knowledge_base_versions": {"SELECT", "DELETE"},
    "dari.syncs": {"SELECT"},
    "dari.token_usage": {"SELECT", "INSERT", "UPDATE", "DELETE"},
    "dari.uploads": {"SELECT"},
    "dari.version_segments": {"SELECT"},
}
"""What the housekeeper may do: another table here is another hole in the wall."""
_METADATA_RIGHTS = {"SELECT", "INSERT", "UPDATE", "DELETE"}
_EVIDENCE_RIGHTS = {"SELECT", "INSERT", "TRUNCATE", "MAINTAIN"}
_EVERY = {*_METADATA_RIGHTS, "TRUNCATE", "REFERENCES", "TRIGGER", "MAINTAIN"}


def gaps(cur: cursor, service_user: str) -> list[str]:
    """What is open, a sentence each; nothing where all is closed. As a user who sees the whole catalogue."""
    checks: Sequence[Callable[[cursor], Iterator[str]]] = (
        _tables,
        _policies,
        _views,
        _functions,
        _rights,
        _schemas,
        _defaults,
        _roles,
    )
    found = [gap for check in checks for gap in check(cur)]
    return [*found, *_login(cur, service_user)]


def _tables(cur: cursor) -> Iterator[str]:
    cur.execute("SELECT 'rows_' || segment FROM dari.uploads WHERE state IN ('OPEN', 'INDEXING')")
    filling = {name for (name,) in cur.fetchall()}
    filling |= {name.replace("rows_", "postings_") for name in filling}
    for schema, name, kind, owner, is_secured, is_forced in _all(
        cur,
        "SELECT n.nspname, c.relname, c.relkind, pg_get_userbyid(c.relowner), c.relrowsecurity, c.relforcerowsecurity"
        f" FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE {_OURS}"
        " AND c.relkind IN ('r', 'p', 'm', 'f')",
    ):
        table = f"{schema}.{name}"
        expected_owner = "dari_ingest" if schema == "dari_rows" else OWNER_ROLE
        if owner != expected_owner:
            yield f"{table} belongs to {owner}"
        if table == _LEDGER:
            continue
        if kind != "r":
            yield f"{table} cannot be under row-level security as a plain table is"
        if not is_secured:
            yield f"{table} is not under row-level security"
        # COPY refuses a table where it is forced.
        elif not is_forced and name not in filling:
            yield f"{table} shows its owner everything"


def _policies(cur: cursor) -> Iterator[str]:
    for schema, name, policy, roles, permissive, condition, check in _all(
        cur, "SELECT schemaname, tablename, policyname, roles::text[], permissive, qual, with_check FROM pg_policies"
    ):
        table = f"{schema}.{name}"
        for role in roles:
            if role in _POLICIES and schema == "dari":
                # Some tables have the tenant as a domain over text, and some as text.
                is_closed = condition.replace("(tenant)::text", "tenant") == _POLICIES[role]
            elif role == "dari_housekeeper":
                is_closed = table in _OF_ALL_TENANTS
            else:
                fills = role == "dari_ingest" and name.startswith("evidence_")
                is_closed = schema == "dari_rows" and (role == "dari_reader" or fills) and _names_both(condition)
            if not is_closed or check is not None or permissive != "PERMISSIVE":
                yield f"policy {policy} lets {role} see more of {table} than it names"


def _names_both(condition: str | None) -> bool:
    return condition is not None and all(
        part in condition for part in ("COALESCE((", "'dari.tenant'", " AND ", "'dari.knowledge_bases'", ", false)")
    )


def _views(cur: cursor) -> Iterator[str]:
    for schema, name, options in _all(
        cur,
        "SELECT n.nspname, c.relname, coalesce(c.reloptions, '{}') FROM pg_class c"
        f" JOIN pg_namespace n ON n.oid = c.relnamespace WHERE {_OURS} AND c.relkind = 'v'",
    ):
        if "security_invoker=true" not in options:
            yield f"{schema}.{name} runs as its owner"


def _functions(cur: cursor) -> Iterator[str]:
    for schema, name, settings, is_definer, is_open in _all(
        cur,
        "SELECT n.nspname, p.proname, coalesce(p.proconfig, '{}'), p.prosecdef,"
        " EXISTS (SELECT FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) WHERE grantee = 0)"
        f" FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE {_OURS}",
    ):
        if not any(setting.startswith("search_path=pg_catalog") for setting in settings):
            yield f"{schema}.{name} has no fixed search path"
        if is_definer:
            yield f"{schema}.{name} runs as its owner"
        if is_open:
            yield f"{schema}.{name} may be called by everyone"


def _rights(cur: cursor) -> Iterator[str]:
    for schema, name, kind, is_forced, grantee, rights in _all(
        cur,
        "SELECT n.nspname, c.relname, c.relkind, c.relforcerowsecurity,"
        " CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(a.grantee) END, array_agg(a.privilege_type)"
        " FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace,"
        " aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) a"
        f" WHERE {_OURS} AND c.relkind IN ('r', 'p', 'm', 'f', 'v') GROUP BY 1, 2, 3, 4, 5",
    ):
        beyond = set(rights) - _allowed(schema, name, kind, is_forced, grantee)
        if beyond:
            yield f"{grantee} has {', '.join(sorted(beyond))} on {schema}.{name}"


def _allowed(schema: str, name: str, kind: str, is_forced: bool, grantee: str) -> set[str]:
    if schema == "dari_rows":
        return _allowed_on_rows(name, kind, is_forced, grantee)
    if grantee == OWNER_ROLE:
        return _EVERY
    table = f"{schema}.{name}"
    if table == _LEDGER:
        return {"SELECT"}
    if (table, grantee) == ("dari.alerts", "dari_app"):
        return {"INSERT"}
    if grantee == "dari_app" and schema == "dari" and not name.startswith("alert"):
        return _METADATA_RIGHTS
    return _OF_ALL_TENANTS.get(table, set()) if grantee == "dari_housekeeper" else set()


def _allowed_on_rows(name: str, kind: str, is_forced: bool, grantee: str) -> set[str]:
    if grantee == "dari_reader":
        return {"SELECT"}
    if grantee != "dari_ingest":
        return set()
    if kind == "v":
        return _EVERY
    if name.startswith("evidence_"):
        return _EVIDENCE_RIGHTS
    return {"MAINTAIN"} if is_forced else {"INSERT", "MAINTAIN"}


def _schemas(cur: cursor) -> Iterator[str]:
    allowed = {
        ("public", "PUBLIC", "USAGE"),
        ("dari", "dari_app", "USAGE"),
        ("dari", "dari_housekeeper", "USAGE"),
        ("dari_rows", "dari_reader", "USAGE"),
        ("dari_rows", "dari_ingest", "USAGE"),
        ("dari_rows", "dari_ingest", "CREATE"),
    }
    for schema, owner, grantee, right in _all(
        cur,
        "SELECT n.nspname, pg_get_userbyid(n.nspowner),"
        " CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(a.grantee) END, a.privilege_type"
        " FROM pg_namespace n, aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) a"
        f" WHERE {_OURS}",
    ):
        if grantee not in (owner, OWNER_ROLE) and (schema, grantee, right) not in allowed:
            yield f"{grantee} has {right} on schema {schema}"


def _defaults(cur: cursor) -> Iterator[str]:
    cur.execute("SELECT pg_get_userbyid(defaclrole), defaclobjtype::text FROM pg_default_acl WHERE defaclnamespace = 0")
    closed = set(cur.fetchall())
    for role in (OWNER_ROLE, "dari_ingest"):
        for kind, what in (("f", "functions"), ("T", "types")):
            if (role, kind) not in closed:
                yield f"what {role} makes of {what} is everyone's"
    for role, grantee, right in _all(
        cur,
        "SELECT pg_get_userbyid(d.defaclrole),"
        " CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(a.grantee) END, a.privilege_type"
        " FROM pg_default_acl d, aclexplode(d.defaclacl) a WHERE a.grantee <> d.defaclrole",
    ):
        yield f"what {role} makes gives {right} to {grantee}"


def _roles(cur: cursor) -> Iterator[str]:
    for (role,) in _all(
        cur,
        "SELECT rolname FROM pg_roles WHERE rolname = ANY (%s)"
        " AND (rolsuper OR rolbypassrls OR rolcanlogin OR rolcreaterole OR rolcreatedb OR rolreplication)",
        list(ROLES),
    ):
        yield f"{role} is more than the name of some rights"
    for role, granted in _all(
        cur,
        "SELECT pg_get_userbyid(member), pg_get_userbyid(roleid) FROM pg_auth_members"
        " WHERE pg_get_userbyid(member) = ANY (%s)",
        list(ROLES),
    ):
        yield f"{role} may be {granted}"


def _login(cur: cursor, user: str) -> Iterator[str]:
    cur.execute(
        "SELECT rolsuper, rolbypassrls, rolcreaterole, pg_has_role(oid, %s, 'MEMBER') FROM pg_roles WHERE rolname = %s",
        (OWNER_ROLE, user),
    )
    for what, is_so in zip(
        ("superuser", "above policies", "a maker of roles", OWNER_ROLE), *cur.fetchall(), strict=True
    ):
        if is_so:
            yield f"{user} is, or may be, {what}"
    for (role,) in _all(
        cur,
        "SELECT rolname FROM pg_roles WHERE rolname = ANY (%s) AND pg_has_role(%s, oid, 'USAGE')",
        list(ROLES),
        user,
    ):
        yield f"{user} has the rights of {role} at all times"
    for kind, name in _all(
        cur,
        "SELECT 'relation', c.relname FROM pg_class c WHERE pg_get_userbyid(c.relowner) = %(user)s"
        " UNION ALL SELECT 'schema', nspname FROM pg_namespace WHERE pg_get_userbyid(nspowner) = %(user)s"
        " UNION ALL SELECT 'function', proname FROM pg_proc WHERE pg_get_userbyid(proowner) = %(user)s",
        user=user,
    ):
        yield f"{user} owns {kind} {name}"


def _all(cur: cursor, query: str, *values: object, **named: object) -> list[tuple[Any, ...]]:
    cur.execute(query, named or values)
    return cur.fetchall()
