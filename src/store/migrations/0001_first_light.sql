-- Times are milliseconds since the Unix epoch by the keeper's own clock. A tick is a number that only
-- ever grows, also over restarts: it orders what the keeper did where clocks could tie or step back.
-- BLOBs are encrypted by the store cipher unless the column says otherwise.

CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value BLOB NOT NULL
) STRICT;

-- Room events as the homeserver pushed them, in the order of its stream. A row outlives its body: the
-- event id is what makes a second delivery harmless. The body is NULL once the event is taken in.
CREATE TABLE inbox (
    seq         INTEGER PRIMARY KEY AUTOINCREMENT,
    event_id    TEXT NOT NULL UNIQUE,
    room_id     TEXT NOT NULL,
    received_at INTEGER NOT NULL,
    held        INTEGER NOT NULL DEFAULT 0,   -- 1: its room's state is being fetched first
    body        TEXT                          -- as received: what the homeserver itself could read
) STRICT;
CREATE INDEX inbox_waiting ON inbox (seq) WHERE body IS NOT NULL;
CREATE INDEX inbox_held ON inbox (room_id) WHERE held = 1;
CREATE INDEX inbox_age ON inbox (received_at) WHERE body IS NULL;

-- Rooms that the keeper is, was or is about to be in.
CREATE TABLE rooms (
    room_id         TEXT PRIMARY KEY,
    membership      TEXT NOT NULL,                 -- the keeper's own
    inviter         TEXT,
    loaded          INTEGER NOT NULL DEFAULT 0,    -- 1: the state was fetched since the keeper's join
    version         TEXT NOT NULL DEFAULT '1',
    creators        TEXT NOT NULL DEFAULT '[]',    -- JSON array of user ids
    encryption      TEXT,                          -- JSON content of m.room.encryption
    power_levels    TEXT,                          -- JSON content of m.room.power_levels
    state_encrypted INTEGER NOT NULL DEFAULT 0,
    elevated        INTEGER NOT NULL DEFAULT 0,
    active_at       INTEGER NOT NULL DEFAULT 0     -- newest event in it
) STRICT;

