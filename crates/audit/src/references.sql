-- Positions where the log and ledger_ref disagree about the outside references that were made.
WITH made AS (
    SELECT position, 'external_ref' AS kind,
           convert_to(convert_from(body, 'UTF8')::jsonb #>> '{fact,topped_up,external_ref}', 'UTF8') AS external_ref,
           NULL::bigint AS origin, NULL::integer AS n, NULL::bigint AS total
    FROM ledger_event
    WHERE partition = $1 AND kind = 'topped_up'
      AND convert_from(body, 'UTF8')::jsonb #> '{fact,topped_up}' ? 'external_ref'
    UNION ALL
    SELECT position, 'refund', NULL, (fact ->> 'of')::bigint, (fact ->> 'n')::integer, (fact ->> 'total')::bigint
    FROM (
        SELECT position, convert_from(body, 'UTF8')::jsonb -> 'fact' -> kind AS fact
        FROM ledger_event
        WHERE partition = $1 AND kind IN ('refunded', 'top_up_reversed')
    ) undoing
),
written AS (
    SELECT position, kind, external_ref, origin, n, total FROM ledger_ref WHERE partition = $1
)
SELECT position FROM (
    (SELECT * FROM made EXCEPT SELECT * FROM written)
    UNION
    (SELECT * FROM written EXCEPT SELECT * FROM made)
) differing
ORDER BY position
LIMIT 10
