-- The ledger of customers' money. Double entry: every transfer has one debit, one credit and one amount, so an
-- unbalanced journal cannot be written. Ledger 1 is USD in nano-USD (1e-9 USD), ledger 2 is TAO in rao (1e-9 TAO).
-- The balance of an account is credits − debits; what we own (addresses, clearing) is therefore negative.

CREATE SCHEMA ledger;

-- The chart of accounts.
CREATE TABLE ledger.chart (
  ledger smallint NOT NULL CHECK (ledger IN (1, 2)),
  code smallint NOT NULL,
  name text NOT NULL,
  guarded boolean NOT NULL DEFAULT false, -- debits and holds must not exceed credits
  PRIMARY KEY (ledger, code)
);
INSERT INTO ledger.chart (ledger, code, name, guarded) VALUES
  (1, 10, 'customer credit', true),
  (1, 20, 'miner accrued', false),
  (1, 30, 'protocol revenue', false),
  (1, 40, 'FX clearing', false),
  (2, 40, 'FX clearing', false),
  (2, 51, 'deposit addresses', false),
  (2, 70, 'suspense', false);

CREATE TABLE ledger.acct (
  id bigint GENERATED ALWAYS AS IDENTITY (START WITH 1000) PRIMARY KEY,
  ledger smallint NOT NULL,
  code smallint NOT NULL,
  owner text NOT NULL DEFAULT '', -- account id for 10, hotkey for 20
  credits bigint NOT NULL DEFAULT 0 CHECK (credits >= 0),
  debits bigint NOT NULL DEFAULT 0 CHECK (debits >= 0),
  refunded bigint NOT NULL DEFAULT 0 CHECK (refunded BETWEEN 0 AND credits), -- the part of credits that gave charges back
  held bigint NOT NULL DEFAULT 0 CHECK (held >= 0),                          -- sum of the open holds
  guarded boolean NOT NULL,
  UNIQUE (ledger, code, owner),
  FOREIGN KEY (ledger, code) REFERENCES ledger.chart,
  CONSTRAINT acct_covers_held CHECK (NOT guarded OR credits - debits >= held)
) WITH (fillfactor = 50); -- room for updates on the same page: these rows change with every batch

-- Accounts that belong to nobody have ids of their own, which every batch would look up otherwise.
CREATE FUNCTION ledger.system_acct(in_ledger int, in_code int) RETURNS bigint LANGUAGE sql IMMUTABLE AS
  $$ SELECT (in_ledger * 100 + in_code)::bigint $$;
INSERT INTO ledger.acct (id, ledger, code, guarded) OVERRIDING SYSTEM VALUE
  SELECT ledger.system_acct(ledger, code), ledger, code, guarded FROM ledger.chart
  WHERE (ledger, code) NOT IN ((1, 10), (1, 20));

-- Only the functions below write journals, transfers, holds and ended requests. They find the accounts under the lock
-- of take_turn, and nobody deletes an account, so these tables have no foreign keys: checking them row by row cost more
-- than writing the rows. The audit finds what they would have refused.

-- One row per event.
CREATE TABLE ledger.journal (
  id uuid PRIMARY KEY, -- names the cause, so an event applies once: the request that is settled, or a hash of `cause`
  kind text NOT NULL CHECK (kind IN ('settle', 'refund', 'deposit', 'credit')),
  cause text CHECK ((kind = 'settle') = (cause IS NULL)),
  epoch int,
  at timestamptz NOT NULL DEFAULT now(),
  meta jsonb
);

CREATE TABLE ledger.transfer (
  journal uuid NOT NULL,
  seq smallint NOT NULL,
  ledger smallint NOT NULL,
  debit bigint NOT NULL,
  credit bigint NOT NULL,
  amount bigint NOT NULL CHECK (amount > 0),
  CHECK (debit <> credit),
  PRIMARY KEY (journal, seq)
);

CREATE FUNCTION ledger.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION '% is append-only; correct it with a new journal', TG_TABLE_NAME;
END $$;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger.journal
  FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger.transfer
  FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change();

CREATE TABLE ledger.account (
  id text PRIMARY KEY,
  index int NOT NULL GENERATED ALWAYS AS IDENTITY UNIQUE, -- names its deposit address
  name text NOT NULL,
  created_ms bigint NOT NULL,
  is_watched boolean NOT NULL DEFAULT false -- its deposit address is in deposit_address
);
CREATE INDEX account_unwatched ON ledger.account (index) WHERE NOT is_watched;

CREATE TABLE ledger.api_key (
  id text PRIMARY KEY, -- hex SHA-256 of the key; the key itself is not stored
  account text NOT NULL REFERENCES ledger.account,
  label text NOT NULL,
  is_management boolean NOT NULL,
  is_disabled boolean NOT NULL DEFAULT false,
  expires_ms bigint, -- NULL: never
  created_ms bigint NOT NULL,
  updated_ms bigint
);
CREATE INDEX api_key_account ON ledger.api_key (account, created_ms);

