-- Keys that an administrator gave out of a file, until something waits for them and for a week at most. Nobody vouches for
-- whose sessions they are.
CREATE TABLE imported_keys (
    room_id     TEXT NOT NULL,
    session_id  TEXT NOT NULL,
    first_index INTEGER NOT NULL,
    imported_at INTEGER NOT NULL,
    due_at      INTEGER NOT NULL,   -- when it is looked at again, where it was of no use
    key         BLOB NOT NULL,
    PRIMARY KEY (room_id, session_id)
) STRICT, WITHOUT ROWID;
