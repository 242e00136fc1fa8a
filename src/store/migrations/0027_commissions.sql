-- Rooms that administrators have the keeper make, or move to new ones: what is wanted, and how far it is. What is
-- written in plain here stands in plain on the homeserver, too.
CREATE TABLE commissions (
    id         TEXT PRIMARY KEY,   -- stands in the new room's creation content: that is how it is found again
    kind       TEXT NOT NULL,      -- create, upgrade
    actor      TEXT NOT NULL,
    old_room   TEXT,               -- of an upgrade
    room_id    TEXT,               -- the new room, once it is known
    step       TEXT NOT NULL,
    attempts   INTEGER NOT NULL DEFAULT 0,   -- how often the homeserver was asked to create the room
    done       INTEGER NOT NULL DEFAULT 0,   -- how much of the step is done
    total      INTEGER NOT NULL DEFAULT 0,
    trouble    TEXT,               -- what it waits for
    notes      TEXT NOT NULL DEFAULT '[]',   -- JSON array: what could not be done, and what an administrator has to do
    wanted     BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    ended_at   INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX commissions_open ON commissions (created_at) WHERE ended_at IS NULL;
