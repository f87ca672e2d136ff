-- Envelopes of batches are kept as they are, and their digests believed. To compress them, and to compute
-- their digests a second time, took longer than to append the events that they are evidence of, in the
-- transaction that callers wait for. `holdfast verify` compares them.
--
-- Locks: the evidence, exclusively, while its digests' lengths are looked at. What is there stays as it is.

ALTER TABLE ledger_evidence ALTER COLUMN envelope SET STORAGE EXTERNAL;
ALTER TABLE ledger_evidence DROP CONSTRAINT ledger_evidence_digest_check;
ALTER TABLE ledger_evidence ADD CONSTRAINT ledger_evidence_digest_check CHECK (octet_length(digest) = 32);
