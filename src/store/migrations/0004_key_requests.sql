-- Key requests that were heard and are not answered yet. What is met with silence gets no row.
CREATE TABLE key_requests (
    sender     TEXT NOT NULL,
    device_id  TEXT NOT NULL,      -- the asking device, by its own word
    request_id TEXT NOT NULL,
    room_id    TEXT NOT NULL,
    session_id TEXT NOT NULL,
    heard_at   INTEGER NOT NULL,
    PRIMARY KEY (sender, device_id, request_id)
) STRICT, WITHOUT ROWID;

-- Which state events stand under a member's session: one that is asked for.
CREATE INDEX state_events_of_session ON state_events (room_id, session_id)
    WHERE session_id IS NOT NULL;
