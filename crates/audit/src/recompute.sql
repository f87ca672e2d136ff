-- Balances from the log in SQL alone: nothing of the ledger's own code is used. Answers the
-- accounts whose projection differs, or that only one side knows.
WITH changes AS (
    SELECT account, kind, amount, convert_from(body, 'UTF8')::jsonb -> 'fact' -> kind AS fact
    FROM ledger_event
    WHERE partition = $1 AND position <= $2
),
recomputed AS (
    SELECT account,
           sum(CASE kind
                   WHEN 'topped_up'       THEN amount
                   WHEN 'refunded'        THEN amount
                   WHEN 'top_up_reversed' THEN -amount
                   WHEN 'deducted'        THEN -amount
                   WHEN 'captured'        THEN -amount
                   WHEN 'captured_late'   THEN -amount
                   WHEN 'hold_expired'    THEN -(fact ->> 'captured')::bigint
                   ELSE 0
               END) AS posted,
           sum(CASE kind
                   WHEN 'reserved'     THEN amount
                   WHEN 'increased'    THEN amount
                   WHEN 'released'     THEN -amount
                   WHEN 'captured'     THEN -(fact ->> 'held')::bigint - (fact ->> 'released')::bigint
                   WHEN 'hold_expired' THEN -(fact ->> 'captured')::bigint - (fact ->> 'released')::bigint
                   ELSE 0
               END) AS held,
           bool_or(kind = 'account_opened') AS opened
    FROM changes
    GROUP BY account
)
SELECT convert_from(coalesce(r.account, a.account), 'UTF8') AS account
FROM (SELECT * FROM recomputed WHERE opened) r
FULL JOIN (SELECT * FROM projection.account WHERE partition = $1) a USING (account)
WHERE r.posted IS DISTINCT FROM a.posted OR r.held IS DISTINCT FROM a.held
ORDER BY 1
LIMIT 10
