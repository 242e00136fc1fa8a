-- Devices that the keeper was before the one that it is: what they sealed is no sign that the store went back.
CREATE TABLE former_devices (
    device_id TEXT PRIMARY KEY,
    until     INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Values that the keeper sealed in a life of which this store knows nothing: nobody here can open them. What each was
-- made from is looked for under it, event by event.
CREATE TABLE buried (
    room_id    TEXT NOT NULL,
    event_type TEXT NOT NULL,
    state_key  TEXT NOT NULL,
    event_id   TEXT NOT NULL,             -- the one that stands there
    since      INTEGER NOT NULL,
    links      INTEGER NOT NULL DEFAULT 0, -- how many of the keeper's own events were looked under
    bottom     INTEGER NOT NULL DEFAULT 0, -- 1: under the last one there was nothing
    found      INTEGER NOT NULL DEFAULT 0, -- 1: its value is at hand after all
    PRIMARY KEY (room_id, event_type, state_key)
) STRICT, WITHOUT ROWID;
