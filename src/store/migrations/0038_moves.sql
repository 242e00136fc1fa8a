-- Rooms that are being made: how often one came of it that could not be used, what the new one is kept as until the
-- order is at its end, and how much could not be done beyond the notes that are kept.
ALTER TABLE commissions ADD COLUMN spoilt INTEGER NOT NULL DEFAULT 0;
ALTER TABLE commissions ADD COLUMN kept_as TEXT;   -- JSON: by what its policy is chosen
ALTER TABLE commissions ADD COLUMN more_notes INTEGER NOT NULL DEFAULT 0;
CREATE INDEX commissions_making ON commissions (room_id) WHERE ended_at IS NULL;

-- A room is moved by one order at a time: the first one goes on.
UPDATE commissions SET step = 'failed', trouble = NULL, wanted = X'', ended_at = created_at,
    notes = '["another order moves the room"]'
WHERE ended_at IS NULL AND old_room IS NOT NULL AND EXISTS (
    SELECT 1 FROM commissions other WHERE other.ended_at IS NULL AND other.old_room = commissions.old_room
    AND (other.created_at, other.id) < (commissions.created_at, commissions.id));
CREATE UNIQUE INDEX commissions_moving ON commissions (old_room) WHERE ended_at IS NULL AND old_room IS NOT NULL;
