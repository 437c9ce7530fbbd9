-- Isolation: a transaction sees and writes the metadata of the tenant that it names, and where it names none, nothing.
-- What spans all tenants is the housekeeper's, who has the few rights that it needs. The ingest role does not read what
-- it owns.

-- What is made from now on is nobody else's by itself: PostgreSQL lets everyone call a function and use a type.
ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
ALTER DEFAULT PRIVILEGES REVOKE USAGE ON TYPES FROM PUBLIC;
REVOKE USAGE ON DOMAIN dari.tenant_id, dari.resource_id FROM PUBLIC;


-- Metadata

-- Each migration that makes a table calls this for it. The setting is read once a query, as an InitPlan, and not once a
-- row. Where it was never made, nothing is seen; "" is no tenant, and refused: to a server of before this migration,
-- which names none, nothing would seem to be left, and its housekeeping would drop all rows.
CREATE FUNCTION dari.isolate(isolated regclass) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', isolated);
    EXECUTE format(
        'CREATE POLICY named_by_transaction ON %s TO dari_app'
        ' USING (tenant = (SELECT current_setting(''dari.tenant'', true)::dari.tenant_id))', isolated);
    EXECUTE format(
        'CREATE POLICY while_migrating ON %s TO dari_owner'
        ' USING (coalesce(current_setting(''dari.migrating'', true) = ''on'', false))', isolated);
END
$$;

DO $$
DECLARE
    isolated regclass;
BEGIN
    FOR isolated IN
        SELECT c.oid FROM pg_class c
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant' AND NOT a.attisdropped
        WHERE c.relnamespace = 'dari'::regnamespace AND c.relkind = 'r' AND NOT c.relrowsecurity
        ORDER BY c.relname
    LOOP
        PERFORM dari.isolate(isolated);
    END LOOP;
END
$$;


-- What spans all tenants

GRANT USAGE ON SCHEMA dari TO dari_housekeeper;

GRANT SELECT, UPDATE (state, failure, update_time) ON dari.uploads TO dari_housekeeper;
GRANT SELECT, DELETE ON dari.knowledge_base_versions TO dari_housekeeper;
GRANT SELECT ON dari.version_segments TO dari_housekeeper;
CREATE POLICY of_all_tenants ON dari.uploads TO dari_housekeeper USING (true);
CREATE POLICY of_all_tenants ON dari.knowledge_base_versions TO dari_housekeeper USING (true);
CREATE POLICY of_all_tenants ON dari.version_segments FOR SELECT TO dari_housekeeper USING (true);

-- Whose source is due.
GRANT SELECT, UPDATE (lease, lease_until) ON dari.knowledge_base_sources TO dari_housekeeper;
GRANT SELECT ON dari.syncs TO dari_housekeeper;
CREATE POLICY of_all_tenants ON dari.knowledge_base_sources TO dari_housekeeper USING (true);
CREATE POLICY of_all_tenants ON dari.syncs FOR SELECT TO dari_housekeeper USING (true);

-- Who stores what an alert tells of stores the alert, too, of its own tenant; it reads none.
REVOKE ALL ON dari.alerts, dari.alert_matters, dari.alert_deliveries FROM dari_app;
-- The id, since an alert that is there already is no conflict.
GRANT SELECT (id), INSERT ON dari.alerts TO dari_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON dari.alerts, dari.alert_matters, dari.alert_deliveries TO dari_housekeeper;
CREATE POLICY of_all_tenants ON dari.alerts TO dari_housekeeper USING (true);
CREATE POLICY of_all_tenants ON dari.alert_matters TO dari_housekeeper USING (true);
ALTER TABLE dari.alert_deliveries ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY of_all_tenants ON dari.alert_deliveries TO dari_housekeeper USING (true);


-- Segments: as `segments.py` makes them from now on.

DO $$
DECLARE
    -- COPY into a table under forced row-level security is refused, so that those not yet indexed stay open to it.
    filling text[] := ARRAY(
        SELECT segment FROM dari.uploads WHERE state = 'OPEN' OR (state = 'INDEXING' AND index_duration_s IS NULL));
    part    record;
BEGIN
    SET LOCAL ROLE dari_ingest;
    FOR part IN
        SELECT c.oid::regclass AS name, p.qual, split_part(c.relname, '_', 1) AS kind,
            split_part(c.relname, '_', 2) = ANY (filling) AS is_filling
        FROM pg_class c
        JOIN pg_policies p ON p.schemaname = 'dari_rows' AND p.tablename = c.relname
        WHERE c.relnamespace = 'dari_rows'::regnamespace AND c.relkind = 'r'
        ORDER BY c.relname
    LOOP
        EXECUTE format('REVOKE UPDATE, DELETE, REFERENCES, TRIGGER ON %s FROM dari_ingest', part.name);
        IF part.kind = 'evidence' THEN
            EXECUTE format('CREATE POLICY filled_by_transaction ON %s TO dari_ingest USING (%s)', part.name, part.qual);
            EXECUTE format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', part.name);
            CONTINUE;
        END IF;
        EXECUTE format('REVOKE SELECT, TRUNCATE ON %s FROM dari_ingest', part.name);
        IF NOT part.is_filling THEN
            EXECUTE format('REVOKE INSERT ON %s FROM dari_ingest', part.name);
            EXECUTE format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', part.name);
        END IF;
    END LOOP;
    ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
    ALTER DEFAULT PRIVILEGES REVOKE USAGE ON TYPES FROM PUBLIC;
    SET LOCAL ROLE dari_owner;
END
$$;
