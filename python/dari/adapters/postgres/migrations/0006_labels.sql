-- Labels, the selectors that choose by them, and what is blocked or disabled.
--
-- What a selector chooses is not stored: it is asked anew with every read.

CREATE DOMAIN dari.labels AS jsonb CHECK (
    -- strict: in lax mode an array would be looked into, and one of strings would pass.
    jsonb_typeof(VALUE) = 'object' AND NOT jsonb_path_exists(VALUE, 'strict $.* ? (@.type() <> "string")')
);
-- dari.core.labels parses it; the length is what the database can know.
CREATE DOMAIN dari.selector AS text CHECK (char_length(VALUE) <= 1024);
CREATE DOMAIN dari.link_effect AS text CHECK (VALUE IN ('ALLOW', 'BLOCK'));

ALTER TABLE dari.ai_models
    ADD COLUMN labels dari.labels NOT NULL DEFAULT '{}',
    ADD COLUMN knowledge_base_selector dari.selector NOT NULL DEFAULT '',
    ADD COLUMN disabled boolean NOT NULL DEFAULT false;

ALTER TABLE dari.chat_configurations
    ADD COLUMN labels dari.labels NOT NULL DEFAULT '{}',
    ADD COLUMN knowledge_base_selector dari.selector NOT NULL DEFAULT '',
    ADD COLUMN disabled boolean NOT NULL DEFAULT false;

ALTER TABLE dari.knowledge_bases
    ADD COLUMN labels dari.labels NOT NULL DEFAULT '{}',
    ADD COLUMN disabled boolean NOT NULL DEFAULT false;
-- Labels change seldom and are asked for with every turn: no list of pending entries that each read would go through.
CREATE INDEX knowledge_bases_labels ON dari.knowledge_bases USING gin (labels) WITH (fastupdate = off);

ALTER TABLE dari.ai_model_chat_configurations ADD COLUMN disabled boolean NOT NULL DEFAULT false;
ALTER TABLE dari.chat_configuration_knowledge_bases ADD COLUMN effect dari.link_effect NOT NULL DEFAULT 'ALLOW';
ALTER TABLE dari.ai_model_knowledge_bases ADD COLUMN effect dari.link_effect NOT NULL DEFAULT 'ALLOW';
