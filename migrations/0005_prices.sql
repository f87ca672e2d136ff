-- Priced charges: the rates of a hold, what models cost, and published price books.
--
-- Locks: adds a column to the projections' `hold`, exclusively, and an index on it. Takes milliseconds for
-- the column; the index is built over the open holds. No event before this has a price, so the new table
-- is complete while it is empty.

CREATE FUNCTION projection_add_prices(schema name) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format($ddl$
        -- The digest of the rates that the hold was reserved under.
        ALTER TABLE %1$I.hold ADD COLUMN rates bytea;
        -- What it was reserved for, as JSON, so that a capture can be priced by the same rates.
        ALTER TABLE %1$I.hold ADD COLUMN usage text;
        -- The sagas that money is promised to.
        CREATE INDEX hold_saga ON %1$I.hold (partition) WHERE status = 'open' AND saga IS NOT NULL;

        -- What models cost whom on which day. Numeric, since sums may need more than 64 bits.
        CREATE TABLE %1$I.cost (
            partition     smallint NOT NULL,
            day           date     NOT NULL,
            account       bytea    NOT NULL,
            provider      text     NOT NULL,
            model         text     NOT NULL,
            asset         text     NOT NULL,
            charges       bigint   NOT NULL,
            input_tokens  numeric  NOT NULL,
            output_tokens numeric  NOT NULL,
            charged       numeric  NOT NULL,
            absorbed      numeric  NOT NULL,
            PRIMARY KEY (partition, day, account, provider, model, asset)
        );
        ALTER TABLE %1$I.cost OWNER TO holdfast_projector;
        GRANT SELECT ON %1$I.cost TO holdfast_writer, holdfast_reader;
    $ddl$, schema);
END
$$;
SELECT projection_add_prices('projection');
SELECT projection_add_prices('projection_next');
DROP FUNCTION projection_add_prices(name);

-- Price books that were published, as their files. The one published last holds.
CREATE TABLE price_book (
    published integer     GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at        timestamptz NOT NULL DEFAULT now(),
    digest    bytea       NOT NULL,
    book      bytea       NOT NULL
);
ALTER TABLE price_book OWNER TO holdfast_owner;
CREATE TRIGGER price_book_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON price_book
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_append_only();
ALTER TABLE price_book ENABLE ALWAYS TRIGGER price_book_append_only;
GRANT SELECT ON price_book TO holdfast_writer, holdfast_projector, holdfast_reader;