-- What a key may spend of its account's credit. Keys without a limit have no row.
CREATE TABLE ledger.key_budget (
  api_key text PRIMARY KEY REFERENCES ledger.api_key,
  amount bigint NOT NULL CHECK (amount >= 0), -- nano-USD, in each period
  reset text CHECK (reset IN ('daily', 'weekly', 'monthly')), -- NULL: one period for ever
  period_ms bigint NOT NULL, -- start of the period that `spent` is of
  spent bigint NOT NULL DEFAULT 0, -- charges less refunds of the requests that ended in the period
  held bigint NOT NULL DEFAULT 0 CHECK (held >= 0) -- sum of the key's open holds
) WITH (fillfactor = 50);

-- Requests that have not ended. A request that ends moves to `ended`: its details are written once, and what looks for
-- open holds reads a small table. Ending it with an update would write each of its index entries a second time.
CREATE TABLE ledger.hold (
  id uuid PRIMARY KEY,
  acct bigint NOT NULL,
  amount bigint NOT NULL CHECK (amount > 0),
  streamed boolean NOT NULL,
  created_ms bigint NOT NULL,
  expires_ms bigint NOT NULL,
  fingerprint text NOT NULL, -- of the request: the same id for another request is a conflict
  gateway text NOT NULL,
  account text NOT NULL,
  api_key text NOT NULL,
  model text NOT NULL,
  surface text NOT NULL
);

-- Requests that have ended, and what GET /generation tells about them.
CREATE TABLE ledger.ended (
  id uuid PRIMARY KEY,
  acct bigint NOT NULL,
  amount bigint NOT NULL CHECK (amount > 0), -- of the hold
  state smallint NOT NULL CHECK (state BETWEEN 1 AND 3), -- 1 settled, 2 released, 3 expired
  charged bigint CHECK (charged BETWEEN 0 AND amount),
  miner_amount bigint CHECK (miner_amount BETWEEN 0 AND charged),
  refunded bigint NOT NULL DEFAULT 0 CHECK (refunded BETWEEN 0 AND COALESCE(charged, 0)),
  miner_acct bigint,
  leaf bigint, -- index of its leaf in the gateway's log
  streamed boolean NOT NULL,
  created_ms bigint NOT NULL,
  ended_ms bigint NOT NULL,
  ended_by uuid, -- the call that ended it: tells a replay of that call from another one
  gateway text NOT NULL,
  account text NOT NULL,
  api_key text NOT NULL,
  model text NOT NULL,
  surface text NOT NULL,
  reason text,
  upstream_id text,
  outcome text, -- JSON; as text, since nothing here looks into it and jsonb takes twice as long to write
  CHECK ((state = 1) = (charged IS NOT NULL))
);
CREATE INDEX ended_api_key ON ledger.ended (api_key, created_ms); -- what a key has used
CREATE INDEX ended_upstream ON ledger.ended (upstream_id) WHERE upstream_id IS NOT NULL;

-- Leaves of the usage log, in order, as committed with the money they belong to. The log's files are written from here.
CREATE TABLE ledger.log_head (
  gateway text PRIMARY KEY,
  size bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);

CREATE TABLE ledger.log_leaf (
  gateway text NOT NULL, -- in log_head; no foreign key, since its check per leaf costs more than the insert
  index bigint NOT NULL,
  epoch int NOT NULL,
  leaf text NOT NULL,
  PRIMARY KEY (gateway, index)
) WITH (toast_tuple_target = 8160); -- in the row as it is: signatures do not compress, and a row apart costs another index
ALTER TABLE ledger.log_leaf ALTER leaf SET STORAGE EXTERNAL;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger.log_leaf
  FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change();

-- Leaves that moved no money have no hold that would stop a second copy.
CREATE TABLE ledger.log_note (
  gateway text NOT NULL,
  hash bytea NOT NULL, -- SHA-256 of the leaf
  PRIMARY KEY (gateway, hash)
);

CREATE TABLE ledger.log_epoch (
  gateway text NOT NULL REFERENCES ledger.log_head,
  epoch int NOT NULL,
  size bigint NOT NULL, -- leaves up to and including this epoch
  root text NOT NULL,
  sums text NOT NULL,
  closed_at timestamptz NOT NULL DEFAULT now(),
  published text, -- hash of the block that carries the root
  PRIMARY KEY (gateway, epoch)
);

CREATE TABLE ledger.deposit_address (
  address text PRIMARY KEY,
  account text NOT NULL REFERENCES ledger.account
);
CREATE INDEX deposit_address_account ON ledger.deposit_address (account);

