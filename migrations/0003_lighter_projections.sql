-- Projections that cost the database less for each event. They are made anew, empty: the projector
-- folds them from the log again, from its first event, before the ledger answers by them.
--
-- * `activity` was found by account: an index entry at a random place for every event. It is a list
--   now: each event names the one before it of the same account, and entries go to the end.
-- * `hold` had three indexes. Its primary key begins with the hold's id now, which serves both ways
--   of finding one; ids of version 7 go to its end.
-- * `account` leaves room in its pages, so that a changed balance needs no new index entry.
--
-- Locks: drops and creates tables of the projections, exclusively. Takes milliseconds.

DROP SCHEMA projection CASCADE;
DROP SCHEMA projection_next CASCADE;

CREATE FUNCTION projection_create(schema name) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('CREATE SCHEMA %I AUTHORIZATION holdfast_projector', schema);
    EXECUTE format($ddl$
        -- How far the tables of this schema have been folded; moves in the same transaction.
        CREATE TABLE %1$I.checkpoint (
            partition smallint PRIMARY KEY,
            position  bigint NOT NULL
        );

        CREATE TABLE %1$I.account (
            overdraft_limit bigint   NOT NULL,
            posted          bigint   NOT NULL,
            held            bigint   NOT NULL,
            opened_position bigint   NOT NULL,
            opened_limit    bigint   NOT NULL,
            last_position   bigint   NOT NULL,
            partition       smallint NOT NULL,
            account         bytea    NOT NULL,
            asset           text     NOT NULL,
            tier            text     NOT NULL,
            status          text     NOT NULL,
            opened_tier     text     NOT NULL,
            PRIMARY KEY (partition, account)
        ) WITH (fillfactor = 70);

        CREATE TABLE %1$I.hold (
            hold           uuid        NOT NULL,
            amount         bigint      NOT NULL,
            captured       bigint      NOT NULL,
            absorbed       bigint      NOT NULL,
            reserved_at    timestamptz NOT NULL,
            expires_at     timestamptz NOT NULL,
            ended_position bigint,
            last_position  bigint      NOT NULL,
            partition      smallint    NOT NULL,
            account        bytea       NOT NULL,
            status         text        NOT NULL,
            policies       text        NOT NULL,
            ended_kind     text,
            job_id         text,
            saga           text,
            PRIMARY KEY (partition, hold, account)
        );
        -- The lane loads an account with its open holds, of which there are few.
        CREATE INDEX hold_open ON %1$I.hold (partition, account) WHERE status = 'open';

        -- The log by account, as a list from its newest event to its first: what a statement reads.
        CREATE TABLE %1$I.activity (
            position  bigint   NOT NULL,
            -- The account's event before this one; 0 for its first.
            previous  bigint   NOT NULL,
            partition smallint NOT NULL,
            PRIMARY KEY (partition, position)
        );

        -- The trial balance. Credits are positive; each asset sums to zero. Numeric, since a sum
        -- of 64-bit amounts may need more.
        CREATE TABLE %1$I.book (
            partition smallint NOT NULL,
            asset     text     NOT NULL,
            book      text     NOT NULL,
            balance   numeric  NOT NULL,
            PRIMARY KEY (partition, asset, book)
        );

        INSERT INTO %1$I.checkpoint VALUES (0, 0);
    $ddl$, schema);
    EXECUTE format('ALTER TABLE %1$I.checkpoint OWNER TO holdfast_projector', schema);
    EXECUTE format('ALTER TABLE %1$I.account OWNER TO holdfast_projector', schema);
    EXECUTE format('ALTER TABLE %1$I.hold OWNER TO holdfast_projector', schema);
    EXECUTE format('ALTER TABLE %1$I.activity OWNER TO holdfast_projector', schema);
    EXECUTE format('ALTER TABLE %1$I.book OWNER TO holdfast_projector', schema);
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO holdfast_writer, holdfast_reader', schema);
    EXECUTE format('GRANT SELECT ON ALL TABLES IN SCHEMA %I TO holdfast_writer, holdfast_reader', schema);
END
$$;

SELECT projection_create('projection');
SELECT projection_create('projection_next');
DROP FUNCTION projection_create(name);
