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
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  ledger smallint NOT NULL,
  code smallint NOT NULL,
  owner text NOT NULL DEFAULT '', -- account id for 10, hotkey for 20
  credits bigint NOT NULL DEFAULT 0 CHECK (credits >= 0),
  debits bigint NOT NULL DEFAULT 0 CHECK (debits >= 0),
  refunded bigint NOT NULL DEFAULT 0 CHECK (refunded BETWEEN 0 AND credits), -- the part of credits that gave charges back
  held bigint NOT NULL DEFAULT 0 CHECK (held >= 0),                          -- sum of the open holds
  guarded boolean NOT NULL,
  UNIQUE (ledger, code, owner),
  UNIQUE (id, ledger), -- target of the foreign keys that keep a transfer inside one ledger
  FOREIGN KEY (ledger, code) REFERENCES ledger.chart,
  CHECK (NOT guarded OR credits - debits >= held)
) WITH (fillfactor = 50); -- room for updates on the same page: these rows change with every batch

INSERT INTO ledger.acct (ledger, code, guarded)
  SELECT ledger, code, guarded FROM ledger.chart WHERE (ledger, code) NOT IN ((1, 10), (1, 20));

-- One row per event. The id names the cause, so an event applies once.
CREATE TABLE ledger.journal (
  id text PRIMARY KEY,
  kind text NOT NULL CHECK (kind IN ('settle', 'refund', 'deposit', 'credit')),
  epoch int,
  at timestamptz NOT NULL DEFAULT now(),
  meta jsonb
);

CREATE TABLE ledger.transfer (
  journal text NOT NULL REFERENCES ledger.journal,
  seq smallint NOT NULL,
  ledger smallint NOT NULL,
  debit bigint NOT NULL,
  credit bigint NOT NULL,
  amount bigint NOT NULL CHECK (amount > 0),
  CHECK (debit <> credit),
  PRIMARY KEY (journal, seq),
  FOREIGN KEY (debit, ledger) REFERENCES ledger.acct (id, ledger),
  FOREIGN KEY (credit, ledger) REFERENCES ledger.acct (id, ledger)
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
  created_ms bigint NOT NULL
);
CREATE INDEX api_key_account ON ledger.api_key (account);

-- A request from hold to its end, and what GET /generation tells about it.
CREATE TABLE ledger.hold (
  id uuid PRIMARY KEY,
  acct bigint NOT NULL REFERENCES ledger.acct,
  amount bigint NOT NULL CHECK (amount > 0),
  state smallint NOT NULL DEFAULT 0 CHECK (state BETWEEN 0 AND 3), -- 0 open, 1 settled, 2 released, 3 expired
  charged bigint CHECK (charged BETWEEN 0 AND amount),
  miner_amount bigint CHECK (miner_amount BETWEEN 0 AND charged),
  refunded bigint NOT NULL DEFAULT 0 CHECK (refunded BETWEEN 0 AND COALESCE(charged, 0)),
  streamed boolean NOT NULL,
  created_ms bigint NOT NULL,
  expires_ms bigint NOT NULL,
  ended_ms bigint,
  fingerprint text NOT NULL, -- of the request: the same id for another request is a conflict
  gateway text NOT NULL,
  account text NOT NULL REFERENCES ledger.account,
  api_key text NOT NULL,
  model text NOT NULL,
  surface text NOT NULL,
  miner text,
  ended_by text, -- token of the call that ended it: tells a replay of that call from another one
  reason text,
  upstream_id text,
  outcome jsonb,
  CHECK ((state = 1) = (charged IS NOT NULL)),
  CHECK ((state = 0) = (ended_ms IS NULL))
) WITH (fillfactor = 70);
CREATE INDEX hold_open ON ledger.hold (expires_ms) WHERE state = 0;
CREATE INDEX hold_api_key ON ledger.hold (api_key, created_ms); -- what a key has used
CREATE INDEX hold_upstream ON ledger.hold (upstream_id) WHERE upstream_id IS NOT NULL;

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
);
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

CREATE FUNCTION ledger.now_ms() RETURNS bigint LANGUAGE sql STABLE AS
  $$ SELECT (extract(epoch FROM now()) * 1000)::bigint $$;

CREATE FUNCTION ledger.system_acct(in_ledger int, in_code int) RETURNS bigint LANGUAGE sql STABLE AS
  $$ SELECT id FROM ledger.acct WHERE ledger = in_ledger AND code = in_code AND owner = '' $$;

-- Account of a customer (10) or a miner (20); NULL when there is none.
CREATE FUNCTION ledger.acct_of(in_code int, in_owner text) RETURNS bigint LANGUAGE sql STABLE AS
  $$ SELECT id FROM ledger.acct WHERE ledger = 1 AND code = in_code AND owner = in_owner $$;

