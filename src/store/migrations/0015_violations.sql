-- The ledger tells of state that broke a rule, too: which event that was.
ALTER TABLE ledger ADD COLUMN event_id TEXT;
-- What could not be read is forgotten with the rest, once nothing hangs on it.
DROP INDEX state_events_age;
CREATE INDEX state_events_age ON state_events (room_id, received_at);
