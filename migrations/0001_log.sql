-- The log: what happened, once and for ever. Everything else in this database can be rebuilt
-- from these three tables.
--
-- Locks: creates only; nothing that exists is locked. Takes milliseconds.

-- Roles are shared by all databases of a server, so they may exist already.
DO $$
DECLARE wanted text;
BEGIN
    FOREACH wanted IN ARRAY ARRAY['holdfast_owner', 'holdfast_writer', 'holdfast_projector', 'holdfast_reader'] LOOP
        BEGIN
            EXECUTE format('CREATE ROLE %I NOLOGIN', wanted);
        -- Two databases may be set up at the same moment.
        EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
        END;
    END LOOP;
END
$$;

-- Whoever migrates may act as each of them, and `serve` does: it binds every connection to one.
-- (A superuser may already; the grant then only says so.)
GRANT holdfast_owner, holdfast_writer, holdfast_projector, holdfast_reader TO CURRENT_USER;

-- One row an event. Fixed-width columns stand first, so that rows need no padding between them.
-- Text that callers wrote (account, body, envelope) is bytea: no byte of it can make a commit fail.
CREATE TABLE ledger_event (
    position    bigint      NOT NULL,
    epoch       bigint      NOT NULL,
    amount      bigint,
    posted      bigint      NOT NULL,
    held        bigint      NOT NULL,
    lane_time   timestamptz NOT NULL,
    stored_time timestamptz NOT NULL,
    command_id  uuid        NOT NULL,
    hold        uuid,
    partition   smallint    NOT NULL,
    kind        text        COLLATE "C" NOT NULL,
    issuer      text        COLLATE "C" NOT NULL,
    account     bytea       NOT NULL,
    fingerprint bytea       NOT NULL,
    hash        bytea       NOT NULL,
    body        bytea       NOT NULL,
    envelope    bytea       NOT NULL,
    -- Positions are gapless within a partition, so that tailing is `position > last`.
    CONSTRAINT ledger_event_pkey PRIMARY KEY (partition, position),
    -- The memory of idempotency: one event per issuer and command id, for ever. These two are all
    -- the indexes this table has; each more would be paid by every command.
    CONSTRAINT ledger_event_command_key UNIQUE (partition, issuer, command_id),
    CONSTRAINT ledger_event_position_check CHECK (position > 0),
    CONSTRAINT ledger_event_held_check CHECK (held >= 0),
    CONSTRAINT ledger_event_hash_check CHECK (octet_length(hash) = 32 AND octet_length(fingerprint) = 32)
);

-- References that must be unique, written in the same statement as the event by the few commands
-- that make one: an `external_ref` is booked once, and the n-th undoing of a charge happens once.
CREATE TABLE ledger_ref (
    partition    smallint NOT NULL,
    kind         text     COLLATE "C" NOT NULL,
    position     bigint   NOT NULL,
    external_ref bytea,
    origin       bigint,
    n            integer,
    total        bigint,
    CONSTRAINT ledger_ref_pkey PRIMARY KEY (partition, position),
    CONSTRAINT ledger_ref_kind_check CHECK (
        (kind = 'external_ref' AND external_ref IS NOT NULL AND origin IS NULL)
        OR (kind = 'refund' AND external_ref IS NULL AND origin IS NOT NULL AND n > 0 AND total > 0)
    )
);
CREATE UNIQUE INDEX ledger_ref_external_key ON ledger_ref (partition, external_ref) WHERE kind = 'external_ref';
CREATE UNIQUE INDEX ledger_ref_refund_key ON ledger_ref (partition, origin, n) WHERE kind = 'refund';

-- The fence and the place to go on from. A writer that does not hold the current epoch updates no
-- row here, and so inserts none in the log.
CREATE TABLE ledger_head (
    partition      smallint    PRIMARY KEY,
    epoch          bigint      NOT NULL,
    position       bigint      NOT NULL,
    hash           bytea       NOT NULL,
    lane_time      timestamptz NOT NULL,
    -- Where in the command stream: the last sequence applied, the digest of the message there,
    -- and when that stream was created (Unix nanoseconds), to notice another stream of its name.
    applied        bigint      NOT NULL,
    applied_digest bytea       NOT NULL,
    stream_created bigint      NOT NULL
);
INSERT INTO ledger_head VALUES (0, 0, 0, decode(repeat('00', 32), 'hex'), '1970-01-01Z', 0, '', 0);

-- Append-only by trigger too. Per statement, so that inserting pays nothing; TRUNCATE is named
-- because row triggers never see it.
CREATE FUNCTION ledger_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% on % is refused: the log is append-only', TG_OP, TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
END
$$;
CREATE TRIGGER ledger_event_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger_event
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_append_only();
CREATE TRIGGER ledger_ref_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger_ref
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_append_only();
-- ALWAYS: a session in replication mode is refused as well.
ALTER TABLE ledger_event ENABLE ALWAYS TRIGGER ledger_event_append_only;
ALTER TABLE ledger_ref ENABLE ALWAYS TRIGGER ledger_ref_append_only;

-- For people: text as text, bodies as jsonb.
CREATE VIEW ledger_log AS
SELECT partition, position, epoch, kind, convert_from(account, 'UTF8') AS account, hold, amount, posted, held,
       issuer, command_id, lane_time, stored_time, convert_from(body, 'UTF8')::jsonb AS body,
       encode(hash, 'hex') AS hash
FROM ledger_event;

ALTER TABLE ledger_event OWNER TO holdfast_owner;
ALTER TABLE ledger_ref OWNER TO holdfast_owner;
ALTER TABLE ledger_head OWNER TO holdfast_owner;
ALTER VIEW ledger_log OWNER TO holdfast_owner;
ALTER FUNCTION ledger_append_only() OWNER TO holdfast_owner;

-- The lane adds and reads; nobody but the owner can do more.
GRANT SELECT, INSERT ON ledger_event, ledger_ref TO holdfast_writer;
GRANT SELECT, UPDATE ON ledger_head TO holdfast_writer;
GRANT SELECT ON ledger_event, ledger_ref, ledger_head, ledger_log TO holdfast_projector, holdfast_reader;
