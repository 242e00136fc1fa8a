-- The power levels that stood when an event was sent that had to be fetched: the content as JSON, `null` where the room
-- had none; NULL where the homeserver did not show them.
ALTER TABLE inbox ADD COLUMN levels TEXT;
