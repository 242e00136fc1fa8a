-- What a room has said of its encryption: once said, it stays said. `state_encrypted` is what its policy makes of
-- that: whether its state is sealed.
ALTER TABLE rooms ADD COLUMN encrypted INTEGER NOT NULL DEFAULT 0;  -- 1: it is encrypted, by Megolm
ALTER TABLE rooms ADD COLUMN flagged   INTEGER NOT NULL DEFAULT 0;  -- 1: and its state, too
UPDATE rooms SET flagged = state_encrypted, encrypted = state_encrypted
    OR COALESCE(json_valid(encryption) AND json_extract(encryption, '$.algorithm') IS 'm.megolm.v1.aes-sha2', 0);
CREATE INDEX state_events_age ON state_events (room_id, received_at) WHERE body IS NULL;
