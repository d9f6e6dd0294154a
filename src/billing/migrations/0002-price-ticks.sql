-- What TAO was worth, minute by minute, as evidence for the rate of each deposit. The first gateway that writes a minute
-- decides it; nothing changes or removes it.
CREATE TABLE ledger.price_tick (
  minute bigint PRIMARY KEY CHECK (minute >= 0), -- Unix time in minutes
  nusd_per_tao bigint NOT NULL CHECK (nusd_per_tao > 0),
  sources jsonb NOT NULL, -- by name, what each said: {"nusd_per_tao": "…", "used": true}; `manual` when an operator set it
  at timestamptz NOT NULL DEFAULT now()
);
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger.price_tick
  FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change();

-- Rates that were promised for one deposit each.
CREATE TABLE ledger.deposit_quote (
  id text PRIMARY KEY,
  account text NOT NULL REFERENCES ledger.account,
  rate bigint NOT NULL CHECK (rate > 0),           -- nano-USD per TAO
  rao_max bigint NOT NULL CHECK (rao_max > 0),     -- more of a deposit than this gets the rate of its minute
  created_ms bigint NOT NULL,
  expires_ms bigint NOT NULL CHECK (expires_ms > created_ms),
  deposit text UNIQUE REFERENCES ledger.deposit,   -- the one that used it
  used_rao bigint CHECK (used_rao BETWEEN 1 AND rao_max),
  used_nusd bigint CHECK (used_nusd > 0),
  CHECK (num_nulls(deposit, used_rao, used_nusd) IN (0, 3))
);
CREATE INDEX deposit_quote_open ON ledger.deposit_quote (account, created_ms) WHERE deposit IS NULL;

-- Every value must be 0.
CREATE VIEW ledger.quote_audit AS
  SELECT 50 AS position, 'quotes used by a deposit of another account or time, or one without credit' AS name,
         count(*)::numeric AS value
    FROM ledger.deposit_quote q JOIN ledger.deposit d ON d.id = q.deposit
    WHERE d.account IS DISTINCT FROM q.account OR d.block_ms NOT BETWEEN q.created_ms AND q.expires_ms
       OR d.state <> 'credited'
  UNION ALL SELECT 51, 'deposits that differ from their quoted rate', count(*)
    FROM ledger.deposit_quote q JOIN ledger.deposit d ON d.id = q.deposit
    WHERE q.used_rao <> LEAST(d.amount_rao, q.rao_max)
       OR q.used_nusd <> div(q.used_rao::numeric * q.rate, 1000000000)
       OR d.amount_nusd <> q.used_nusd + div((d.amount_rao - q.used_rao)::numeric * d.rate, 1000000000);
