-- How members came in, what was seen of users, and what administrators said of them.

ALTER TABLE rooms ADD COLUMN join_rules TEXT;           -- JSON content of m.room.join_rules

-- Who invited a member who is invited or joined after an invite, and with which power.
ALTER TABLE members ADD COLUMN inviter TEXT;
ALTER TABLE members ADD COLUMN inviter_power INTEGER;   -- the largest number there is: infinite

-- The cross-signing identity of a user: the one that counts, and another one that was seen since.
CREATE TABLE identities (
    user_id    TEXT PRIMARY KEY,
    master_key TEXT NOT NULL,      -- the public key, base64
    first_seen INTEGER NOT NULL,
    changed_to TEXT                -- waits for an administrator who confirms it
) STRICT, WITHOUT ROWID;

-- Who gets no key in any room.
CREATE TABLE blocks (
    user_id    TEXT NOT NULL,
    device_id  TEXT NOT NULL,      -- '': every device
    blocked_at INTEGER NOT NULL,
    PRIMARY KEY (user_id, device_id)
) STRICT, WITHOUT ROWID;

-- What an administrator said of a user in a room. An approval goes with the member, a denial stays.
CREATE TABLE words (
    room_id  TEXT NOT NULL,
    user_id  TEXT NOT NULL,
    approved INTEGER NOT NULL,     -- 0: denied
    said_at  INTEGER NOT NULL,
    PRIMARY KEY (room_id, user_id)
) STRICT, WITHOUT ROWID;

-- Members about whom an administrator has to decide.
CREATE TABLE holds (
    room_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    since   INTEGER NOT NULL,
    reason  TEXT NOT NULL,         -- identity_changed, not_vouched, awaits_approval
    PRIMARY KEY (room_id, user_id)
) STRICT, WITHOUT ROWID;