-- One row per chain transfer to a deposit address.
CREATE TABLE ledger.deposit (
  id text PRIMARY KEY, -- <genesis8>:<block hash>:<event index>
  account text NOT NULL REFERENCES ledger.account,
  state text NOT NULL CHECK (state IN ('finalized', 'credited', 'below_minimum')),
  block_number bigint NOT NULL,
  block_hash text NOT NULL,
  event_index int NOT NULL,
  block_ms bigint NOT NULL,
  sender text NOT NULL,
  address text NOT NULL,
  amount_rao bigint NOT NULL CHECK (amount_rao > 0),
  rate bigint CHECK (rate > 0), -- nano-USD per TAO
  amount_nusd bigint CHECK (amount_nusd > 0),
  credited_at timestamptz,
  CHECK ((state = 'credited') = (rate IS NOT NULL AND amount_nusd IS NOT NULL AND credited_at IS NOT NULL))
);
CREATE INDEX deposit_account ON ledger.deposit (account, block_number);
CREATE INDEX deposit_pending ON ledger.deposit (block_number) WHERE state = 'finalized';

-- Last finalized block whose transfers are booked.
CREATE TABLE ledger.chain_cursor (
  genesis text PRIMARY KEY,
  number bigint NOT NULL,
  hash text NOT NULL
);

-- Every request, open (state 0) or ended.
CREATE VIEW ledger.request AS
  SELECT id, acct, amount, 0::smallint AS state, NULL::bigint AS charged, NULL::bigint AS miner_amount,
         0::bigint AS refunded, NULL::bigint AS leaf, streamed, created_ms, NULL::bigint AS ended_ms, gateway, account,
         api_key, model, surface, NULL::text AS reason, NULL::text AS upstream_id, NULL::text AS outcome
    FROM ledger.hold
  UNION ALL
  SELECT id, acct, amount, state, charged, miner_amount, refunded, leaf, streamed, created_ms, ended_ms, gateway, account,
         api_key, model, surface, reason, upstream_id, outcome
    FROM ledger.ended;

CREATE FUNCTION ledger.now_ms() RETURNS bigint LANGUAGE sql STABLE AS
  $$ SELECT (extract(epoch FROM now()) * 1000)::bigint $$;

-- Start of the UTC day, week (from Monday) or month of a time; 0 for what is never reset.
CREATE FUNCTION ledger.period_start(in_reset text, in_ms bigint) RETURNS bigint LANGUAGE sql IMMUTABLE AS $$
  SELECT CASE WHEN in_reset IS NULL THEN 0 ELSE (extract(epoch FROM date_trunc(
    CASE in_reset WHEN 'daily' THEN 'day' WHEN 'weekly' THEN 'week' ELSE 'month' END,
    to_timestamp(in_ms / 1000) AT TIME ZONE 'UTC')) * 1000)::bigint END
$$;

-- Account of a customer (10) or a miner (20); NULL when there is none.
CREATE FUNCTION ledger.acct_of(in_code int, in_owner text) RETURNS bigint LANGUAGE sql STABLE AS
  $$ SELECT id FROM ledger.acct WHERE ledger = 1 AND code = in_code AND owner = in_owner $$;

-- Every function takes this lock first and keeps it until the commit, so one at a time changes the books and there is
-- no deadlock. Batches exclude each other anyway, since all of them change the revenue account; and one lock costs less
-- than one on each account. The number means nothing.
CREATE FUNCTION ledger.take_turn() RETURNS void LANGUAGE sql AS $$ SELECT pg_advisory_xact_lock(7210460812739) $$;

-- Id of the journal of an event that is not a settlement.
CREATE FUNCTION ledger.journal_id(in_cause text) RETURNS uuid LANGUAGE sql IMMUTABLE AS
  $$ SELECT substr(encode(sha256(convert_to(in_cause, 'UTF8')), 'hex'), 1, 32)::uuid $$;

-- Posts one journal; transfers as parallel arrays. Returns false when the cause is already posted.
CREATE FUNCTION ledger.post(
  in_cause text, in_kind text, in_epoch int, in_meta jsonb,
  in_ledgers smallint[], in_debits bigint[], in_credits bigint[], in_amounts bigint[], is_refund boolean DEFAULT false
) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
  PERFORM ledger.take_turn();
  INSERT INTO ledger.journal (id, kind, cause, epoch, meta)
    VALUES (ledger.journal_id(in_cause), in_kind, in_cause, in_epoch, in_meta) ON CONFLICT DO NOTHING;
  IF NOT FOUND THEN RETURN false; END IF;
  IF EXISTS (
    SELECT FROM unnest(in_ledgers || in_ledgers, in_debits || in_credits) AS u (ledger, id)
      LEFT JOIN ledger.acct a ON a.id = u.id AND a.ledger = u.ledger WHERE a.id IS NULL
  ) THEN RAISE EXCEPTION 'a transfer leaves its ledger' USING ERRCODE = 'foreign_key_violation'; END IF;
  INSERT INTO ledger.transfer (journal, seq, ledger, debit, credit, amount)
    SELECT ledger.journal_id(in_cause), u.n, u.ledger, u.debit, u.credit, u.amount
    FROM unnest(in_ledgers, in_debits, in_credits, in_amounts) WITH ORDINALITY AS u (ledger, debit, credit, amount, n)
    WHERE u.amount > 0;
  UPDATE ledger.acct a SET
      credits = a.credits + c.credits,
      debits = a.debits + c.debits,
      refunded = a.refunded + CASE WHEN is_refund AND a.code = 10 THEN c.credits ELSE 0 END
    FROM (
      SELECT x.id, sum(x.credit)::bigint AS credits, sum(x.debit)::bigint AS debits
      FROM (
        SELECT u.id, u.amount AS credit, 0 AS debit FROM unnest(in_credits, in_amounts) AS u (id, amount)
        UNION ALL SELECT u.id, 0, u.amount FROM unnest(in_debits, in_amounts) AS u (id, amount)
      ) x GROUP BY x.id
    ) c
    WHERE a.id = c.id;
  RETURN true;