-- Posts one journal; transfers as parallel arrays. Returns false when the id is already posted.
CREATE FUNCTION ledger.post(
  in_id text, in_kind text, in_epoch int, in_meta jsonb,
  in_ledgers smallint[], in_debits bigint[], in_credits bigint[], in_amounts bigint[], is_refund boolean DEFAULT false
) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO ledger.journal (id, kind, epoch, meta) VALUES (in_id, in_kind, in_epoch, in_meta) ON CONFLICT DO NOTHING;
  IF NOT FOUND THEN RETURN false; END IF;
  -- Every function locks accounts in the order of their ids, before anything else: there is no deadlock.
  PERFORM 1 FROM ledger.acct WHERE id = ANY (in_debits || in_credits) ORDER BY id FOR UPDATE;
  INSERT INTO ledger.transfer (journal, seq, ledger, debit, credit, amount)
    SELECT in_id, u.n, u.ledger, u.debit, u.credit, u.amount
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
--   held: o held (also when repeated), i insufficient credit, c conflict with another request, u unknown account
--   available: nano-USD that were free on the account, for each i
CREATE FUNCTION ledger.apply_batch(
  in_gateway text,
  settle_ids uuid[], settle_calls text[], settle_charges bigint[], settle_miner_amounts bigint[], settle_miners text[],
  settle_epochs int[], settle_leaves text[], settle_upstream_ids text[], settle_outcomes text[],
  release_ids uuid[], release_calls text[], release_reasons text[], release_outcomes text[],
  note_leaves text[], note_epochs int[],
  hold_ids uuid[], hold_accounts text[], hold_amounts bigint[], hold_fingerprints text[], hold_expires bigint[],
  hold_keys text[], hold_models text[], hold_surfaces text[], hold_streamed boolean[], hold_created bigint[],
  OUT settled text, OUT released text, OUT held text, OUT available bigint[]
) LANGUAGE plpgsql
-- Plans are made and cached while the tables are empty, and stay until the next ANALYZE. So nothing here leaves the
-- planner a choice that would scan a table: rows are found by scalar look-ups and left joins, and updated by ctid.
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
  revenue bigint := ledger.system_acct(1, 30);
  first_leaf bigint;
  settle_rows tid[];
  settle_accts bigint[];
  miner_accts bigint[];
  release_rows tid[];
  release_accts bigint[];
  hold_accts bigint[];
  verdicts text[];
  order_ record;
  last_acct bigint;
  free bigint;
  inserted int;
