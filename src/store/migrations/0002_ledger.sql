-- The identifiers of the ledger are encrypted like keys are. The plain ones go, and with them who holds what:
-- so every session retires, and what is sealed next is sealed under a new one.
PRAGMA secure_delete = ON;
DROP TABLE grants;
DROP TABLE refusals;
UPDATE sessions SET retired = 'who holds it was forgotten' WHERE retired IS NULL;

-- Rooms, users, devices, tuples and policies of the ledger, each once.
CREATE TABLE names (
    id   INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,
    hash BLOB NOT NULL UNIQUE,      -- the store cipher's keyed hash of kind and name
    name BLOB NOT NULL
) STRICT;

-- Who was given which session from which index on. Written before the key leaves, and never pruned.
CREATE TABLE grants (
    session_id    TEXT NOT NULL,
    user          INTEGER NOT NULL,  -- names
    device        INTEGER NOT NULL,  -- names
    room          INTEGER NOT NULL,  -- names
    message_index INTEGER NOT NULL,
    reason        TEXT NOT NULL,
    granted_at    INTEGER NOT NULL,
    sent_at       INTEGER,           -- NULL: promised, the homeserver's 200 not seen yet
    sent_tick     INTEGER,
    PRIMARY KEY (session_id, user, device)
) STRICT, WITHOUT ROWID;
CREATE INDEX grants_by_user ON grants (room, user);
CREATE INDEX grants_of_device ON grants (user, device);

-- What was given and refused, and when: history, pruned after `ledger.retention_days`.
CREATE TABLE ledger (
    id            INTEGER PRIMARY KEY,
    at            INTEGER NOT NULL,
    room          INTEGER NOT NULL,  -- names
    user          INTEGER NOT NULL,  -- names
    device        INTEGER NOT NULL,  -- names
    session_id    TEXT NOT NULL,     -- '': a refusal that concerns whatever session there is
    message_index INTEGER,
    tuple         INTEGER,           -- names
    reason        TEXT NOT NULL,
    policy        INTEGER,           -- names
    outcome       TEXT NOT NULL,     -- granted (delivery unknown), delivered, refused_by_homeserver, withheld:<code>, held
    count         INTEGER,           -- of refusals and holds: how often
    last_at       INTEGER NOT NULL
) STRICT;
CREATE INDEX ledger_by_user ON ledger (user, id);
CREATE INDEX ledger_by_room ON ledger (room, id);
CREATE INDEX ledger_by_age ON ledger (last_at);
CREATE INDEX ledger_unsure ON ledger (session_id, user, device) WHERE outcome = 'granted';
CREATE UNIQUE INDEX ledger_counted ON ledger (room, user, device, session_id, outcome)
    WHERE count IS NOT NULL;
