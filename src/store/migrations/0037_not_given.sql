-- What was refused, held or broken is looked for among keys that were given, which are nearly all rows.
CREATE INDEX ledger_not_given ON ledger (outcome) WHERE outcome NOT IN ('granted', 'delivered');
