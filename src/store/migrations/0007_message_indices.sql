-- The indices of Megolm sessions that stood in messages, as ranges: of a message it only has to be known that its index
-- is used, not by which event. Rows of `megolm_indices` that messages left there before stay, and say the same.
CREATE TABLE message_indices (
    room_id     TEXT NOT NULL,
    session_id  TEXT NOT NULL,
    sender      TEXT NOT NULL,
    first_index INTEGER NOT NULL,
    last_index  INTEGER NOT NULL,
    PRIMARY KEY (room_id, session_id, sender, first_index)
) STRICT, WITHOUT ROWID;
