-- The foundation: AI models, chat configurations, knowledge bases and their links; uploads with their ledger; versions
-- and segments; conversations and turns. Runs as dari_owner, who owns all of it.
--
-- Every key begins with the tenant, and every foreign key carries it along: no row can refer to another tenant's.

CREATE SCHEMA dari;
CREATE SCHEMA dari_rows;
GRANT USAGE ON SCHEMA dari TO dari_app;
-- Segment tables are made, filled and dropped by the ingest role, and read by the reader role, here and nowhere else.
GRANT USAGE, CREATE ON SCHEMA dari_rows TO dari_ingest;
GRANT USAGE ON SCHEMA dari_rows TO dari_reader;

CREATE DOMAIN dari.tenant_id AS text CHECK (VALUE ~ '^[a-z][a-z0-9-]{0,62}$');
CREATE DOMAIN dari.resource_id AS text CHECK (VALUE ~ '^[a-z][a-z0-9-]{0,62}$');


-- Mapping

CREATE TABLE dari.ai_models (
    tenant                dari.tenant_id NOT NULL,
    id                    dari.resource_id NOT NULL,
    display_name          text NOT NULL,
    kind                  text NOT NULL CHECK (kind IN ('FLOWISE', 'OPENAI_COMPATIBLE', 'LOCAL')),
    base_url              text,
    flow_id               uuid,
    remote_model          text,
    api_key_secret        text,
    model_file            text,
    first_token_timeout_s double precision NOT NULL CHECK (first_token_timeout_s BETWEEN 0.1 AND 600),
    stall_timeout_s       double precision NOT NULL CHECK (stall_timeout_s BETWEEN 0.1 AND 600),
    total_timeout_s       double precision NOT NULL CHECK (total_timeout_s BETWEEN 0.1 AND 3600),
    max_answer_tokens     integer NOT NULL CHECK (max_answer_tokens BETWEEN 1 AND 32768),
    revision              bigint NOT NULL DEFAULT 1,
    request_id            uuid,
    create_time           timestamptz NOT NULL DEFAULT now(),
    update_time           timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, id),
    UNIQUE (tenant, request_id),
    CONSTRAINT target_fits_kind CHECK (
        CASE kind
            WHEN 'FLOWISE' THEN base_url IS NOT NULL AND flow_id IS NOT NULL
                AND remote_model IS NULL AND model_file IS NULL
            WHEN 'OPENAI_COMPATIBLE' THEN base_url IS NOT NULL AND remote_model IS NOT NULL
                AND flow_id IS NULL AND model_file IS NULL
            ELSE base_url IS NULL AND flow_id IS NULL AND remote_model IS NULL AND api_key_secret IS NULL
        END)
);

CREATE TABLE dari.chat_configurations (
    tenant       dari.tenant_id NOT NULL,
    id           dari.resource_id NOT NULL,
    display_name text NOT NULL,
    instructions text NOT NULL,
    max_rows     integer NOT NULL CHECK (max_rows BETWEEN 0 AND 50),
    revision     bigint NOT NULL DEFAULT 1,
    request_id   uuid,
    create_time  timestamptz NOT NULL DEFAULT now(),
    update_time  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, id),
    UNIQUE (tenant, request_id)
);

CREATE TABLE dari.knowledge_bases (
    tenant          dari.tenant_id NOT NULL,
    id              dari.resource_id NOT NULL,
    display_name    text NOT NULL,
    description     text NOT NULL,
    current_version bigint,
    revision        bigint NOT NULL DEFAULT 1,
    request_id      uuid,
    create_time     timestamptz NOT NULL DEFAULT now(),
    update_time     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, id),
    UNIQUE (tenant, request_id)
);

-- The links refuse the deletion of what they link: a forced deletion takes them away first.
CREATE TABLE dari.ai_model_chat_configurations (
    tenant             dari.tenant_id NOT NULL,
    chat_configuration dari.resource_id NOT NULL,
    ai_model           dari.resource_id NOT NULL,
    priority           integer NOT NULL CHECK (priority BETWEEN 0 AND 1000),
    create_time        timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, chat_configuration, ai_model),
    FOREIGN KEY (tenant, chat_configuration) REFERENCES dari.chat_configurations,
    FOREIGN KEY (tenant, ai_model) REFERENCES dari.ai_models
);
CREATE INDEX ON dari.ai_model_chat_configurations (tenant, ai_model);

