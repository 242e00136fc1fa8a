-- A token for each room that changes with its members, and one, under '', that changes with what is known of people
-- wherever they are: a decision about a room that rests holds for as long as both stay as they were. Tokens are
-- random, so that no two states of a room ever have the same one, whatever becomes of the file. They are deleted and
-- inserted, because how a trigger deals with a conflict is up to the statement that fires it.
CREATE TABLE companies (
    room_id TEXT PRIMARY KEY,
    token   BLOB NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TRIGGER members_came AFTER INSERT ON members BEGIN
    DELETE FROM companies WHERE room_id = NEW.room_id;
    INSERT INTO companies VALUES (NEW.room_id, randomblob(12));
END;
CREATE TRIGGER members_changed AFTER UPDATE ON members BEGIN
    DELETE FROM companies WHERE room_id = NEW.room_id;
    INSERT INTO companies VALUES (NEW.room_id, randomblob(12));
END;
CREATE TRIGGER members_went AFTER DELETE ON members BEGIN
    DELETE FROM companies WHERE room_id = OLD.room_id;
    INSERT INTO companies VALUES (OLD.room_id, randomblob(12));
END;

-- A grant that comes, or that reaches further back, takes nothing from anybody.
CREATE TRIGGER grants_went AFTER DELETE ON grants BEGIN
    DELETE FROM companies WHERE room_id = '';
    INSERT INTO companies VALUES ('', randomblob(12));
END;
CREATE TRIGGER grants_shrank AFTER UPDATE OF message_index ON grants WHEN NEW.message_index > OLD.message_index BEGIN
    DELETE FROM companies WHERE room_id = '';
    INSERT INTO companies VALUES ('', randomblob(12));
END;

-- An identity that is seen for the first time is the one that counts.
CREATE TRIGGER identities_changed AFTER UPDATE ON identities BEGIN
    DELETE FROM companies WHERE room_id = '';
    INSERT INTO companies VALUES ('', randomblob(12));
END;
CREATE TRIGGER identities_went AFTER DELETE ON identities BEGIN
    DELETE FROM companies WHERE room_id = '';
    INSERT INTO companies VALUES ('', randomblob(12));
END;

CREATE TRIGGER blocks_came AFTER INSERT ON blocks BEGIN
    DELETE FROM companies WHERE room_id = '';
    INSERT INTO companies VALUES ('', randomblob(12));
END;
CREATE TRIGGER blocks_changed AFTER UPDATE ON blocks BEGIN
    DELETE FROM companies WHERE room_id = '';
    INSERT INTO companies VALUES ('', randomblob(12));
END;
CREATE TRIGGER blocks_went AFTER DELETE ON blocks BEGIN
    DELETE FROM companies WHERE room_id = '';
    INSERT INTO companies VALUES ('', randomblob(12));
END;

CREATE TRIGGER words_came AFTER INSERT ON words BEGIN
    DELETE FROM companies WHERE room_id = NEW.room_id;
    INSERT INTO companies VALUES (NEW.room_id, randomblob(12));
END;
CREATE TRIGGER words_changed AFTER UPDATE ON words BEGIN
    DELETE FROM companies WHERE room_id = NEW.room_id;
    INSERT INTO companies VALUES (NEW.room_id, randomblob(12));
END;
CREATE TRIGGER words_went AFTER DELETE ON words BEGIN
    DELETE FROM companies WHERE room_id = OLD.room_id;
    INSERT INTO companies VALUES (OLD.room_id, randomblob(12));
END;
