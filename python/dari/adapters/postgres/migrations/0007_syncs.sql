-- Syncs: where a knowledge base's rows come from by themselves, who is at work on it, and what came of each look.

CREATE TABLE dari.knowledge_base_sources (
    tenant             dari.tenant_id NOT NULL,
    knowledge_base     dari.resource_id NOT NULL,
    uri                text NOT NULL,
    credentials_secret text NOT NULL,
    interval_s         double precision NOT NULL,
    cron               text NOT NULL,
    on_shrink          text NOT NULL CHECK (on_shrink IN ('HOLD', 'ACCEPT')),
    max_shrink_share   double precision NOT NULL CHECK (max_shrink_share BETWEEN 0 AND 1),
    key_columns        text[] NOT NULL,
    paused             boolean NOT NULL,
    -- Due then; NULL where only a person asks.
    next_time          timestamptz,
    -- Whoever holds the lease is at work. It is over at its time, and then anybody's.
    lease              uuid,
    lease_until        timestamptz NOT NULL DEFAULT '-infinity',
    failures           integer NOT NULL DEFAULT 0,
    -- Of the content that was last fetched to its end, and whether that waits for a person.
    etag               text NOT NULL DEFAULT '',
    last_modified      text NOT NULL DEFAULT '',
    sha256             bytea NOT NULL DEFAULT '',
    is_held            boolean NOT NULL DEFAULT false,
    -- The version that was current then: behind another one the content is fetched anew.
    seen_version       bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant, knowledge_base),
    FOREIGN KEY (tenant, knowledge_base) REFERENCES dari.knowledge_bases ON DELETE CASCADE
);
CREATE INDEX knowledge_base_sources_due ON dari.knowledge_base_sources (next_time) WHERE NOT paused;

CREATE TABLE dari.syncs (
    tenant         dari.tenant_id NOT NULL,
    knowledge_base dari.resource_id NOT NULL,
    number         bigint NOT NULL CHECK (number >= 1),
    state          text NOT NULL CHECK (state IN ('RUNNING', 'UNCHANGED', 'COMPLETED', 'HELD', 'FAILED')),
    code           text NOT NULL DEFAULT '',
    accepts_shrink boolean NOT NULL,
    fetched_bytes  bigint NOT NULL DEFAULT 0,
    uploads        text[] NOT NULL DEFAULT '{}',
    version_before bigint NOT NULL,
    version        bigint NOT NULL DEFAULT 0,
    rows_before    bigint NOT NULL,
    rows_found     bigint NOT NULL DEFAULT 0,
    create_time    timestamptz NOT NULL DEFAULT now(),
    complete_time  timestamptz,
    next_time      timestamptz,
    PRIMARY KEY (tenant, knowledge_base, number),
    FOREIGN KEY (tenant, knowledge_base) REFERENCES dari.knowledge_bases ON DELETE CASCADE
);
CREATE INDEX ON dari.syncs (tenant, create_time DESC, knowledge_base, number);
-- At most one is under way for each source, whatever two replicas do at the same moment.
CREATE UNIQUE INDEX syncs_running ON dari.syncs (tenant, knowledge_base) WHERE state = 'RUNNING';

GRANT SELECT, INSERT, UPDATE, DELETE ON dari.knowledge_base_sources, dari.syncs TO dari_app;
