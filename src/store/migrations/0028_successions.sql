-- Rooms that go on in others: what the old room says, and what the new one says. Only where both say so is one the
-- other's successor.
CREATE TABLE successions (
    old_id    TEXT NOT NULL,
    new_id    TEXT NOT NULL,
    tombstone TEXT,                          -- the old room's event, or the order that made the new room
    claimed   INTEGER NOT NULL DEFAULT 0,    -- 1: the new room's m.room.create names the old one
    via       TEXT,                          -- the server of whoever said it
    status    TEXT NOT NULL DEFAULT 'new',   -- new, joined, cannot_join
    attempts  INTEGER NOT NULL DEFAULT 0,
    retry_at  INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (old_id, new_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX successions_by_new ON successions (new_id);

-- Whether the picture of a room's avatar lies on the server for everybody to see, though the avatar itself is sealed.
ALTER TABLE tuples ADD COLUMN public_picture INTEGER NOT NULL DEFAULT 0;

-- Neither was kept before: every room's state is fetched anew.
UPDATE rooms SET loaded = 0 WHERE membership = 'join';