BEGIN
  settled := ''; released := ''; held := ''; available := '{}';

  SELECT array_agg(h.ctid ORDER BY u.n), array_agg(h.acct ORDER BY u.n) INTO settle_rows, settle_accts
    FROM unnest(settle_ids) WITH ORDINALITY AS u (id, n) LEFT JOIN ledger.hold h ON h.id = u.id;
  SELECT array_agg(h.ctid ORDER BY u.n), array_agg(h.acct ORDER BY u.n) INTO release_rows, release_accts
    FROM unnest(release_ids) WITH ORDINALITY AS u (id, n) LEFT JOIN ledger.hold h ON h.id = u.id;
  hold_accts := ARRAY(
    SELECT (SELECT a.id FROM ledger.acct a WHERE a.ledger = 1 AND a.code = 10 AND a.owner = u.account)
    FROM unnest(hold_accounts) WITH ORDINALITY AS u (account, n) ORDER BY u.n);
  miner_accts := ARRAY(
    SELECT (SELECT a.id FROM ledger.acct a WHERE a.ledger = 1 AND a.code = 20 AND a.owner = u.miner)
    FROM unnest(settle_miners) WITH ORDINALITY AS u (miner, n) ORDER BY u.n);
  IF array_position(miner_accts, NULL) IS NOT NULL THEN
    INSERT INTO ledger.acct (ledger, code, owner, guarded)
      SELECT DISTINCT 1, 20, m, false FROM unnest(settle_miners) m WHERE ledger.acct_of(20, m) IS NULL ORDER BY m
      ON CONFLICT DO NOTHING;
    miner_accts := ARRAY(
      SELECT ledger.acct_of(20, u.miner) FROM unnest(settle_miners) WITH ORDINALITY AS u (miner, n) ORDER BY u.n);
  END IF;

  PERFORM FROM ledger.acct a
    WHERE a.id = ANY (settle_accts || miner_accts || release_accts || hold_accts || revenue) ORDER BY a.id FOR UPDATE;

  IF cardinality(settle_ids) + cardinality(note_leaves) > 0 THEN
    SELECT size INTO STRICT first_leaf FROM ledger.log_head WHERE gateway = in_gateway FOR UPDATE;
    WITH asked AS (
      SELECT * FROM unnest(settle_rows, settle_calls, settle_charges, settle_miner_amounts, settle_miners, miner_accts,
                           settle_epochs, settle_leaves, settle_upstream_ids, settle_outcomes) WITH ORDINALITY
        AS u (row_, call, charge, miner_amount, miner, miner_acct, epoch, leaf, upstream_id, outcome, n)
    ), entries AS (
      UPDATE ledger.hold h SET
          state = 1, charged = LEAST(u.charge, h.amount), miner_amount = LEAST(u.miner_amount, u.charge, h.amount),
          miner = u.miner, ended_by = u.call, ended_ms = ledger.now_ms(), upstream_id = NULLIF(u.upstream_id, ''),
          outcome = u.outcome::jsonb
        FROM asked u WHERE h.ctid = u.row_ AND h.ended_ms IS NULL
        RETURNING 'settle:' || h.id AS journal, h.acct, h.amount, h.charged, h.miner_amount, u.miner_acct, u.epoch, u.leaf, u.n
    ), journalled AS (
      INSERT INTO ledger.journal (id, kind, epoch) SELECT journal, 'settle', epoch FROM entries
    ), moved AS (
      INSERT INTO ledger.transfer (journal, seq, ledger, debit, credit, amount)
        SELECT journal, 1, 1, acct, miner_acct, miner_amount FROM entries WHERE miner_amount > 0
        UNION ALL SELECT journal, 2, 1, acct, revenue, charged - miner_amount FROM entries WHERE charged > miner_amount
    ), changes AS (
      SELECT id, sum(credit)::bigint AS credits, sum(debit)::bigint AS debits, sum(hold)::bigint AS held FROM (
        SELECT acct AS id, 0 AS credit, charged AS debit, amount AS hold FROM entries
        UNION ALL SELECT miner_acct, miner_amount, 0, 0 FROM entries
        UNION ALL SELECT revenue, charged - miner_amount, 0, 0 FROM entries
      ) x GROUP BY id
    ), applied AS (
      UPDATE ledger.acct a SET credits = a.credits + c.credits, debits = a.debits + c.debits, held = a.held - c.held
        FROM changes c WHERE a.id = c.id
    ), noted AS (
      INSERT INTO ledger.log_note (gateway, hash)
        SELECT in_gateway, sha256(convert_to(leaf, 'UTF8')) FROM unnest(note_leaves) leaf
        ON CONFLICT DO NOTHING
        RETURNING hash
    ), leaves AS (
      SELECT 0 AS kind, n, epoch, leaf FROM entries
      UNION ALL SELECT 1, min(u.n), min(u.epoch), u.leaf
        FROM unnest(note_leaves, note_epochs) WITH ORDINALITY AS u (leaf, epoch, n)
        WHERE sha256(convert_to(u.leaf, 'UTF8')) IN (SELECT hash FROM noted)
        GROUP BY u.leaf
    ), appended AS (
      INSERT INTO ledger.log_leaf (gateway, index, epoch, leaf)
        SELECT in_gateway, first_leaf - 1 + row_number() OVER (ORDER BY kind, n), epoch, leaf FROM leaves
        RETURNING 1
    )
    UPDATE ledger.log_head SET size = size + (SELECT count(*) FROM appended) WHERE gateway = in_gateway;
    SELECT COALESCE(string_agg(CASE WHEN h.ended_by = u.call THEN 's' ELSE 'a' END, '' ORDER BY u.n), '') INTO settled
      FROM unnest(settle_ids, settle_calls) WITH ORDINALITY AS u (id, call, n) LEFT JOIN ledger.hold h ON h.id = u.id;
  END IF;

  IF cardinality(release_ids) > 0 THEN
    WITH ended AS (
      UPDATE ledger.hold h SET
          state = 2, ended_by = u.call, ended_ms = ledger.now_ms(), reason = u.reason, outcome = u.outcome::jsonb
        FROM unnest(release_rows, release_calls, release_reasons, release_outcomes) AS u (row_, call, reason, outcome)
        WHERE h.ctid = u.row_ AND h.ended_ms IS NULL
        RETURNING h.acct, h.amount
    )
    UPDATE ledger.acct a SET held = a.held - f.amount
      FROM (SELECT acct, sum(amount)::bigint AS amount FROM ended GROUP BY acct) f WHERE a.id = f.acct;
    SELECT string_agg(CASE WHEN h.ended_by = u.call THEN 's' ELSE 'a' END, '' ORDER BY u.n) INTO released
      FROM unnest(release_ids, release_calls) WITH ORDINALITY AS u (id, call, n) LEFT JOIN ledger.hold h ON h.id = u.id;
  END IF;

  IF cardinality(hold_ids) > 0 THEN
    -- All of an account's holds fit, and none was seen before: the usual case, decided in one pass.
    SELECT array_agg(x.verdict ORDER BY x.n) INTO verdicts FROM (
      SELECT u.n, CASE WHEN a.credits - a.debits - a.held >= sum(u.amount) OVER (PARTITION BY u.acct) THEN 'o' END AS verdict
      FROM unnest(hold_accts, hold_amounts) WITH ORDINALITY AS u (acct, amount, n) LEFT JOIN ledger.acct a ON a.id = u.acct
    ) x;
    IF array_position(verdicts, NULL) IS NOT NULL
       OR EXISTS (SELECT FROM ledger.hold h WHERE h.id = ANY (hold_ids)) THEN
      available := array_fill(NULL::bigint, ARRAY[cardinality(hold_ids)]);
      -- One by one in order: a hold that does not fit takes nothing away from the next.
      FOR order_ IN
        SELECT u.n, u.amount, a.id AS acct, a.credits - a.debits - a.held AS free, h.id IS NOT NULL AS is_known,
               h.state = 0 AND h.acct = a.id AND h.amount = u.amount AND h.fingerprint = u.fingerprint AS is_same
        FROM unnest(hold_ids, hold_accts, hold_amounts, hold_fingerprints) WITH ORDINALITY
          AS u (id, acct, amount, fingerprint, n)
        LEFT JOIN ledger.acct a ON a.id = u.acct
        LEFT JOIN ledger.hold h ON h.id = u.id
        ORDER BY a.id, u.n
      LOOP
        IF last_acct IS DISTINCT FROM order_.acct THEN last_acct := order_.acct; free := order_.free; END IF;
        verdicts[order_.n] := CASE
          WHEN order_.acct IS NULL THEN 'u'
          WHEN order_.is_known THEN CASE WHEN order_.is_same THEN 'r' ELSE 'c' END
          WHEN order_.amount <= free THEN 'o'
          ELSE 'i' END;
        available[order_.n] := free;
        IF verdicts[order_.n] = 'o' THEN free := free - order_.amount; END IF;
      END LOOP;
    END IF;
    WITH opened AS (
      INSERT INTO ledger.hold (id, acct, amount, streamed, created_ms, expires_ms, fingerprint, gateway, account, api_key, model, surface)
        SELECT u.id, u.acct, u.amount, u.streamed, u.created, u.expires, u.fingerprint, in_gateway, u.account, u.key, u.model, u.surface
        FROM unnest(verdicts, hold_accts, hold_ids, hold_accounts, hold_amounts, hold_fingerprints, hold_expires, hold_keys,
                    hold_models, hold_surfaces, hold_streamed, hold_created)
          AS u (verdict, acct, id, account, amount, fingerprint, expires, key, model, surface, streamed, created)
        WHERE u.verdict = 'o'
        ON CONFLICT DO NOTHING
        RETURNING acct, amount
    ), taken AS (
      UPDATE ledger.acct a SET held = a.held + o.amount
        FROM (SELECT acct, sum(amount)::bigint AS amount FROM opened GROUP BY acct) o WHERE a.id = o.acct
    )
    SELECT count(*) INTO inserted FROM opened;
    IF inserted <> cardinality(array_positions(verdicts, 'o')) THEN
      RAISE EXCEPTION 'another session made a hold with the same id' USING ERRCODE = 'serialization_failure';
    END IF;
    held := replace(array_to_string(verdicts, ''), 'r', 'o');
  END IF;
