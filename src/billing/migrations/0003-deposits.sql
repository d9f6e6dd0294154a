-- Whose a deposit is: by its own address, by a memo, by the wallet it came from, or by the operator's word.

-- The common address is watched like the others and belongs to no account.
ALTER TABLE ledger.deposit_address ALTER account DROP NOT NULL;

ALTER TABLE ledger.deposit ALTER account DROP NOT NULL;
ALTER TABLE ledger.deposit ADD attribution text CHECK (attribution IN ('address', 'memo', 'wallet', 'operator'));
ALTER TABLE ledger.deposit ADD memo text; -- what the sender wrote beside the transfer, for people
UPDATE ledger.deposit SET attribution = 'address';
ALTER TABLE ledger.deposit DROP CONSTRAINT deposit_state_check;
ALTER TABLE ledger.deposit ADD CONSTRAINT deposit_state_check
  CHECK (state IN ('suspense', 'below_minimum', 'finalized', 'credited'));
ALTER TABLE ledger.deposit ADD CONSTRAINT deposit_owner_check CHECK (
  (account IS NULL) = (attribution IS NULL)
  AND CASE state WHEN 'suspense' THEN account IS NULL WHEN 'below_minimum' THEN true ELSE account IS NOT NULL END);
CREATE INDEX deposit_uncredited ON ledger.deposit (state, block_number) WHERE state IN ('suspense', 'below_minimum');
CREATE INDEX deposit_unowned_sender ON ledger.deposit (sender) WHERE account IS NULL;

-- The operator's decisions move no money by themselves, and are as permanent as what does.
ALTER TABLE ledger.journal DROP CONSTRAINT journal_kind_check;
ALTER TABLE ledger.journal ADD CONSTRAINT journal_kind_check
  CHECK (kind IN ('settle', 'refund', 'deposit', 'credit', 'promo', 'promo_expiry', 'assign', 'treasury', 'withdrawal'));

-- Where the TAO is that was paid in, and what is owed to those who take their credit back.
INSERT INTO ledger.chart (ledger, code, name, guarded) VALUES
  (1, 61, 'refunds payable', false),
  (2, 50, 'hot wallet', false),
  (2, 52, 'cold wallet', false),
  (2, 53, 'chain fees', false),
  (2, 80, 'operator''s own', false);
INSERT INTO ledger.acct (id, ledger, code, guarded) OVERRIDING SYSTEM VALUE
  SELECT ledger.system_acct(ledger, code), ledger, code, guarded FROM ledger.chart
  WHERE (ledger, code) IN ((1, 61), (2, 50), (2, 52), (2, 53), (2, 80));

-- Texts that wait for a wallet's signature. A row is deleted by the first attempt to use it.
CREATE TABLE ledger.wallet_challenge (
  nonce text PRIMARY KEY,
  purpose text NOT NULL CHECK (purpose IN ('link')),
  account text NOT NULL REFERENCES ledger.account,
  address text NOT NULL,
  domain text NOT NULL,
  message text NOT NULL,
  issued_ms bigint NOT NULL,
  expires_ms bigint NOT NULL CHECK (expires_ms > issued_ms)
);
CREATE INDEX wallet_challenge_account ON ledger.wallet_challenge (account);
CREATE INDEX wallet_challenge_expiry ON ledger.wallet_challenge (expires_ms);

-- Wallets whose transfers to the common address are an account's. A row stays when the link ends: it says why earlier
-- deposits were credited, and the signed text proves it.
CREATE TABLE ledger.linked_wallet (
  nonce text PRIMARY KEY, -- of the challenge that was signed
  address text NOT NULL,  -- ss58 with prefix 42: one text per public key
  account text NOT NULL REFERENCES ledger.account,
  message text NOT NULL,
  signature bytea NOT NULL CHECK (length(signature) = 64),
  linked_ms bigint NOT NULL,
  unlinked_ms bigint CHECK (unlinked_ms >= linked_ms)
);
CREATE UNIQUE INDEX linked_wallet_address ON ledger.linked_wallet (address) WHERE unlinked_ms IS NULL;
CREATE INDEX linked_wallet_account ON ledger.linked_wallet (account);

