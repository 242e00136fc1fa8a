-- The history that whoever invited the keeper gave it, in a bundle: handed on to those whom the keeper invites, and used
-- for nothing else, since nobody but the giver says whose sessions these are.
CREATE TABLE inherited_keys (
    room_id    TEXT NOT NULL,
    session_id TEXT NOT NULL,
    tick       INTEGER NOT NULL,
    key        BLOB NOT NULL,
    PRIMARY KEY (room_id, session_id)
) STRICT, WITHOUT ROWID;

-- Whose invite the keeper accepted, and when: his bundle is taken for a day.
ALTER TABLE rooms ADD COLUMN accepted_from TEXT;
ALTER TABLE rooms ADD COLUMN accepted_at INTEGER;