END $$;

-- Frees holds that are past their time, whichever gateway made them. Returns how many.
CREATE FUNCTION ledger.expire(in_now_ms bigint, in_limit int) RETURNS int LANGUAGE plpgsql
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
DECLARE
  due uuid[] := ARRAY(
    SELECT id FROM ledger.hold WHERE state = 0 AND expires_ms < in_now_ms ORDER BY expires_ms LIMIT in_limit);
  expired int;
BEGIN
  PERFORM FROM ledger.acct WHERE id IN (SELECT acct FROM ledger.hold WHERE id = ANY (due)) ORDER BY id FOR UPDATE;
  WITH ended AS (
    UPDATE ledger.hold SET state = 3, ended_ms = ledger.now_ms() WHERE id = ANY (due) AND state = 0 RETURNING acct, amount
  ), freed AS (
    UPDATE ledger.acct a SET held = a.held - e.amount
      FROM (SELECT acct, sum(amount)::bigint AS amount FROM ended GROUP BY acct) e WHERE a.id = e.acct
  )
  SELECT count(*) INTO expired FROM ended;
  RETURN expired;
END $$;

-- Gives back part of a settled charge: first what the protocol kept of it, then what the miner got.
-- Returns applied | repeated | conflict (same number, other amount) | not_settled | exceeds_charge.
CREATE FUNCTION ledger.refund(in_request uuid, in_number int, in_amount bigint) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  h ledger.hold;
  journal_id text := format('refund:%s:%s', in_request, in_number);
  posted bigint;
  revenue bigint := ledger.system_acct(1, 30);
  miner_acct bigint;
  kept bigint;
  from_protocol bigint;