CREATE TABLE members (
    room_id    TEXT NOT NULL,
    user_id    TEXT NOT NULL,
    membership TEXT NOT NULL,
    since      INTEGER NOT NULL,   -- when this membership began, at the latest (the event's age is deducted)
    arrived_at INTEGER NOT NULL,   -- when the keeper heard of it
    tick       INTEGER NOT NULL,
    PRIMARY KEY (room_id, user_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX members_by_user ON members (user_id);

-- One row a state tuple that is, or should be, sealed.
CREATE TABLE tuples (
    room_id        TEXT NOT NULL,
    event_type     TEXT NOT NULL,
    state_key      TEXT NOT NULL,
    -- The newest value that a member was allowed to give it.
    source_event_id TEXT,
    source_sender   TEXT,
    source_form     TEXT,
    source_at       INTEGER,
    source_tick     INTEGER,
    content         BLOB,
    -- How often others said again what the keeper had sealed already, since when: a bot that seals too.
    echoes          INTEGER NOT NULL DEFAULT 0,
    echoes_since    INTEGER NOT NULL DEFAULT 0,
    -- What stands at the packed state key now.
    current_event_id TEXT,
    current_sender   TEXT,
    current_fit      INTEGER NOT NULL DEFAULT 1,   -- 0: it was refused, or cannot be read (yet)
    redacted         INTEGER NOT NULL DEFAULT 0,
    -- What the keeper sealed last.
    sealed_event_id  TEXT,
    sealed_from      TEXT,                         -- the source event that it stands for
    session_id       TEXT,
    message_index    INTEGER,
    snapshot         BLOB,                         -- the signed session key at message_index
    sealed_tick      INTEGER,
    refreshed_at     INTEGER NOT NULL DEFAULT 0,
    device_refresh_at INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (room_id, event_type, state_key)
) STRICT, WITHOUT ROWID;

-- Hidden state events that others sent: what became of each, and its body while its key is awaited.
CREATE TABLE state_events (
    event_id    TEXT PRIMARY KEY,
    room_id     TEXT NOT NULL,
    event_type  TEXT NOT NULL,
    state_key   TEXT NOT NULL,
    sender      TEXT NOT NULL,
    tick        INTEGER NOT NULL,
    received_at INTEGER NOT NULL,
    session_id  TEXT,
    powerful    INTEGER NOT NULL,    -- the sender had the power for the true type when the event came
    verdict     TEXT NOT NULL,
    body        BLOB
) STRICT, WITHOUT ROWID;
CREATE INDEX state_events_by_session ON state_events (room_id, session_id) WHERE body IS NOT NULL;
CREATE INDEX state_events_by_tuple ON state_events (room_id, event_type, state_key);

-- Every (session, index) that stood in an event of a room with encrypted state, the keeper's own too.
CREATE TABLE megolm_indices (
    room_id       TEXT NOT NULL,
    session_id    TEXT NOT NULL,
    message_index INTEGER NOT NULL,
    sender        TEXT NOT NULL,     -- whoever labels his event with another's session spoils only his own
    event_id      TEXT NOT NULL,
    PRIMARY KEY (room_id, session_id, message_index, sender)
) STRICT, WITHOUT ROWID;

-- The keeper's state sessions.
CREATE TABLE sessions (
    session_id  TEXT PRIMARY KEY,
    room_id     TEXT NOT NULL,
    event_type  TEXT NOT NULL,       -- '' with state_key '': one session for the room
    state_key   TEXT NOT NULL,
    pickle      BLOB NOT NULL,
    created_at  INTEGER NOT NULL,
    messages    INTEGER NOT NULL DEFAULT 0,
    retired     TEXT                 -- why it must never encrypt again
) STRICT, WITHOUT ROWID;
CREATE INDEX sessions_active ON sessions (room_id, event_type, state_key) WHERE retired IS NULL;

-- The ledger's heart: who was given which session from which index on. Written before the key leaves.
CREATE TABLE grants (
    session_id    TEXT NOT NULL,
    user_id       TEXT NOT NULL,
    device_id     TEXT NOT NULL,
    room_id       TEXT NOT NULL,
    message_index INTEGER NOT NULL,
    reason        TEXT NOT NULL,
    granted_at    INTEGER NOT NULL,
    sent_at       INTEGER,           -- NULL: promised, the homeserver's 200 not seen yet
    sent_tick     INTEGER,
    PRIMARY KEY (session_id, user_id, device_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX grants_by_user ON grants (room_id, user_id);

-- Refusals, counted once a device and room.
CREATE TABLE refusals (
    room_id    TEXT NOT NULL,
    user_id    TEXT NOT NULL,
    device_id  TEXT NOT NULL,
    code       TEXT NOT NULL,
    refused_at INTEGER NOT NULL,
    PRIMARY KEY (room_id, user_id, device_id, code)
) STRICT, WITHOUT ROWID;

-- State events that the keeper sent, and for which event each stands.
CREATE TABLE seals (
    event_id   TEXT PRIMARY KEY,
    room_id    TEXT NOT NULL,
    event_type TEXT NOT NULL,
    state_key  TEXT NOT NULL,
    stands_for TEXT NOT NULL,
    redacted   INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;
CREATE INDEX seals_by_source ON seals (stands_for);

-- What was encrypted at which index of the keeper's, until its event is seen: also one whose answer was lost.
CREATE TABLE prepared (
    session_id    TEXT NOT NULL,
    message_index INTEGER NOT NULL,
    stands_for    TEXT NOT NULL,
    PRIMARY KEY (session_id, message_index)
) STRICT, WITHOUT ROWID;

-- Events that stood in a room without ever having been pushed: to be fetched.
CREATE TABLE missed (
    room_id  TEXT NOT NULL,
    event_id TEXT NOT NULL,
    PRIMARY KEY (room_id, event_id)
) STRICT, WITHOUT ROWID;

-- What is about to be sent, or may have been sent already: repeated to the letter after a restart.
CREATE TABLE outbox (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    room_id    TEXT NOT NULL,
    kind       TEXT NOT NULL,      -- to_device, state, redaction
    txn_id     TEXT NOT NULL,
    event_type TEXT NOT NULL,
    state_key  TEXT NOT NULL,
    body       BLOB NOT NULL,      -- plain: it holds ciphertext only
    detail     BLOB NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;
CREATE INDEX outbox_by_room ON outbox (room_id, id);

-- Promises: rooms (user_id = '') or members to be decided upon, made in the commit that took in the cause.
CREATE TABLE marks (
    room_id  TEXT NOT NULL,
    user_id  TEXT NOT NULL,
    due_at   INTEGER NOT NULL,
    tick     INTEGER NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (room_id, user_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX marks_due ON marks (due_at);