-- Gives a deposit that waits in suspense to an account. It is credited like any other, at the rate of its block.
-- Returns assigned | repeated | unknown_deposit | unknown_account | conflict (it is another account's, or credited).
CREATE FUNCTION ledger.assign_deposit(in_deposit text, in_account text, in_note text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  d ledger.deposit;
BEGIN
  PERFORM ledger.take_turn();
  SELECT * INTO d FROM ledger.deposit WHERE id = in_deposit;
  IF NOT FOUND THEN RETURN 'unknown_deposit'; END IF;
  IF d.attribution = 'operator' AND d.account = in_account THEN RETURN 'repeated'; END IF;
  IF d.state NOT IN ('suspense', 'below_minimum') OR d.account <> in_account THEN RETURN 'conflict'; END IF;
  IF NOT EXISTS (SELECT FROM ledger.account WHERE id = in_account) THEN RETURN 'unknown_account'; END IF;
  PERFORM ledger.post('assign:' || in_deposit, 'assign', NULL, jsonb_build_object('account', in_account, 'note', in_note),
                      '{}', '{}', '{}', '{}');
  UPDATE ledger.deposit SET account = in_account, attribution = 'operator', state = 'finalized' WHERE id = in_deposit;
  RETURN 'assigned';
END $$;

-- Credit that goes back as TAO to the wallet it came from. The operator pays it; the chain's event is the proof.
CREATE TABLE ledger.withdrawal (
  id text PRIMARY KEY,
  account text NOT NULL REFERENCES ledger.account,
  address text NOT NULL, -- ss58 with prefix 42
  state text NOT NULL CHECK (state IN ('requested', 'paid', 'rejected')),
  amount_nusd bigint NOT NULL CHECK (amount_nusd > 0),
  rate bigint NOT NULL CHECK (rate > 0), -- nano-USD per TAO
  amount_rao bigint NOT NULL CHECK (amount_rao > 0),
  requested_ms bigint NOT NULL,
  ended_ms bigint,
  note text, -- why it was rejected
  block_number bigint,
  block_hash text,
  event_index int,
  CHECK ((state = 'requested') = (ended_ms IS NULL)),
  CHECK ((state = 'rejected') = (note IS NOT NULL)),
  CHECK (num_nonnulls(block_number, block_hash, event_index) = CASE state WHEN 'paid' THEN 3 ELSE 0 END)
);
CREATE INDEX withdrawal_account ON ledger.withdrawal (account, requested_ms);
CREATE INDEX withdrawal_requested ON ledger.withdrawal (requested_ms) WHERE state = 'requested';

-- Takes credit off an account for a withdrawal: at most what its linked wallet paid in, so that a stolen key can take no
-- more than the thief brought. Returns requested | unknown_wallet | too_many | exceeds_deposits | insufficient_credit.
CREATE FUNCTION ledger.request_withdrawal(
  in_id text, in_account text, in_address text, in_nusd bigint, in_rate bigint, in_rao bigint, in_ms bigint, in_open_max int
) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  customer bigint := ledger.acct_of(10, in_account);
BEGIN
  PERFORM ledger.take_turn();
  IF NOT EXISTS (SELECT FROM ledger.linked_wallet WHERE address = in_address AND account = in_account AND unlinked_ms IS NULL)
  THEN RETURN 'unknown_wallet'; END IF;
  IF (SELECT count(*) FROM ledger.withdrawal WHERE account = in_account AND state = 'requested') >= in_open_max
  THEN RETURN 'too_many'; END IF;
  IF in_nusd > (SELECT COALESCE(sum(amount_nusd), 0) FROM ledger.deposit
                 WHERE account = in_account AND sender = in_address AND state = 'credited')
             - (SELECT COALESCE(sum(amount_nusd), 0) FROM ledger.withdrawal
                 WHERE account = in_account AND address = in_address AND state <> 'rejected')
  THEN RETURN 'exceeds_deposits'; END IF;
  IF in_nusd > (SELECT credits - debits - held FROM ledger.acct WHERE id = customer) THEN RETURN 'insufficient_credit'; END IF;
  PERFORM ledger.post('wd:' || in_id, 'withdrawal', NULL, jsonb_build_object('address', in_address), ARRAY[1]::smallint[],
                      ARRAY[customer], ARRAY[ledger.system_acct(1, 61)], ARRAY[in_nusd]);
  INSERT INTO ledger.withdrawal (id, account, address, state, amount_nusd, rate, amount_rao, requested_ms)
    VALUES (in_id, in_account, in_address, 'requested', in_nusd, in_rate, in_rao, in_ms);
  RETURN 'requested';
END $$;

-- Ends the one of these withdrawals that a transfer from our account `in_source` pays exactly. Returns its id, or NULL.
CREATE FUNCTION ledger.pay_withdrawal(
  in_ids text[], in_address text, in_rao bigint, in_source int, in_number bigint, in_hash text, in_event int, in_ms bigint
) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  w ledger.withdrawal;
BEGIN
  PERFORM ledger.take_turn();
  SELECT * INTO w FROM ledger.withdrawal
    WHERE id = ANY (in_ids) AND state = 'requested' AND address = in_address AND amount_rao = in_rao ORDER BY id LIMIT 1;
  IF NOT FOUND THEN RETURN NULL; END IF;
  PERFORM ledger.post('wdpaid:' || w.id, 'withdrawal', NULL, NULL, ARRAY[1, 2]::smallint[],
                      ARRAY[ledger.system_acct(1, 61), ledger.system_acct(2, 40)],
                      ARRAY[ledger.system_acct(1, 40), ledger.system_acct(2, in_source)], ARRAY[w.amount_nusd, w.amount_rao]);
  UPDATE ledger.withdrawal SET state = 'paid', ended_ms = in_ms, block_number = in_number, block_hash = in_hash,
                               event_index = in_event WHERE id = w.id;
  RETURN w.id;
END $$;

-- Gives the credit back. Returns rejected | repeated | unknown | paid.
CREATE FUNCTION ledger.reject_withdrawal(in_id text, in_note text, in_ms bigint) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  w ledger.withdrawal;
BEGIN
  PERFORM ledger.take_turn();
  SELECT * INTO w FROM ledger.withdrawal WHERE id = in_id;
  IF NOT FOUND THEN RETURN 'unknown'; END IF;
  IF w.state <> 'requested' THEN RETURN CASE w.state WHEN 'paid' THEN 'paid' ELSE 'repeated' END; END IF;
  PERFORM ledger.post('wdback:' || in_id, 'withdrawal', NULL, jsonb_build_object('note', in_note), ARRAY[1]::smallint[],
                      ARRAY[ledger.system_acct(1, 61)], ARRAY[ledger.acct_of(10, w.account)], ARRAY[w.amount_nusd]);
  UPDATE ledger.withdrawal SET state = 'rejected', ended_ms = in_ms, note = in_note WHERE id = in_id;
  RETURN 'rejected';
END $$;

-- Every value must be 0.
CREATE VIEW ledger.deposit_audit AS
  WITH taken AS (
    SELECT j.cause, COALESCE(sum(t.amount), 0) AS amount
    FROM ledger.journal j LEFT JOIN ledger.transfer t ON t.journal = j.id AND t.credit = ledger.system_acct(2, 70)
    WHERE j.kind = 'deposit' AND j.cause LIKE 'dep:%' GROUP BY j.cause
  ), ended AS (
    SELECT w.id, w.state, w.amount_nusd, w.amount_rao, p.step, sum(t.amount) FILTER (WHERE t.ledger = 1) AS nusd,
           sum(t.amount) FILTER (WHERE t.ledger = 2) AS rao
    FROM ledger.withdrawal w CROSS JOIN (VALUES ('wd'), ('wdpaid'), ('wdback')) p (step)
    LEFT JOIN ledger.transfer t ON t.journal = ledger.journal_id(p.step || ':' || w.id) GROUP BY w.id, p.step
  )
  SELECT 30 AS position, 'deposits that differ from what was taken in' AS name, count(*) AS value
    FROM ledger.deposit d FULL JOIN taken t ON t.cause = 'dep:' || d.id WHERE d.amount_rao IS DISTINCT FROM t.amount
  UNION ALL SELECT 31, 'deposits credited to another account than their own', count(*)
    FROM ledger.deposit d JOIN ledger.transfer t ON t.journal = ledger.journal_id('credit:' || d.id) AND t.ledger = 1
    JOIN ledger.acct a ON a.id = t.credit WHERE a.owner IS DISTINCT FROM d.account
  UNION ALL SELECT 32, 'deposits to an address that is not their account''s', count(*)
    FROM ledger.deposit d LEFT JOIN ledger.deposit_address a ON a.address = d.address
    WHERE CASE WHEN d.attribution = 'address' THEN a.account IS DISTINCT FROM d.account
               WHEN d.attribution IN ('memo', 'wallet') OR d.account IS NULL THEN a.address IS NULL OR a.account IS NOT NULL
               ELSE a.address IS NULL END
  UNION ALL SELECT 33, 'deposits by memo whose memo names another account', count(*)
    FROM ledger.deposit WHERE attribution = 'memo' AND memo IS DISTINCT FROM 'daybreak:' || account
  UNION ALL SELECT 34, 'deposits from wallets that were never linked to their account', count(*)
    FROM ledger.deposit d WHERE d.attribution = 'wallet'
      AND NOT EXISTS (SELECT FROM ledger.linked_wallet w WHERE w.address = d.sender AND w.account = d.account)
  UNION ALL SELECT 35, 'deposits that differ from the operator''s decisions', count(*)
    FROM (SELECT * FROM ledger.deposit WHERE attribution = 'operator') d
    FULL JOIN (SELECT * FROM ledger.journal WHERE kind = 'assign') j ON j.cause = 'assign:' || d.id
    WHERE j.meta ->> 'account' IS DISTINCT FROM d.account OR d.id IS NULL
  UNION ALL SELECT 36, 'challenges that could be used a second time', count(*)
    FROM ledger.wallet_challenge c JOIN ledger.linked_wallet w ON w.nonce = c.nonce
  UNION ALL SELECT 37, 'linked wallets whose signed text names another account or address', count(*)
    FROM ledger.linked_wallet
    WHERE position(account IN message) = 0 OR position(address IN message) = 0 OR position(nonce IN message) = 0
  UNION ALL SELECT 38, 'withdrawals that differ from their journals', count(*)
    FROM ended WHERE nusd IS DISTINCT FROM CASE WHEN step = 'wd' OR (step, state) IN (('wdpaid', 'paid'), ('wdback', 'rejected'))
                                                THEN amount_nusd END
                  OR rao IS DISTINCT FROM CASE WHEN (step, state) = ('wdpaid', 'paid') THEN amount_rao END
  UNION ALL SELECT 39, 'USD owed to withdrawals that nobody requested',
    (SELECT credits - debits FROM ledger.acct WHERE ledger = 1 AND code = 61)
      - COALESCE((SELECT sum(amount_nusd) FROM ledger.withdrawal WHERE state = 'requested'), 0)
  UNION ALL SELECT 40, 'wallets that were paid more than they paid in', count(*)
    FROM (SELECT account, address, sum(amount_nusd) AS amount FROM ledger.withdrawal
           WHERE state <> 'rejected' GROUP BY account, address) w
    WHERE w.amount > COALESCE((SELECT sum(amount_nusd) FROM ledger.deposit d
                                WHERE d.account = w.account AND d.sender = w.address AND d.state = 'credited'), 0);
