-- What stands in plain at a state tuple's place, beside what is sealed. The keeper's own copies are known by their
-- sender; what each of them stands for is in `seals`, where a redaction finds it.
CREATE TABLE plain_copies (
    room_id    TEXT NOT NULL,
    event_type TEXT NOT NULL,
    state_key  TEXT NOT NULL,
    event_id   TEXT,                        -- NULL while nothing stands there
    sender     TEXT,
    tick       INTEGER NOT NULL,
    content    BLOB NOT NULL,               -- encrypted; empty where it is redacted
    rounds     INTEGER NOT NULL DEFAULT 0,  -- how often somebody wrote over the keeper's copy, close together
    said_at    INTEGER NOT NULL DEFAULT 0,  -- when somebody else wrote there last
    warned     TEXT,                        -- what was warned of: stale, telling
    refused    TEXT,                        -- the source of which the homeserver took no copy
    PRIMARY KEY (room_id, event_type, state_key)
) STRICT, WITHOUT ROWID;
