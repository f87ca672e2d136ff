-- Projections: tables folded from the log by position, each with the checkpoint it stands at.
-- They live in a schema of their own, twice: `projection` is read, `projection_next` is where a
-- rebuild folds the log again before the two change names.
--
-- Locks: creates only. Takes milliseconds.

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
            partition       smallint NOT NULL,
            account         bytea    NOT NULL,
            asset           text     NOT NULL,
            tier            text     NOT NULL,
            status          text     NOT NULL,
            overdraft_limit bigint   NOT NULL,
            posted          bigint   NOT NULL,
            held            bigint   NOT NULL,
            opened_position bigint   NOT NULL,
            opened_tier     text     NOT NULL,
            opened_limit    bigint   NOT NULL,
            last_position   bigint   NOT NULL,
            PRIMARY KEY (partition, account)
        );

        CREATE TABLE %1$I.hold (
            partition      smallint    NOT NULL,
            account        bytea       NOT NULL,
            hold           uuid        NOT NULL,
            status         text        NOT NULL,
            amount         bigint      NOT NULL,
            captured       bigint      NOT NULL,
            absorbed       bigint      NOT NULL,
            policies       text        NOT NULL,
            reserved_at    timestamptz NOT NULL,
            expires_at     timestamptz NOT NULL,
            ended_kind     text,
            ended_position bigint,
            last_position  bigint      NOT NULL,
            job_id         text,
            saga           text,
            PRIMARY KEY (partition, account, hold)
        );
        -- A capture over HTTP may name a hold without its account.
        CREATE INDEX hold_by_id ON %1$I.hold (partition, hold);
        -- The lane loads an account with its open holds, of which there are few.
        CREATE INDEX hold_open ON %1$I.hold (partition, account) WHERE status = 'open';

        -- The log by account: what a statement reads.
        CREATE TABLE %1$I.activity (
            partition smallint NOT NULL,
            account   bytea    NOT NULL,
            position  bigint   NOT NULL,
            PRIMARY KEY (partition, account, position)
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

-- Swaps the two. Renaming a schema needs rights on the whole database, which no role of the
-- running ledger has: this function runs with those of whoever migrated.
CREATE FUNCTION projection_swap() RETURNS void LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog AS $$
BEGIN
    ALTER SCHEMA projection RENAME TO projection_swapping;
    ALTER SCHEMA projection_next RENAME TO projection;
    ALTER SCHEMA projection_swapping RENAME TO projection_next;
END
$$;
REVOKE EXECUTE ON FUNCTION projection_swap() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION projection_swap() TO holdfast_projector;