END $$;

-- Everything that one group commit does: ends first, so that what they free can be held again.
-- An id occurs at most once in a call. Never fails because of a single order; each gets a letter, in order:
--   settled, released: s ended by this order (also when repeated), a ended otherwise or unknown
--   held: o held (also when repeated), i insufficient credit, l over the key's limit, c conflict with another request,
--     u unknown account
--   available: nano-USD that were free on the account for each i, and within the key's limit for each l
-- Accounts and miners are given once each; the orders have their positions.
CREATE FUNCTION ledger.apply_batch(
  in_gateway text, accounts text[], miners text[],
  settle_ids uuid[], settle_calls uuid[], settle_charges bigint[], settle_miner_amounts bigint[], settle_miners int[],
  settle_epochs int[], settle_leaves text[], settle_upstream_ids text[], settle_outcomes text[],
  release_ids uuid[], release_calls uuid[], release_reasons text[], release_outcomes text[],
  note_leaves text[], note_epochs int[],
  hold_ids uuid[], hold_accounts int[], hold_amounts bigint[], hold_fingerprints text[], hold_expires bigint[],
  hold_keys text[], hold_models text[], hold_surfaces text[], hold_streamed boolean[], hold_created bigint[],
  OUT settled text, OUT released text, OUT held text, OUT available bigint[]
) LANGUAGE plpgsql
-- Plans are made and cached while the tables are empty, and stay until the next ANALYZE. So nothing here leaves the
-- planner a choice that would scan a table: rows are found by nested loops over indexes.
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
  -- Arrays in variables are read in constant time, and cost nothing per statement as unnest does.
  settles int := cardinality(settle_ids);
  releases int := cardinality(release_ids);
  holds int := cardinality(hold_ids);
  at_ms bigint := ledger.now_ms();
  customer_accts bigint[];
  miner_accts bigint[];
  is_easy boolean;
  verdicts text[];
  order_ record;
  last_acct bigint;
  free bigint;
  budget_keys text[];
  budget_free bigint[];
  budget int;
  done int;