BEGIN
  SELECT * INTO h FROM ledger.hold WHERE id = in_request;
  IF NOT FOUND OR h.state <> 1 THEN RETURN 'not_settled'; END IF;
  miner_acct := ledger.acct_of(20, h.miner);
  PERFORM FROM ledger.acct WHERE id IN (h.acct, revenue, miner_acct) ORDER BY id FOR UPDATE;
  SELECT * INTO h FROM ledger.hold WHERE id = in_request FOR UPDATE;
  SELECT sum(amount) INTO posted FROM ledger.transfer WHERE journal = journal_id;
  IF posted IS NOT NULL THEN RETURN CASE WHEN posted = in_amount THEN 'repeated' ELSE 'conflict' END; END IF;
  IF h.refunded + in_amount > h.charged THEN RETURN 'exceeds_charge'; END IF;
  kept := GREATEST(h.charged - h.miner_amount - h.refunded, 0);
  from_protocol := LEAST(in_amount, kept);
  PERFORM ledger.post(journal_id, 'refund', NULL, NULL, ARRAY[1, 1]::smallint[], ARRAY[revenue, miner_acct],
                      ARRAY[h.acct, h.acct], ARRAY[from_protocol, in_amount - from_protocol], true);
  UPDATE ledger.hold SET refunded = refunded + in_amount WHERE id = in_request;
  RETURN 'applied';
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
    SELECT acct, sum(amount) AS amount FROM ledger.hold WHERE state = 0 GROUP BY acct
  ), settles AS (
    SELECT j.id, COALESCE(sum(t.amount), 0) AS amount FROM ledger.journal j LEFT JOIN ledger.transfer t ON t.journal = j.id
    WHERE j.kind = 'settle' GROUP BY j.id
  ), refunds AS (
    SELECT split_part(t.journal, ':', 2) AS request, sum(t.amount) AS amount
    FROM ledger.transfer t JOIN ledger.journal j ON j.id = t.journal AND j.kind = 'refund' GROUP BY 1
  ), credits AS (
    SELECT t.journal, t.amount FROM ledger.transfer t JOIN ledger.acct a ON a.id = t.credit AND a.code = 10
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
    FROM ledger.hold h LEFT JOIN settles s ON s.id = 'settle:' || h.id WHERE h.state = 1 AND h.charged IS DISTINCT FROM s.amount
  UNION ALL SELECT 7, 'settlements of requests that are not settled', count(*)
    FROM settles s LEFT JOIN ledger.hold h ON 'settle:' || h.id = s.id WHERE h.state IS DISTINCT FROM 1
  UNION ALL SELECT 8, 'requests that differ from their refunds', count(*)
    FROM ledger.hold h LEFT JOIN refunds r ON r.request = h.id::text WHERE h.refunded <> COALESCE(r.amount, 0)
  UNION ALL SELECT 9, 'deposits that differ from their credits', count(*)
    FROM (SELECT * FROM ledger.deposit WHERE state = 'credited') d FULL JOIN credits c ON c.journal = 'credit:' || d.id
    WHERE d.amount_nusd IS DISTINCT FROM c.amount
  UNION ALL SELECT 10, 'rao in suspense without a deposit that waits',
    (SELECT credits - debits FROM ledger.acct WHERE ledger = 2 AND code = 70)
      - COALESCE((SELECT sum(amount_rao) FROM ledger.deposit WHERE state <> 'credited'), 0)
  UNION ALL SELECT 11, 'gaps in the usage log', count(*)
    FROM ledger.log_head g LEFT JOIN LATERAL (
      SELECT count(*) AS n, COALESCE(max(index) + 1, 0) AS size FROM ledger.log_leaf l WHERE l.gateway = g.gateway
    ) l ON true WHERE g.size <> l.n OR g.size <> l.size;
