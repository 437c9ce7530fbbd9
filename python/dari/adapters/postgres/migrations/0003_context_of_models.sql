-- How much a model can hold. 0: what the server's engine holds, of a local model.

ALTER TABLE dari.ai_models
    ADD COLUMN context_tokens integer NOT NULL DEFAULT 0
        CHECK (context_tokens = 0 OR context_tokens BETWEEN 512 AND 1048576);

UPDATE dari.ai_models SET context_tokens = 8192 WHERE kind <> 'LOCAL';
