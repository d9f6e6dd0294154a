-- What the gateways of one database know of each other. They share one signing key, and so one usage log: `log` is its name in
-- the ledger (`gateway` there).

CREATE SCHEMA gateway;

-- Processes that serve. A process that stops saying so for a while is dead, and others end its requests.
CREATE TABLE gateway.run (
  log text NOT NULL,
  tag text NOT NULL, -- in the ids of its requests
  seen_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (log, tag)
);

-- After how many leaves an epoch of the log ends: decided once, before any gateway knows the root.
CREATE TABLE gateway.log_end (
  log text NOT NULL,
  epoch int NOT NULL,
  first bigint NOT NULL, -- where the epoch before it ended
  size bigint NOT NULL CHECK (size >= first),
  catalogue text, -- version of the models' catalogue that its file names; NULL where nobody noted it
  PRIMARY KEY (log, epoch)
);
INSERT INTO gateway.log_end (log, epoch, first, size)
  SELECT gateway, epoch, lag(size, 1, 0::bigint) OVER (PARTITION BY gateway ORDER BY epoch), size FROM ledger.log_epoch;

-- Quotes and evidence that one gateway has verified and the log of all refers to.
CREATE TABLE gateway.side_file (
  log text NOT NULL,
  kind text NOT NULL,
  name text NOT NULL,
  content text NOT NULL,
  PRIMARY KEY (log, kind, name)
);
