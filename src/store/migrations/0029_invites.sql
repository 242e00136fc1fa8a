-- Inviting people into rooms, with the history that their members share.

ALTER TABLE space_links ADD COLUMN suggested INTEGER NOT NULL DEFAULT 0;    -- 1: the space's m.space.child suggests the room
ALTER TABLE space_rooms ADD COLUMN invites INTEGER NOT NULL DEFAULT 0;      -- 1: whoever may join the room is invited
ALTER TABLE held_sessions ADD COLUMN shared INTEGER NOT NULL DEFAULT 0;     -- 1: marked as shared history by its maker
-- What the key store holds is looked at anew for that mark.
DELETE FROM meta WHERE key = 'held_sessions';
-- What is suggested was not kept before: every room's state is fetched anew.
UPDATE rooms SET loaded = 0 WHERE membership = 'join';

-- Rooms with encrypted state beneath a followed space into which members of others are invited, and of which.
CREATE VIEW inviting AS
    SELECT l.room_id, l.allowed_id, s.root_id FROM let_in l
    JOIN space_rooms s ON s.room_id = l.room_id AND s.invites = 1
    JOIN rooms r ON r.room_id = l.room_id AND r.membership = 'join' AND r.state_encrypted = 1
    JOIN rooms a ON a.room_id = l.allowed_id AND a.membership = 'join' AND a.loaded = 1;

-- Somebody whom the keeper invites, or will never invite again: an answer is remembered for good.
CREATE TABLE invites (
    room_id   TEXT NOT NULL,
    user_id   TEXT NOT NULL,
    status    TEXT NOT NULL,                 -- due; sending: it may have been sent; made; over: he said no, or was put out
    knocked   INTEGER NOT NULL DEFAULT 0,    -- 1: he asked to be let in himself
    put_out   INTEGER NOT NULL DEFAULT 0,    -- 1: by somebody else: his asking changes nothing
    tick      INTEGER NOT NULL,
    due_at    INTEGER NOT NULL,
    attempts  INTEGER NOT NULL DEFAULT 0,
    bundle_id INTEGER,                       -- the one that he was sent
    PRIMARY KEY (room_id, user_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX invites_due ON invites (due_at) WHERE status IN ('due', 'sending');
CREATE INDEX invites_newest ON invites (tick) WHERE status IN ('due', 'sending');
CREATE INDEX invites_of_user ON invites (user_id) WHERE status IN ('due', 'sending');
CREATE INDEX invites_by_bundle ON invites (bundle_id) WHERE bundle_id IS NOT NULL;

-- Uploads of the history keys of rooms. Who was given which stands here for good, as in `grants`.
CREATE TABLE bundles (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    room_id    TEXT NOT NULL,
    url        TEXT NOT NULL,                -- mxc://
    file       BLOB,                         -- where it is and how it is opened; NULL once nobody is sent it any more
    sessions   BLOB NOT NULL,                -- which sessions are in it
    tick       INTEGER NOT NULL,             -- what came in later is not in it
    made_at    INTEGER NOT NULL,
    removed_at INTEGER                       -- when its removal was asked for
) STRICT;
CREATE INDEX bundles_by_room ON bundles (room_id) WHERE file IS NOT NULL;
CREATE INDEX bundles_left ON bundles (id) WHERE file IS NULL AND removed_at IS NULL;

CREATE TABLE bundle_grants (
    bundle_id  INTEGER NOT NULL,
    user       INTEGER NOT NULL,
    device     INTEGER NOT NULL,
    granted_at INTEGER NOT NULL,
    sent_at    INTEGER,                      -- NULL: promised, the homeserver's 200 not seen yet
    PRIMARY KEY (bundle_id, user, device)
) STRICT, WITHOUT ROWID;
