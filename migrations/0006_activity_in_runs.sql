-- The list of an account's events, in runs of 64 positions a row: a row for each event was a
-- large part of what its projection cost.
--
-- Locks: replaces a table of the projections, exclusively, by what was in it. Takes a second or two for each
-- million events.

CREATE FUNCTION projection_activity_in_runs(schema name) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format($ddl$
        ALTER TABLE %1$I.activity RENAME TO activity_by_event;
        ALTER TABLE %1$I.activity_by_event RENAME CONSTRAINT activity_pkey TO activity_by_event_pkey;
        CREATE TABLE %1$I.activity (
            -- Position p stands in the run (p - 1) / 64, at (p - 1) %% 64 + 1.
            run       bigint   NOT NULL,
            partition smallint NOT NULL,
            -- For each event the one of the same account before it; 0 for its first.
            previous  bigint[] NOT NULL,
            PRIMARY KEY (partition, run)
        -- The last run is changed as it fills, and stays on its page.
        ) WITH (fillfactor = 70);
        INSERT INTO %1$I.activity (partition, run, previous)
            SELECT partition, run, array_agg(coalesce(v.previous, 0) ORDER BY position)
            FROM (SELECT partition, generate_series(1, position) AS position, (generate_series(1, position) - 1) / 64 AS run
                  FROM %1$I.checkpoint WHERE position > 0) p
            LEFT JOIN %1$I.activity_by_event v USING (partition, position)
            GROUP BY partition, run;
        DROP TABLE %1$I.activity_by_event;
        ALTER TABLE %1$I.activity OWNER TO holdfast_projector;
        GRANT SELECT ON %1$I.activity TO holdfast_writer, holdfast_reader;
    $ddl$, schema);
END
$$;
SELECT projection_activity_in_runs('projection');
SELECT projection_activity_in_runs('projection_next');
DROP FUNCTION projection_activity_in_runs(name);
