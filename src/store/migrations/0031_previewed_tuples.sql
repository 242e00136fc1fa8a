-- Which session of a tuple those were given last, all of them, who may read its room before they join it, and since
-- when: a tuple whose sessions change often is not given to all of them each time.
CREATE TABLE previewed_tuples (
    room_id    TEXT NOT NULL,
    event_type TEXT NOT NULL,
    state_key  TEXT NOT NULL,
    session_id TEXT NOT NULL,
    given_at   INTEGER NOT NULL,
    PRIMARY KEY (room_id, event_type, state_key)
) STRICT, WITHOUT ROWID;

-- A round that is under way did not note what it gives: it begins anew.
UPDATE preview_rounds SET below = NULL, due_at = COALESCE(due_at, 0) WHERE below IS NOT NULL;

-- How many people a round began with.
ALTER TABLE preview_rounds ADD COLUMN begun_with INTEGER NOT NULL DEFAULT 0;
