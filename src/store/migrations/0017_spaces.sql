-- Spaces that the keeper follows, what lies beneath them, and whose members read a room's state before they join it.

ALTER TABLE rooms ADD COLUMN is_space INTEGER NOT NULL DEFAULT 0;
ALTER TABLE space_links ADD COLUMN via TEXT;    -- JSON array of the servers that the space's m.space.child names

-- A space to follow: by its place in the configuration, or because an administrator invited the keeper into it.
CREATE TABLE followed_spaces (
    name     TEXT PRIMARY KEY,                  -- as it is configured, or its id
    space_id TEXT,                              -- NULL while an address was not looked up yet
    invited  INTEGER NOT NULL DEFAULT 0,
    status   TEXT NOT NULL,
    detail   TEXT,                              -- what an administrator has to change
    beyond   INTEGER NOT NULL DEFAULT 0,        -- how many rooms lie beyond its bounds
    attempts INTEGER NOT NULL DEFAULT 0,
    retry_at INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

-- A room beneath a followed space, as the last walk found it.
CREATE TABLE space_rooms (
    room_id  TEXT PRIMARY KEY,
    root_id  TEXT NOT NULL,                     -- the followed space
    space_id TEXT NOT NULL,                     -- the one that lists it
    depth    INTEGER NOT NULL,
    preview  TEXT NOT NULL,                     -- none, aesthetic, all
    status   TEXT NOT NULL,
    detail   TEXT,
    attempts INTEGER NOT NULL DEFAULT 0,
    retry_at INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

-- A room whose members a restricted room lets in.
CREATE TABLE let_in (
    room_id    TEXT NOT NULL,
    allowed_id TEXT NOT NULL,
    PRIMARY KEY (room_id, allowed_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX let_in_by_allowed ON let_in (allowed_id);

-- Rooms with encrypted state beneath a followed space, and through whose members the keeper may provide for them.
CREATE VIEW previewed AS
    SELECT l.room_id, l.allowed_id, s.root_id, s.preview FROM let_in l
    JOIN space_rooms s ON s.room_id = l.room_id AND s.preview <> 'none'
    JOIN rooms r ON r.room_id = l.room_id AND r.membership = 'join' AND r.state_encrypted = 1
    JOIN rooms a ON a.room_id = l.allowed_id AND a.membership = 'join' AND a.loaded = 1;

-- What somebody was given before he joined is kept apart from what members hold.
ALTER TABLE grants ADD COLUMN preview INTEGER NOT NULL DEFAULT 0;
CREATE INDEX grants_of_members ON grants (room, user, device) WHERE preview = 0;
CREATE INDEX grants_of_previewers ON grants (room, session_id) WHERE preview = 1;

-- Somebody who may read a room before he joins it and has to be provided for: the newest comer first.
CREATE TABLE preview_marks (
    room_id  TEXT NOT NULL,
    user_id  TEXT NOT NULL,
    tick     INTEGER NOT NULL,
    due_at   INTEGER NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (room_id, user_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX preview_marks_newest ON preview_marks (tick);

-- A room of which all who may read it before they join have to be provided for, and how far that is.
CREATE TABLE preview_rounds (
    room_id   TEXT PRIMARY KEY,
    due_at    INTEGER,                          -- NULL: there is nothing to do
    below     INTEGER,                          -- comers from this tick on are done; NULL: the round has not begun
    left_over INTEGER NOT NULL DEFAULT 0,       -- about how many are not
    again_at  INTEGER                           -- when another round is due: something changed since this one began
) STRICT, WITHOUT ROWID;

CREATE INDEX members_by_coming ON members (room_id, tick);

-- None of it was kept before: every room's state is fetched anew.
UPDATE rooms SET loaded = 0 WHERE membership = 'join';