BEGIN
  settled := ''; released := ''; held := ''; available := '{}';
  PERFORM ledger.take_turn();

  IF settles > 0 THEN
    miner_accts := ARRAY(SELECT ledger.acct_of(20, miners[i]) FROM generate_series(1, cardinality(miners)) i);
    IF array_position(miner_accts, NULL) IS NOT NULL THEN
      INSERT INTO ledger.acct (ledger, code, owner, guarded)
        SELECT 1, 20, m, false FROM unnest(miners) m WHERE ledger.acct_of(20, m) IS NULL;
      miner_accts := ARRAY(SELECT ledger.acct_of(20, miners[i]) FROM generate_series(1, cardinality(miners)) i);
    END IF;
    WITH closed AS (
      DELETE FROM ledger.hold h USING generate_series(1, settles) i WHERE h.id = settle_ids[i]
        RETURNING h.*, i, LEAST(settle_charges[i], h.amount) AS charged,
                  LEAST(settle_miner_amounts[i], settle_charges[i], h.amount) AS miner_amount,
                  miner_accts[settle_miners[i]] AS miner_acct
    ), entries AS (
      SELECT *, (SELECT size - 1 FROM ledger.log_head g WHERE g.gateway = in_gateway) + row_number() OVER (ORDER BY i) AS leaf
      FROM closed
    ), recorded AS (
      INSERT INTO ledger.ended (id, acct, amount, state, charged, miner_amount, miner_acct, leaf, streamed, created_ms,
                                ended_ms, ended_by, gateway, account, api_key, model, surface, upstream_id, outcome)
        SELECT id, acct, amount, 1, charged, miner_amount, miner_acct, leaf, streamed, created_ms, at_ms, settle_calls[i],
               in_gateway, account, api_key, model, surface, NULLIF(settle_upstream_ids[i], ''), settle_outcomes[i]
        FROM entries
    ), journalled AS (
      INSERT INTO ledger.journal (id, kind, epoch) SELECT id, 'settle', settle_epochs[i] FROM entries
    ), moved AS (
      INSERT INTO ledger.transfer (journal, seq, ledger, debit, credit, amount)
        SELECT e.id, t.seq, 1, e.acct, t.credit, t.amount
        FROM entries e, LATERAL (VALUES (1, e.miner_acct, e.miner_amount),
                                        (2, ledger.system_acct(1, 30), e.charged - e.miner_amount)) t (seq, credit, amount)
        WHERE t.amount > 0
    ), appended AS (
      INSERT INTO ledger.log_leaf (gateway, index, epoch, leaf)
        SELECT in_gateway, leaf, settle_epochs[i], settle_leaves[i] FROM entries
    ), counted AS (
      UPDATE ledger.log_head SET size = size + (SELECT count(*) FROM closed) WHERE gateway = in_gateway
    ), budgeted AS (
      -- A batch that waited for its turn may be of the period before, and its charges then are too.
      UPDATE ledger.key_budget b SET held = b.held - c.held,
          period_ms = GREATEST(b.period_ms, ledger.period_start(b.reset, at_ms)),
          spent = CASE WHEN b.period_ms < ledger.period_start(b.reset, at_ms) THEN c.charged
                       WHEN b.period_ms <= at_ms THEN b.spent + c.charged ELSE b.spent END
        FROM (SELECT api_key, sum(amount)::bigint AS held, sum(charged)::bigint AS charged FROM closed GROUP BY api_key) c
        WHERE b.api_key = c.api_key
    ), applied AS (
      UPDATE ledger.acct a SET credits = a.credits + c.credits, debits = a.debits + c.debits, held = a.held - c.held
        FROM (
          SELECT t.id, sum(t.credit)::bigint AS credits, sum(t.debit)::bigint AS debits, sum(t.held)::bigint AS held
          FROM closed e, LATERAL (VALUES (e.acct, 0, e.charged, e.amount), (e.miner_acct, e.miner_amount, 0, 0),
            (ledger.system_acct(1, 30), e.charged - e.miner_amount, 0, 0)) t (id, credit, debit, held)
          GROUP BY t.id
        ) c WHERE a.id = c.id
    )
    SELECT count(*) INTO done FROM closed;
    IF done = settles THEN
      settled := repeat('s', settles);
    ELSE
      settled := (
        SELECT string_agg(CASE WHEN e.ended_by = settle_calls[i] THEN 's' ELSE 'a' END, '' ORDER BY i)
        FROM generate_series(1, settles) i LEFT JOIN ledger.ended e ON e.id = settle_ids[i]);
    END IF;
  END IF;

  IF releases > 0 THEN
    WITH closed AS (
      DELETE FROM ledger.hold h USING generate_series(1, releases) i WHERE h.id = release_ids[i] RETURNING h.*, i
    ), recorded AS (
      INSERT INTO ledger.ended (id, acct, amount, state, streamed, created_ms, ended_ms, ended_by, gateway, account,
                                api_key, model, surface, reason, outcome)
        SELECT id, acct, amount, 2, streamed, created_ms, at_ms, release_calls[i], gateway, account,
               api_key, model, surface, release_reasons[i], release_outcomes[i]
        FROM closed
    ), budgeted AS (
      UPDATE ledger.key_budget b SET held = b.held - c.held
        FROM (SELECT api_key, sum(amount)::bigint AS held FROM closed GROUP BY api_key) c WHERE b.api_key = c.api_key
    )
    UPDATE ledger.acct a SET held = a.held - f.amount
      FROM (SELECT acct, sum(amount)::bigint AS amount FROM closed GROUP BY acct) f WHERE a.id = f.acct;
    released := (
      SELECT string_agg(CASE WHEN e.ended_by = release_calls[i] THEN 's' ELSE 'a' END, '' ORDER BY i)
      FROM generate_series(1, releases) i LEFT JOIN ledger.ended e ON e.id = release_ids[i]);
  END IF;

  IF cardinality(note_leaves) > 0 THEN
    WITH noted AS (
      INSERT INTO ledger.log_note (gateway, hash)
        SELECT in_gateway, sha256(convert_to(leaf, 'UTF8')) FROM unnest(note_leaves) leaf
        ON CONFLICT DO NOTHING
        RETURNING hash
    ), leaves AS (
      SELECT min(u.n) AS n, min(u.epoch) AS epoch, u.leaf
        FROM unnest(note_leaves, note_epochs) WITH ORDINALITY AS u (leaf, epoch, n)
        WHERE sha256(convert_to(u.leaf, 'UTF8')) IN (SELECT hash FROM noted)
        GROUP BY u.leaf
    ), appended AS (
      INSERT INTO ledger.log_leaf (gateway, index, epoch, leaf)
        SELECT in_gateway, (SELECT size - 1 FROM ledger.log_head g WHERE g.gateway = in_gateway) + row_number() OVER (ORDER BY n),
               epoch, leaf
        FROM leaves
        RETURNING 1
    )
    UPDATE ledger.log_head SET size = size + (SELECT count(*) FROM appended) WHERE gateway = in_gateway;
  END IF;

  IF holds > 0 THEN
    -- All of an account's holds fit, and none was seen before: the usual case, decided in one pass.
    SELECT array_agg(a.id ORDER BY x.account), bool_and(COALESCE(a.credits - a.debits - a.held >= x.amount, false) AND x.seen = 0)
      INTO customer_accts, is_easy
      FROM (
        SELECT hold_accounts[i] AS account, sum(hold_amounts[i]) AS amount,
               count(COALESCE((SELECT h.id FROM ledger.hold h WHERE h.id = hold_ids[i]),
                              (SELECT e.id FROM ledger.ended e WHERE e.id = hold_ids[i]))) AS seen
        FROM generate_series(1, holds) i GROUP BY 1
      ) x LEFT JOIN ledger.acct a ON a.ledger = 1 AND a.code = 10 AND a.owner = accounts[x.account];
    SELECT array_agg(b.api_key),
           array_agg(b.amount - b.held - CASE WHEN b.period_ms < ledger.period_start(b.reset, at_ms) THEN 0 ELSE b.spent END)
      INTO budget_keys, budget_free FROM ledger.key_budget b WHERE b.api_key = ANY (hold_keys);
    IF is_easy AND budget_keys IS NULL THEN
      verdicts := array_fill('o'::text, ARRAY[holds]);
    ELSE
      available := array_fill(NULL::bigint, ARRAY[holds]);
      -- One by one in order: a hold that does not fit takes nothing away from the next.
      FOR order_ IN
        SELECT i AS n, hold_amounts[i] AS amount, a.id AS acct, a.credits - a.debits - a.held AS free,
               h.id IS NOT NULL OR EXISTS (SELECT FROM ledger.ended e WHERE e.id = hold_ids[i]) AS is_known,
               h.acct = a.id AND h.amount = hold_amounts[i] AND h.fingerprint = hold_fingerprints[i] AS is_same
        FROM generate_series(1, holds) i
        LEFT JOIN ledger.acct a ON a.id = customer_accts[hold_accounts[i]]
        LEFT JOIN ledger.hold h ON h.id = hold_ids[i]
        ORDER BY a.id, i
      LOOP
        IF last_acct IS DISTINCT FROM order_.acct THEN last_acct := order_.acct; free := order_.free; END IF;
        verdicts[order_.n] := CASE
          WHEN order_.acct IS NULL THEN 'u'
          WHEN order_.is_known THEN CASE WHEN order_.is_same THEN 'r' ELSE 'c' END
          WHEN order_.amount <= free THEN 'o'
          ELSE 'i' END;
        available[order_.n] := free;
        IF verdicts[order_.n] = 'o' THEN
          budget := array_position(budget_keys, hold_keys[order_.n]);
          IF order_.amount > budget_free[budget] THEN
            verdicts[order_.n] := 'l';
            available[order_.n] := GREATEST(budget_free[budget], 0);
          ELSE
            free := free - order_.amount;
            IF budget IS NOT NULL THEN budget_free[budget] := budget_free[budget] - order_.amount; END IF;
          END IF;
        END IF;
      END LOOP;
    END IF;
    WITH opened AS (
      INSERT INTO ledger.hold (id, acct, amount, streamed, created_ms, expires_ms, fingerprint, gateway, account, api_key, model, surface)
        SELECT hold_ids[i], customer_accts[hold_accounts[i]], hold_amounts[i], hold_streamed[i], hold_created[i], hold_expires[i],
               hold_fingerprints[i], in_gateway, accounts[hold_accounts[i]], hold_keys[i], hold_models[i], hold_surfaces[i]
        FROM generate_series(1, holds) i WHERE verdicts[i] = 'o'
        RETURNING acct, amount, api_key
    ), budgeted AS (
      UPDATE ledger.key_budget b SET held = b.held + o.amount
        FROM (SELECT api_key, sum(amount)::bigint AS amount FROM opened GROUP BY api_key) o WHERE b.api_key = o.api_key
    )
    UPDATE ledger.acct a SET held = a.held + o.amount
      FROM (SELECT acct, sum(amount)::bigint AS amount FROM opened GROUP BY acct) o WHERE a.id = o.acct;
    held := replace(array_to_string(verdicts, ''), 'r', 'o');
  END IF;
