-- Appending by COPY, and batches.
--
-- Locks: adds a trigger to ledger_event and columns to ledger_head, exclusively. Takes milliseconds. The
-- next take-over reads the log once, where there is one already, for the ids in it.

-- The envelope of a batch stands here once; its events keep its digest in `envelope`.
CREATE TABLE ledger_evidence (
    partition smallint NOT NULL,
    digest    bytea    NOT NULL,
    envelope  bytea    NOT NULL,
    CONSTRAINT ledger_evidence_pkey PRIMARY KEY (partition, digest),
    CONSTRAINT ledger_evidence_digest_check CHECK (digest = sha256(envelope))
);
CREATE TRIGGER ledger_evidence_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger_evidence
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_append_only();
ALTER TABLE ledger_evidence ENABLE ALWAYS TRIGGER ledger_evidence_append_only;
ALTER TABLE ledger_evidence OWNER TO holdfast_owner;
GRANT SELECT, INSERT ON ledger_evidence TO holdfast_writer;
GRANT SELECT ON ledger_evidence TO holdfast_projector, holdfast_reader;

-- The latest time, in Unix milliseconds, that any id of version 7 in the log carries, of commands and
-- of holds. An id that carries a later one was never decided, and need not be looked up.
-- It is true up to `latest_id_position`: a writer of an earlier version moves neither, and whoever takes
-- over after it looks at what it appended.
ALTER TABLE ledger_head ADD COLUMN latest_id_ms bigint NOT NULL DEFAULT 0,
                        ADD COLUMN latest_id_position bigint NOT NULL DEFAULT 0;

-- COPY cannot select from the row of ledger_head that was moved, as the single statement does. So the
-- database checks after every statement that no log reaches beyond its head: whoever appends has moved
-- the head in the same transaction, which only the writer of its epoch can. Once a statement: rows pay
-- nothing. A statement that appended nothing, as a fenced writer's does, passes.
CREATE FUNCTION ledger_head_moved() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (
        SELECT FROM ledger_head h
        WHERE (SELECT max(e.position) FROM ledger_event e WHERE e.partition = h.partition) > h.position
    ) THEN
        RAISE EXCEPTION 'appending to ledger_event is refused: its head was not moved with it'
            USING ERRCODE = 'invalid_transaction_state';
    END IF;
    RETURN NULL;
END
$$;
ALTER FUNCTION ledger_head_moved() OWNER TO holdfast_owner;
CREATE TRIGGER ledger_event_head_moved AFTER INSERT ON ledger_event
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_head_moved();
