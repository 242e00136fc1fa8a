-- An event of which the homeserver never told, and which the keeper fetched: others may have come after it, and have
-- been taken in before it.
ALTER TABLE inbox ADD COLUMN fetched INTEGER NOT NULL DEFAULT 0;
