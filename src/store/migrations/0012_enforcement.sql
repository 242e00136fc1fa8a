-- Which rule a state event broke, and whether it was seen when it was sent: what the keeper found when it came may have
-- been allowed in its time.
ALTER TABLE state_events ADD COLUMN breach TEXT;
ALTER TABLE state_events ADD COLUMN live INTEGER NOT NULL DEFAULT 0;
CREATE INDEX state_events_breaches ON state_events (room_id, sender, received_at) WHERE breach IS NOT NULL;
