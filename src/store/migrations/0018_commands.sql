-- What administrators commanded, who they were, and what came of it. In plain, as `words` and `blocks` are, which
-- come of it: commands are carried out beside a keeper without the passphrase. What only reads has one row for each
-- hour, with how often it was asked.
CREATE TABLE commands (
    id        INTEGER PRIMARY KEY,
    at        INTEGER NOT NULL,
    last_at   INTEGER NOT NULL,
    count     INTEGER NOT NULL,
    actor     TEXT NOT NULL,
    verb      TEXT NOT NULL,
    room_id   TEXT NOT NULL,
    user_id   TEXT NOT NULL,
    device_id TEXT NOT NULL,
    detail    TEXT NOT NULL,
    outcome   TEXT NOT NULL
);

CREATE INDEX commands_by_age ON commands (last_at);

-- What an administrator had done over: with a user, keys that were given until then are given once more; without, a
-- room's values that were sealed at this tick or before are sealed once more.
CREATE TABLE orders (
    room_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    at      INTEGER NOT NULL,
    tick    INTEGER NOT NULL,
    PRIMARY KEY (room_id, user_id)
);
