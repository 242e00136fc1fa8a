-- When a session was retired, and when the one that follows was given to all who are to have it.
ALTER TABLE sessions ADD COLUMN retired_at INTEGER;
ALTER TABLE sessions ADD COLUMN shared_at INTEGER;                     -- only where that was done before anything was sealed
ALTER TABLE sessions ADD COLUMN counted INTEGER NOT NULL DEFAULT 0;    -- 1: its retirement stands in the metrics
UPDATE sessions SET retired_at = created_at, counted = 1 WHERE retired IS NOT NULL;
CREATE INDEX sessions_retired ON sessions (room_id, event_type, state_key) WHERE retired IS NOT NULL;
CREATE INDEX sessions_uncounted ON sessions (retired) WHERE retired IS NOT NULL AND counted = 0;

ALTER TABLE rooms ADD COLUMN history_visibility TEXT;    -- NULL: not known yet
-- It was not kept before: every room's state is fetched anew.
UPDATE rooms SET loaded = 0 WHERE membership = 'join';