END $$;

-- Frees holds that are past their time, whichever gateway made them. Returns how many.
CREATE FUNCTION ledger.expire(in_now_ms bigint, in_limit int) RETURNS int LANGUAGE plpgsql AS $$
DECLARE
  expired int;
BEGIN
  PERFORM ledger.take_turn();
  WITH closed AS (
    DELETE FROM ledger.hold
      WHERE id IN (SELECT id FROM ledger.hold WHERE expires_ms < in_now_ms ORDER BY expires_ms LIMIT in_limit)
      RETURNING *
  ), recorded AS (
    INSERT INTO ledger.ended (id, acct, amount, state, streamed, created_ms, ended_ms, gateway, account, api_key, model, surface)
      SELECT id, acct, amount, 3, streamed, created_ms, ledger.now_ms(), gateway, account, api_key, model, surface FROM closed
  ), budgeted AS (
    UPDATE ledger.key_budget b SET held = b.held - c.held
      FROM (SELECT api_key, sum(amount)::bigint AS held FROM closed GROUP BY api_key) c WHERE b.api_key = c.api_key
  ), freed AS (
    UPDATE ledger.acct a SET held = a.held - c.amount
      FROM (SELECT acct, sum(amount)::bigint AS amount FROM closed GROUP BY acct) c WHERE a.id = c.acct
  )
  SELECT count(*) INTO expired FROM closed;
  RETURN expired;
