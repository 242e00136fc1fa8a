-- The keys of a room that the keeper left are withdrawn. One that was on its way at that moment may still prove
-- to be delivered, so its row has to be found as quickly as one whose delivery is unknown.
DROP INDEX ledger_unsure;
CREATE INDEX ledger_unsure ON ledger (session_id, user, device) WHERE outcome IN ('granted', 'withdrawn');
