-- Rows for each table of the first version. The encrypted columns are filled in by the test.
INSERT INTO inbox (event_id, room_id, received_at, held, body) VALUES
    ('$handled', '!room:localhost', 5, 0, NULL), ('$waiting', '!room:localhost', 6, 0, '{}');
INSERT INTO rooms (room_id, membership, inviter, loaded, version, creators, encryption, power_levels,
                   state_encrypted, elevated, active_at) VALUES
    ('!room:localhost', 'join', '@alice:localhost', 1, '12', '["@alice:localhost"]',
     '{"algorithm":"m.megolm.v1.aes-sha2"}', '{"users":{}}', 1, 1, 9);
INSERT INTO members (room_id, user_id, membership, since, arrived_at, tick) VALUES
    ('!room:localhost', '@alice:localhost', 'join', 1, 2, 3),
    ('!room:localhost', '@bob:localhost', 'invite', 4, 5, 6);
INSERT INTO tuples (room_id, event_type, state_key, source_event_id, source_sender, source_form, source_at,
                    source_tick, echoes, echoes_since, current_event_id, current_sender, current_fit, redacted,
                    sealed_event_id, sealed_from, session_id, message_index, sealed_tick, refreshed_at,
                    device_refresh_at) VALUES
    ('!room:localhost', 'm.room.name', '', '$source', '@alice:localhost', 'plain', 7, 8, 1, 2, '$sealed',
     '@statekeeper:localhost', 1, 0, '$sealed', '$source', 'active', 4, 9, 10, 11);
INSERT INTO state_events (event_id, room_id, event_type, state_key, sender, tick, received_at, session_id,
                          powerful, verdict) VALUES
    ('$source', '!room:localhost', 'm.room.name', '', '@alice:localhost', 8, 7, 'hers', 1, 'fit');
INSERT INTO megolm_indices (room_id, session_id, message_index, sender, event_id) VALUES
    ('!room:localhost', 'hers', 0, '@alice:localhost', '$source');
INSERT INTO sessions (session_id, room_id, event_type, state_key, pickle, created_at, messages, retired) VALUES
    ('active', '!room:localhost', 'm.room.name', '', x'00', 1, 5, NULL),
    ('retired', '!room:localhost', 'm.room.name', '', x'00', 1, 9, 'a member who holds it is gone');
INSERT INTO grants (session_id, user_id, device_id, room_id, message_index, reason, granted_at, sent_at,
                    sent_tick) VALUES
    ('active', '@bob:localhost', 'OLDBOBSPHONE', '!room:localhost', 4, 'invite', 5, 6, 7);
INSERT INTO refusals (room_id, user_id, device_id, code, refused_at) VALUES
    ('!room:localhost', '@carol:localhost', 'OLDCAROLSPHONE', 'm.unverified', 8);
INSERT INTO seals (event_id, room_id, event_type, state_key, stands_for) VALUES
    ('$sealed', '!room:localhost', 'm.room.name', '', '$source');
INSERT INTO prepared (session_id, message_index, stands_for) VALUES ('active', 5, '$source');
INSERT INTO missed (room_id, event_id) VALUES ('!room:localhost', '$missed');
INSERT INTO outbox (room_id, kind, txn_id, event_type, state_key, body, detail, created_at) VALUES
    ('!room:localhost', 'to_device', 'a transaction', 'm.room.encrypted', '', x'7b7d', x'00', 9);
INSERT INTO marks (room_id, user_id, due_at, tick, attempts) VALUES
    ('!room:localhost', '@bob:localhost', 5, 6, 0);