END $$;

-- Gives back part of a settled charge: first what the protocol kept of it, then what the miner got.
-- Returns applied | repeated | conflict (same number, other amount) | not_settled | exceeds_charge.
CREATE FUNCTION ledger.refund(in_request uuid, in_number int, in_amount bigint) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  e ledger.ended;
  cause text := format('refund:%s:%s', in_request, in_number);
  posted bigint;
  from_protocol bigint;
BEGIN
  PERFORM ledger.take_turn();
  SELECT * INTO e FROM ledger.ended WHERE id = in_request;
  IF NOT FOUND OR e.state <> 1 THEN RETURN 'not_settled'; END IF;
  SELECT sum(amount) INTO posted FROM ledger.transfer WHERE journal = ledger.journal_id(cause);
  IF posted IS NOT NULL THEN RETURN CASE WHEN posted = in_amount THEN 'repeated' ELSE 'conflict' END; END IF;
  IF e.refunded + in_amount > e.charged THEN RETURN 'exceeds_charge'; END IF;
  from_protocol := LEAST(in_amount, GREATEST(e.charged - e.miner_amount - e.refunded, 0));
  PERFORM ledger.post(cause, 'refund', NULL, NULL, ARRAY[1, 1]::smallint[],
                      ARRAY[ledger.system_acct(1, 30), e.miner_acct], ARRAY[e.acct, e.acct],
                      ARRAY[from_protocol, in_amount - from_protocol], true);
  UPDATE ledger.ended SET refunded = refunded + in_amount WHERE id = in_request;
  UPDATE ledger.key_budget SET spent = spent - in_amount WHERE api_key = e.api_key AND period_ms <= e.ended_ms;
  RETURN 'applied';
END $$;

