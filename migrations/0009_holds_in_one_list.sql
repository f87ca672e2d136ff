-- What the projector writes of a hold, as one value. A list of these is one parameter of a statement: a list
-- for each column was unnested into a store of its own, which was a good part of what a hold cost.
--
-- Locks: creates only; nothing that exists is locked. Takes milliseconds.

CREATE TYPE projected_hold AS (
    hold           uuid,
    account        bytea,
    status         text,
    amount         bigint,
    captured       bigint,
    absorbed       bigint,
    expires_at     timestamptz,
    ended_kind     text,
    ended_position bigint,
    last_position  bigint,
    -- What never changes is given with a new hold alone.
    policies       text,
    reserved_at    timestamptz,
    job_id         text,
    saga           text,
    usage          text,
    rates          bytea
);
ALTER TYPE projected_hold OWNER TO holdfast_owner;