CREATE TABLE dari.chat_configuration_knowledge_bases (
    tenant             dari.tenant_id NOT NULL,
    chat_configuration dari.resource_id NOT NULL,
    knowledge_base     dari.resource_id NOT NULL,
    create_time        timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, chat_configuration, knowledge_base),
    FOREIGN KEY (tenant, chat_configuration) REFERENCES dari.chat_configurations,
    FOREIGN KEY (tenant, knowledge_base) REFERENCES dari.knowledge_bases
);
CREATE INDEX ON dari.chat_configuration_knowledge_bases (tenant, knowledge_base);

CREATE TABLE dari.ai_model_knowledge_bases (
    tenant         dari.tenant_id NOT NULL,
    ai_model       dari.resource_id NOT NULL,
    knowledge_base dari.resource_id NOT NULL,
    create_time    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, ai_model, knowledge_base),
    FOREIGN KEY (tenant, ai_model) REFERENCES dari.ai_models,
    FOREIGN KEY (tenant, knowledge_base) REFERENCES dari.knowledge_bases
);
CREATE INDEX ON dari.ai_model_knowledge_bases (tenant, knowledge_base);


-- Uploads

CREATE TABLE dari.uploads (
    tenant                 dari.tenant_id NOT NULL,
    id                     text NOT NULL CHECK (id ~ '^[A-Za-z0-9._-]{1,128}$'),
    knowledge_base         dari.resource_id NOT NULL,
    mode                   text NOT NULL CHECK (mode IN ('REPLACE', 'APPEND')),
    delimiter              text NOT NULL,
    quote                  text NOT NULL,
    has_header             boolean NOT NULL,
    max_rejected_rows      bigint NOT NULL CHECK (max_rejected_rows >= 0),
    state                  text NOT NULL DEFAULT 'OPEN' CHECK (state IN ('OPEN', 'INDEXING', 'COMPLETED', 'FAILED')),
    -- Grows with every opening; a commit must carry the one that its stream was given (fencing of rival writers).
    writer_epoch           bigint NOT NULL DEFAULT 0,
    committed_offset_bytes bigint NOT NULL DEFAULT 0 CHECK (committed_offset_bytes >= 0),
    next_line              bigint NOT NULL DEFAULT 1,
    rows_stored            bigint NOT NULL DEFAULT 0,
    rows_rejected          bigint NOT NULL DEFAULT 0,
    columns                text[] NOT NULL DEFAULT '{}',
    -- SHA-256 over the committed bytes, as a state that can go on.
    sha256_state           bytea NOT NULL DEFAULT '',
    -- Names the segment's tables: dari_rows.rows_{segment}, dari_rows.postings_{segment}.
    segment                text NOT NULL UNIQUE CHECK (segment ~ '^[0-9a-f]{32}$'),
    sha256                 bytea,
    version                bigint,
    index_duration_s       double precision,
    failure                text NOT NULL DEFAULT '',
    create_time            timestamptz NOT NULL DEFAULT now(),
    update_time            timestamptz NOT NULL DEFAULT now(),
    complete_time          timestamptz,
    PRIMARY KEY (tenant, id),
    FOREIGN KEY (tenant, knowledge_base) REFERENCES dari.knowledge_bases ON DELETE CASCADE,
    CHECK ((state = 'COMPLETED') = (version IS NOT NULL AND sha256 IS NOT NULL AND complete_time IS NOT NULL))
);
CREATE INDEX ON dari.uploads (tenant, create_time DESC, id);
CREATE INDEX ON dari.uploads (tenant, knowledge_base, create_time DESC);

-- The ledger: which bytes of the file each committed batch took. Its primary key stores no range twice.
CREATE TABLE dari.upload_batches (
    tenant             dari.tenant_id NOT NULL,
    upload             text NOT NULL,
    start_offset_bytes bigint NOT NULL,
    end_offset_bytes   bigint NOT NULL,
    rows_stored        bigint NOT NULL,
    rows_rejected      bigint NOT NULL,
    commit_time        timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, upload, start_offset_bytes),
    FOREIGN KEY (tenant, upload) REFERENCES dari.uploads ON DELETE CASCADE,
    CHECK (end_offset_bytes > start_offset_bytes)
);

