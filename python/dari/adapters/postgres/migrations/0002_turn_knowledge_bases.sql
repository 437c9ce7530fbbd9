-- Whose rows a turn's answer may repeat: the knowledge bases that it cites, and those of the earlier turns that its model
-- was told. A later model that may not see one of them is not told the turn.

ALTER TABLE dari.turns ADD knowledge_bases text[] NOT NULL DEFAULT '{}';

-- What earlier models were told was not recorded: take all that was cited before in the conversation.
UPDATE dari.turns t SET knowledge_bases = ARRAY(
    SELECT DISTINCT cited ->> 'knowledge_base'
    FROM dari.turns e CROSS JOIN jsonb_array_elements(e.citations) AS cited
    WHERE e.tenant = t.tenant AND e.conversation = t.conversation AND e.number <= t.number)
WHERE t.state = 'COMPLETED';
