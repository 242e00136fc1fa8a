-- A member who goes on breaking a room's rules, whose changes are not restored before an administrator says so. What he
-- broke until `settled_at` (milliseconds) is not held against him any more.
CREATE TABLE wars (
    room_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    -- In milliseconds; NULL when the last one is settled.
    began_at INTEGER,
    settled_at INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (room_id, user_id)
) WITHOUT ROWID;

-- Administrators are told of what broke a rule by when that was found, not by when it was sent.
CREATE INDEX ledger_violations ON ledger (at) WHERE outcome GLOB 'violation:*';

-- The journal keeps what a member said, allowed or not: the event, what stands in it once it was read, and the power
-- levels that stood when it was sent.
CREATE TABLE levels_then (
    id INTEGER PRIMARY KEY,
    room_id TEXT NOT NULL,
    -- The content as JSON; '' where the room had none.
    levels TEXT NOT NULL,
    UNIQUE (room_id, levels)
);
ALTER TABLE state_events ADD COLUMN levels_id INTEGER;
ALTER TABLE state_events ADD COLUMN content BLOB;
-- Whether it is looked at again by itself: its key is awaited, or a signature, or an administrator's word.
ALTER TABLE state_events ADD COLUMN awaits INTEGER NOT NULL DEFAULT 0;
UPDATE state_events SET awaits = 1 WHERE body IS NOT NULL;
-- What is asked of a tuple's events with each decision is answered without a look at what stands in them.
DROP INDEX state_events_by_tuple;
CREATE INDEX state_events_of_tuple ON state_events (room_id, event_type, state_key, tick, verdict, breach);
CREATE INDEX state_events_plain ON state_events (room_id, event_type, state_key, tick) WHERE breach = 'plain';
CREATE INDEX state_events_levels ON state_events (room_id, levels_id) WHERE levels_id IS NOT NULL;
DROP INDEX state_events_breaches;
CREATE INDEX state_events_breaches ON state_events (room_id, sender, received_at, breach, live) WHERE breach IS NOT NULL;
CREATE INDEX state_events_awaiting ON state_events (room_id, session_id) WHERE awaits = 1;
