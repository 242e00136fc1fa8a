-- What a room is promised through another holds while that one's state is fetched anew: it waits, and is not forgotten.
DROP VIEW previewed;
CREATE VIEW previewed AS
    SELECT l.room_id, l.allowed_id, s.root_id, s.preview, a.loaded FROM let_in l
    JOIN space_rooms s ON s.room_id = l.room_id AND s.preview <> 'none'
    JOIN rooms r ON r.room_id = l.room_id AND r.membership = 'join' AND r.state_encrypted = 1
    JOIN rooms a ON a.room_id = l.allowed_id AND a.membership = 'join';
DROP VIEW inviting;
CREATE VIEW inviting AS
    SELECT l.room_id, l.allowed_id, s.root_id FROM let_in l
    JOIN space_rooms s ON s.room_id = l.room_id AND s.invites = 1
    JOIN rooms r ON r.room_id = l.room_id AND r.membership = 'join' AND r.state_encrypted = 1
    JOIN rooms a ON a.room_id = l.allowed_id AND a.membership = 'join';
