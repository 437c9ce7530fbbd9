-- Any file: how a file is read is found out, and stored with its upload; rows may be ragged; uploads may be cancelled;
-- each segment has a third table, the evidence of what is in its columns.


-- Uploads

ALTER TABLE dari.uploads
    -- Hints of the caller: encoding, delimiter, quote, escape, comment, trims_blanks, preamble_lines, header_rows, those
    -- that were given. "" is none.
    ADD COLUMN hints                  jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN replaces_invalid_bytes boolean NOT NULL DEFAULT false,
    ADD COLUMN keeps_ragged_rows      boolean NOT NULL DEFAULT true,
    -- {dialect, runner_up, confidence}; a dialect has all of the keys above. Known from the first batch on.
    ADD COLUMN reading                jsonb,
    ADD COLUMN max_rejected_share     double precision NOT NULL DEFAULT 1 CHECK (max_rejected_share BETWEEN 0 AND 1),
    ADD COLUMN lines_set_aside        bigint NOT NULL DEFAULT 0,
    ADD COLUMN rows_ragged            bigint NOT NULL DEFAULT 0,
    ADD COLUMN rows_repaired          bigint NOT NULL DEFAULT 0,
    ADD COLUMN rows_replaced          bigint NOT NULL DEFAULT 0,
    -- The rest of the parser's state behind the committed bytes: how the file is read, a SHA-256 that can go on.
    ADD COLUMN parser_state           bytea NOT NULL DEFAULT '';

-- What was said in full is told from what was left to the default only by its value. A caller who reopens a complete
-- upload, to have its receipt again, says the same as before: so what equals the former default is no hint.
UPDATE dari.uploads SET
    hints = jsonb_strip_nulls(jsonb_build_object(
        'delimiter', nullif(delimiter, ','),
        'quote', nullif(quote, '"'),
        'header_rows', CASE WHEN NOT has_header THEN 0 END)),
    reading = CASE WHEN columns <> '{}' THEN jsonb_build_object(
        'dialect', jsonb_build_object(
            'encoding', 'utf-8', 'delimiter', delimiter, 'quote', quote, 'escape', '', 'comment', '',
            'trims_blanks', false, 'preamble_lines', 0, 'header_rows', has_header::integer),
        'runner_up', NULL,
        'confidence', 1) END;

-- The parser of today cannot go on from a state of the one before.
UPDATE dari.uploads SET
    state = 'FAILED',
    failure = 'It was begun by an earlier version of dari; send the file again under a new upload_id.',
    update_time = now()
WHERE state = 'OPEN' AND committed_offset_bytes > 0;

ALTER TABLE dari.uploads
    DROP COLUMN delimiter,
    DROP COLUMN quote,
    DROP COLUMN has_header,
    DROP COLUMN sha256_state,
    ALTER COLUMN hints DROP DEFAULT,
    ALTER COLUMN replaces_invalid_bytes DROP DEFAULT,
    ALTER COLUMN keeps_ragged_rows DROP DEFAULT,
    ALTER COLUMN max_rejected_share DROP DEFAULT,
    ADD CHECK ((columns = '{}') OR (reading IS NOT NULL)),
    DROP CONSTRAINT uploads_state_check,
    ADD CHECK (state IN ('OPEN', 'INDEXING', 'COMPLETED', 'FAILED', 'CANCELLED'));

-- The few that housekeeping looks for, among all that there ever were.
CREATE INDEX uploads_unfinished ON dari.uploads (state, update_time) WHERE state IN ('OPEN', 'INDEXING');


-- Segments: cells that a row is too short to have are NULL, and those beyond the columns stand in the last one.

SET LOCAL ROLE dari_ingest;
DO $$
DECLARE
    rows_table record;
    evidence   text;
BEGIN
    FOR rows_table IN
        SELECT c.oid, c.relname, substr(c.relname, length('rows_') + 1) AS segment, p.qual,
            (SELECT string_agg(format('ALTER COLUMN %I DROP NOT NULL', a.attname), ', ' ORDER BY a.attnum)
             FROM pg_attribute a
             WHERE a.attrelid = c.oid AND a.attname ~ '^c\d+$' AND NOT a.attisdropped) AS drops
        FROM pg_class c
        JOIN pg_policies p ON p.schemaname = 'dari_rows' AND p.tablename = c.relname
        WHERE c.relnamespace = 'dari_rows'::regnamespace AND c.relkind = 'r' AND c.relname LIKE 'rows\_%'
        ORDER BY c.relname
    LOOP
        EXECUTE format('ALTER TABLE dari_rows.%I %s, ADD COLUMN extra_cells text[]',
            rows_table.relname, rows_table.drops);
        evidence := 'evidence_' || rows_table.segment;
        EXECUTE format('CREATE TABLE dari_rows.%I (start_offset_bytes bigint NOT NULL, evidence bytea NOT NULL)', evidence);
        EXECUTE format('ALTER TABLE dari_rows.%I ENABLE ROW LEVEL SECURITY', evidence);
        EXECUTE format('CREATE POLICY named_by_transaction ON dari_rows.%I FOR SELECT TO dari_reader USING (%s)',
            evidence, rows_table.qual);
        EXECUTE format('GRANT SELECT ON dari_rows.%I TO dari_reader', evidence);
    END LOOP;
END
$$;
SET LOCAL ROLE dari_owner;
