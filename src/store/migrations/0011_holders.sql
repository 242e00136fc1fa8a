-- Who holds what in a room is read device by device.
DROP INDEX grants_by_user;
CREATE INDEX grants_by_holder ON grants (room, user, device);
