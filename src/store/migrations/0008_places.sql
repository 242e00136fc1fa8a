-- What a policy may be chosen by: a room's main address, and the spaces that it is in.

ALTER TABLE rooms ADD COLUMN canonical_alias TEXT;
ALTER TABLE rooms ADD COLUMN alias_event TEXT;  -- the event that says it: a redaction of it takes it back

-- What a space says of a room, and the room of the space; the room is in it where both say so.
CREATE TABLE space_links (
    room_id    TEXT NOT NULL,
    space_id   TEXT NOT NULL,
    listed_by  TEXT,                            -- the space's m.space.child
    claimed_by TEXT,                            -- the room's m.space.parent
    PRIMARY KEY (room_id, space_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX space_links_by_space ON space_links (space_id);

-- None of it was kept before: every room's state is fetched anew.
UPDATE rooms SET loaded = 0 WHERE membership = 'join';
