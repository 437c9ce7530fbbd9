-- Whether the next model of a chain gets ready while the one asked is slow.

ALTER TABLE dari.chat_configurations
    ADD COLUMN stand_by text NOT NULL DEFAULT 'OFF' CHECK (stand_by IN ('OFF', 'WARM', 'RACE')),
    ADD COLUMN stand_by_after_s double precision NOT NULL DEFAULT 1 CHECK (stand_by_after_s BETWEEN 0.05 AND 600);
-- For the rows that there were; from now on whoever makes one says.
ALTER TABLE dari.chat_configurations
    ALTER COLUMN stand_by DROP DEFAULT,
    ALTER COLUMN stand_by_after_s DROP DEFAULT;
