-- What the keeper asks members for, and which of their keys it holds.

-- Sessions of members' whose key is missing for a current state event: a row for each that is asked for, or was.
CREATE TABLE asks (
    room_id    TEXT NOT NULL,
    session_id TEXT NOT NULL,
    request_id TEXT NOT NULL,               -- of the turn that is under way
    rounds     INTEGER NOT NULL DEFAULT 0,  -- how often somebody was asked, or there was nobody to ask
    due_at     INTEGER NOT NULL,            -- when the next ones are asked
    given_up   INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (room_id, session_id)
) STRICT, WITHOUT ROWID;

-- Whom, under which request id.
CREATE TABLE asked (
    room_id    TEXT NOT NULL,
    session_id TEXT NOT NULL,
    user_id    TEXT NOT NULL,
    device_id  TEXT NOT NULL,
    request_id TEXT NOT NULL,
    PRIMARY KEY (room_id, session_id, user_id, device_id, request_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX state_events_unreadable ON state_events (room_id) WHERE verdict = 'unreadable';

-- The sessions of members' that the device's key store holds.
CREATE TABLE held_sessions (
    room_id        TEXT NOT NULL,
    session_id     TEXT NOT NULL,
    maker          TEXT NOT NULL,     -- '': not written down when its key came
    sender_key     TEXT NOT NULL,     -- the Curve25519 key of the device that made it
    tick           INTEGER NOT NULL,  -- when its key came first; 0: before this table
    needless_since INTEGER,           -- a newer one of the same device is in use, or its maker or the keeper left
    PRIMARY KEY (room_id, session_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX held_sessions_of_device ON held_sessions (room_id, sender_key, tick);
CREATE INDEX held_sessions_needless ON held_sessions (needless_since)
    WHERE needless_since IS NOT NULL;
