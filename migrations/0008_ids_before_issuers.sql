-- The key of idempotency has its columns of fixed width first. Postgres walks over a text each time it compares
-- what stands behind it, which was a part of what each row cost; and ids of all issuers that are made at the
-- same time now lie together. What is unique is the same.
--
-- Locks: the log, exclusively, while the index is built: some seconds for each million events. Nothing is
-- decided meanwhile.

ALTER TABLE ledger_event
    DROP CONSTRAINT ledger_event_command_key,
    ADD CONSTRAINT ledger_event_command_key UNIQUE (partition, command_id, issuer);
