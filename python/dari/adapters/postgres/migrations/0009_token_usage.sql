-- What models read and wrote for each caller in a day (UTC), on all servers together. Every server adds what it counted,
-- for all tenants at once, and reads what the others added: that is the housekeeper's; nobody else sees it.
CREATE TABLE dari.token_usage (
    tenant  dari.tenant_id NOT NULL,
    day     date NOT NULL,
    caller  text NOT NULL,
    tokens  bigint NOT NULL CHECK (tokens >= 0),
    PRIMARY KEY (tenant, day, caller)
);
SELECT dari.isolate('dari.token_usage');
REVOKE ALL ON dari.token_usage FROM dari_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON dari.token_usage TO dari_housekeeper;
CREATE POLICY of_all_tenants ON dari.token_usage TO dari_housekeeper USING (true);
