-- State in plain where it has to be encrypted, of which policy said when it came that it is to be redacted. What it said
-- has to stand under encryption first.
CREATE TABLE owed_redactions (
    event_id TEXT NOT NULL PRIMARY KEY,
    room_id TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX owed_redactions_of_room ON owed_redactions (room_id);

-- A rule's word more: `unsealed`, of an event in plain that is its tuple's value all the same.
DROP INDEX state_events_plain;
CREATE INDEX state_events_plain ON state_events (room_id, event_type, state_key, tick) WHERE breach IN ('plain', 'unsealed');
