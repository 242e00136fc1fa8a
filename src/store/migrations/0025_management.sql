-- What administrators wrote in the management room. The body stands here, encrypted, until the message is taken up:
-- from then on it is never taken up again, whatever comes of it.
CREATE TABLE talk (
    event_id    TEXT PRIMARY KEY,
    room_id     TEXT NOT NULL,
    received_at INTEGER NOT NULL,
    body        BLOB
);

CREATE INDEX talk_waiting ON talk (received_at) WHERE body IS NOT NULL;

-- Each place in a session that a message from there stood in: the homeserver cannot have it said again under another
-- event id. Never pruned.
CREATE TABLE talk_indices (
    session_id    TEXT NOT NULL,
    message_index INTEGER NOT NULL,
    PRIMARY KEY (session_id, message_index)
);
