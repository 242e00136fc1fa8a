-- How often a room's state was fetched, or began to be: whoever read what hangs on it sees whether it was sure.
ALTER TABLE rooms ADD COLUMN fetches INTEGER NOT NULL DEFAULT 0;
CREATE TRIGGER rooms_fetched AFTER UPDATE OF loaded ON rooms WHEN old.loaded <> new.loaded BEGIN
    UPDATE rooms SET fetches = fetches + 1 WHERE room_id = new.room_id;
END;

-- Rooms whose people were gone through while some of those who may read them were not known: they are gone through again.
CREATE TABLE awaited (
    room_id TEXT NOT NULL PRIMARY KEY
) STRICT, WITHOUT ROWID;

-- A status more: `ending`, an invite of the keeper's that is to be withdrawn, because nothing lets its user in any more.
CREATE INDEX invites_ending ON invites (due_at) WHERE status = 'ending';