-- Limits a key's spending, or changes its limit; what it has spent and holds counts. NULL removes the limit.
CREATE FUNCTION ledger.limit_key(in_key text, in_amount bigint, in_reset text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  start_ms bigint := ledger.period_start(in_reset, ledger.now_ms());
BEGIN
  PERFORM ledger.take_turn();
  IF in_amount IS NULL THEN
    DELETE FROM ledger.key_budget WHERE api_key = in_key;
    RETURN;
  END IF;
  INSERT INTO ledger.key_budget (api_key, amount, reset, period_ms, spent, held)
    SELECT in_key, in_amount, in_reset, start_ms,
      (SELECT COALESCE(sum(charged - refunded), 0) FROM ledger.ended
        WHERE api_key = in_key AND state = 1 AND ended_ms >= start_ms),
      (SELECT COALESCE(sum(amount), 0) FROM ledger.hold WHERE api_key = in_key)
    ON CONFLICT (api_key) DO UPDATE SET amount = excluded.amount, reset = excluded.reset,
      period_ms = excluded.period_ms, spent = excluded.spent;
END $$;

-- Every value must be 0.
CREATE VIEW ledger.audit AS
  WITH moved AS (
    SELECT id, sum(credit) AS credits, sum(debit) AS debits, sum(refund) AS refunded FROM (
      SELECT t.credit AS id, t.amount AS credit, 0 AS debit,
             CASE WHEN j.kind = 'refund' THEN t.amount ELSE 0 END AS refund
        FROM ledger.transfer t JOIN ledger.journal j ON j.id = t.journal
      UNION ALL SELECT debit, 0, amount, 0 FROM ledger.transfer
    ) x GROUP BY id
  ), open AS (
    SELECT acct, sum(amount) AS amount FROM ledger.hold GROUP BY acct
  ), settles AS (
    SELECT j.id, COALESCE(sum(t.amount), 0) AS amount FROM ledger.journal j LEFT JOIN ledger.transfer t ON t.journal = j.id
    WHERE j.kind = 'settle' GROUP BY j.id
  ), refunds AS (
    SELECT split_part(j.cause, ':', 2)::uuid AS request, sum(t.amount) AS amount
    FROM ledger.transfer t JOIN ledger.journal j ON j.id = t.journal AND j.kind = 'refund' GROUP BY 1
  ), credits AS (
    SELECT j.cause, t.amount FROM ledger.transfer t JOIN ledger.acct a ON a.id = t.credit AND a.code = 10
    JOIN ledger.journal j ON j.id = t.journal AND j.kind = 'credit'
  )
  SELECT 1 AS position, 'USD accounts sum to zero' AS name,
         COALESCE((SELECT sum(credits - debits) FROM ledger.acct WHERE ledger = 1), 0) AS value
  UNION ALL SELECT 2, 'TAO accounts sum to zero', COALESCE((SELECT sum(credits - debits) FROM ledger.acct WHERE ledger = 2), 0)
  UNION ALL SELECT 3, 'customers below what is held', count(*) FROM ledger.acct WHERE guarded AND credits - debits < held
  UNION ALL SELECT 4, 'accounts that differ from their transfers', count(*)
    FROM ledger.acct a LEFT JOIN moved m ON m.id = a.id
    WHERE a.credits <> COALESCE(m.credits, 0) OR a.debits <> COALESCE(m.debits, 0)
       OR (a.code = 10 AND a.refunded <> COALESCE(m.refunded, 0))
  UNION ALL SELECT 5, 'accounts that differ from their open holds', count(*)
    FROM ledger.acct a LEFT JOIN open o ON o.acct = a.id WHERE a.held <> COALESCE(o.amount, 0)
  UNION ALL SELECT 6, 'settled requests that differ from their transfers', count(*)
    FROM ledger.ended e LEFT JOIN settles s ON s.id = e.id WHERE e.state = 1 AND e.charged IS DISTINCT FROM s.amount
  UNION ALL SELECT 7, 'settlements of requests that are not settled', count(*)
    FROM settles s LEFT JOIN ledger.ended e ON e.id = s.id WHERE e.state IS DISTINCT FROM 1
  UNION ALL SELECT 8, 'requests that differ from their refunds', count(*)
    FROM ledger.ended e FULL JOIN refunds r ON r.request = e.id WHERE COALESCE(e.refunded, 0) <> COALESCE(r.amount, 0)
  UNION ALL SELECT 9, 'deposits that differ from their credits', count(*)
    FROM (SELECT * FROM ledger.deposit WHERE state = 'credited') d FULL JOIN credits c ON c.cause = 'credit:' || d.id
    WHERE d.amount_nusd IS DISTINCT FROM c.amount
  UNION ALL SELECT 10, 'rao in suspense without a deposit that waits',
    (SELECT credits - debits FROM ledger.acct WHERE ledger = 2 AND code = 70)
      - COALESCE((SELECT sum(amount_rao) FROM ledger.deposit WHERE state <> 'credited'), 0)
  UNION ALL SELECT 11, 'gaps in the usage log', count(*)
    FROM ledger.log_head g FULL JOIN (
      SELECT gateway, count(*) AS n, max(index) + 1 AS size FROM ledger.log_leaf GROUP BY gateway
    ) l ON l.gateway = g.gateway
    WHERE g.size IS DISTINCT FROM COALESCE(l.n, 0) OR g.size IS DISTINCT FROM COALESCE(l.size, 0)
  UNION ALL SELECT 12, 'transfers without their journal or an account of their ledger', count(*)
    FROM ledger.transfer t LEFT JOIN ledger.journal j ON j.id = t.journal
    LEFT JOIN ledger.acct d ON d.id = t.debit AND d.ledger = t.ledger
    LEFT JOIN ledger.acct c ON c.id = t.credit AND c.ledger = t.ledger
    WHERE j.id IS NULL OR d.id IS NULL OR c.id IS NULL
  UNION ALL SELECT 13, 'requests of an account that is not their customer''s', count(*)
    FROM ledger.request r LEFT JOIN ledger.acct a ON a.id = r.acct AND a.ledger = 1 AND a.code = 10 AND a.owner = r.account
    WHERE a.id IS NULL
  UNION ALL SELECT 14, 'requests that are open and ended', count(*) FROM ledger.hold h JOIN ledger.ended e ON e.id = h.id
  UNION ALL SELECT 15, 'settled requests without a leaf of their own', (
      SELECT count(*) FROM ledger.ended e LEFT JOIN ledger.log_leaf l ON l.gateway = e.gateway AND l.index = e.leaf
      WHERE e.state = 1 AND l.index IS NULL
    ) + (SELECT count(*) - count(DISTINCT (gateway, leaf)) FROM ledger.ended WHERE leaf IS NOT NULL)
  UNION ALL SELECT 16, 'settlements with other parties or shares than their request', count(*)
    FROM ledger.transfer t JOIN ledger.ended e ON e.id = t.journal
    WHERE t.debit <> e.acct OR CASE t.seq
        WHEN 1 THEN t.credit = e.miner_acct AND t.amount = e.miner_amount
        WHEN 2 THEN t.credit = ledger.system_acct(1, 30) AND t.amount = e.charged - e.miner_amount
      END IS NOT TRUE
  UNION ALL SELECT 17, 'limited keys that differ from their requests', count(*)
    FROM ledger.key_budget b
    WHERE b.held <> (SELECT COALESCE(sum(amount), 0) FROM ledger.hold h WHERE h.api_key = b.api_key)
       OR b.spent <> (SELECT COALESCE(sum(charged - refunded), 0) FROM ledger.ended e
                       WHERE e.api_key = b.api_key AND e.state = 1 AND e.ended_ms >= b.period_ms);
