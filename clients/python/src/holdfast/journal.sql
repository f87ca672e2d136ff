PRAGMA application_id = 1212501068;  -- 'HEHL'
PRAGMA user_version = 1;
CREATE TABLE hold (
  hold            TEXT PRIMARY KEY,   -- the hold's id
  account         TEXT NOT NULL,
  state           TEXT NOT NULL CHECK (state IN ('reserving','reserved','dispatched','settling','ended')),
  reserve_id      TEXT NOT NULL,      -- the command id of the reserve
  reserve_body    TEXT NOT NULL,      -- its body, to the byte
  observed        TEXT,               -- tokens by dimension as JSON: what is known to have been used
  observed_source TEXT CHECK (observed_source IN ('reported','delivered')),
  settle_verb     TEXT CHECK (settle_verb IN ('capture','release')),
  settle_id       TEXT,               -- its command id
  settle_body     TEXT,               -- its body, to the byte
  ending          TEXT,               -- the outcome as JSON; or 'kept' when the hold was left to expire
  created_ms      INTEGER NOT NULL,   -- Unix milliseconds
  updated_ms      INTEGER NOT NULL
) STRICT;
CREATE INDEX hold_unfinished ON hold (state) WHERE state <> 'ended';
CREATE TABLE sample (                 -- output tokens of earlier calls, for sizing by percentile
  model  TEXT NOT NULL,
  output INTEGER NOT NULL,
  at_ms  INTEGER NOT NULL
) STRICT;