CREATE TABLE dari.rejected_rows (
    tenant       dari.tenant_id NOT NULL,
    upload       text NOT NULL,
    offset_bytes bigint NOT NULL,
    line         bigint NOT NULL,
    length_bytes bigint NOT NULL,
    reason       text NOT NULL,
    raw          bytea NOT NULL,
    PRIMARY KEY (tenant, upload, offset_bytes),
    FOREIGN KEY (tenant, upload) REFERENCES dari.uploads ON DELETE CASCADE
);


-- Versions: a version is an ordered list of segments, and a segment is the rows of one upload.

CREATE TABLE dari.knowledge_base_versions (
    tenant         dari.tenant_id NOT NULL,
    knowledge_base dari.resource_id NOT NULL,
    number         bigint NOT NULL CHECK (number >= 1),
    row_count      bigint NOT NULL,
    columns        text[] NOT NULL,
    create_time    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, knowledge_base, number),
    FOREIGN KEY (tenant, knowledge_base) REFERENCES dari.knowledge_bases ON DELETE CASCADE
);

CREATE TABLE dari.version_segments (
    tenant           dari.tenant_id NOT NULL,
    knowledge_base   dari.resource_id NOT NULL,
    version          bigint NOT NULL,
    ordinal          integer NOT NULL,
    segment          text NOT NULL REFERENCES dari.uploads (segment) ON DELETE CASCADE,
    -- Rows of the segments before this one: row n of the segment is row rows_before + n of the version.
    rows_before      bigint NOT NULL,
    row_count        bigint NOT NULL,
    PRIMARY KEY (tenant, knowledge_base, version, ordinal),
    FOREIGN KEY (tenant, knowledge_base, version) REFERENCES dari.knowledge_base_versions ON DELETE CASCADE
);
CREATE INDEX ON dari.version_segments (segment);

ALTER TABLE dari.knowledge_bases ADD FOREIGN KEY (tenant, id, current_version)
    REFERENCES dari.knowledge_base_versions (tenant, knowledge_base, number) DEFERRABLE INITIALLY DEFERRED;


-- Conversations

CREATE TABLE dari.conversations (
    tenant             dari.tenant_id NOT NULL,
    id                 uuid NOT NULL,
    chat_configuration dari.resource_id,
    turn_count         integer NOT NULL DEFAULT 0,
    create_time        timestamptz NOT NULL DEFAULT now(),
    update_time        timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, id),
    FOREIGN KEY (tenant, chat_configuration) REFERENCES dari.chat_configurations
        ON DELETE SET NULL (chat_configuration)
);
CREATE INDEX ON dari.conversations (tenant, create_time DESC, id);

CREATE TABLE dari.turns (
    tenant           dari.tenant_id NOT NULL,
    conversation     uuid NOT NULL,
    number           integer NOT NULL CHECK (number >= 1),
    request_id       uuid,
    question         text NOT NULL,
    answer           text NOT NULL DEFAULT '',
    state            text NOT NULL DEFAULT 'RUNNING' CHECK (state IN ('RUNNING', 'COMPLETED', 'INCOMPLETE')),
    answered_by      text CHECK (answered_by IN ('FLOWISE', 'OPENAI_COMPATIBLE', 'LOCAL', 'ROWS_ONLY')),
    ai_model         text NOT NULL DEFAULT '',
    attempts         jsonb NOT NULL DEFAULT '[]',
    citations        jsonb NOT NULL DEFAULT '[]',
    degraded_reasons text[] NOT NULL DEFAULT '{}',
    -- Whose rows the answer may repeat: the knowledge bases that it cites, and those of the earlier turns that its model
    -- was told. A later model that may not see one of them is not told the turn.
    knowledge_bases  text[] NOT NULL DEFAULT '{}',
    -- A running turn whose server died is over when its deadline is.
    deadline_time    timestamptz NOT NULL,
    create_time      timestamptz NOT NULL DEFAULT now(),
    complete_time    timestamptz,
    PRIMARY KEY (tenant, conversation, number),
    UNIQUE (tenant, request_id),
    FOREIGN KEY (tenant, conversation) REFERENCES dari.conversations ON DELETE CASCADE,
    CHECK ((state = 'COMPLETED') = (answered_by IS NOT NULL AND complete_time IS NOT NULL))
);

GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA dari TO dari_app;
