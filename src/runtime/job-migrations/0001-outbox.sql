-- Work that must happen once, whichever process does it. A row is written in the transaction that causes the work, so there is
-- no work without its cause and no cause without its work.

CREATE SCHEMA jobs;

CREATE TABLE jobs.outbox (
  seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, -- rises in the order in which jobs were written
  queue text NOT NULL,
  id text NOT NULL, -- names the cause, so that it makes one job however often it is told
  payload text NOT NULL, -- JSON
  state text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'done', 'dead')),
  attempts int NOT NULL DEFAULT 0, -- that began
  due_at timestamptz NOT NULL DEFAULT now(), -- when an open job is to be handed to a worker
  leased_until timestamptz, -- until then one process works on it
  error text, -- of the last attempt
  created_at timestamptz NOT NULL DEFAULT now(),
  ended_at timestamptz,
  UNIQUE (queue, id),
  CHECK ((state = 'open') = (ended_at IS NULL))
);
CREATE INDEX outbox_due ON jobs.outbox (due_at) WHERE state = 'open';
CREATE INDEX outbox_dead ON jobs.outbox (queue) WHERE state = 'dead';
CREATE INDEX outbox_done ON jobs.outbox (ended_at) WHERE state = 'done';
