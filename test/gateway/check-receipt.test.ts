import assert from "node:assert/strict";
import { test } from "node:test";
import type { EnclaveId, Hotkey } from "../../src/core/ids.ts";
import { newRequestId } from "../../src/core/ids.ts";
import { nanoUsd } from "../../src/core/money.ts";
import type { Usage } from "../../src/core/pricing.ts";
import type { Receipt } from "../../src/core/receipt.ts";
import {
  checkReceipt,
  type GrantedWork,
  RECEIPT_REFUSALS,
  type SeenAnswer,
} from "../../src/gateway/check-receipt.ts";

const hash = (letter: string): string => letter.repeat(43);
const rid = newRequestId(1_750_000_000_000);

const WORK: GrantedWork = {
  miner: `5${"F".repeat(47)}` as Hotkey,
  enclave: hash("e") as EnclaveId,
  gatewayKeyId: hash("k"),
  rid,
  epoch: 7,
  model: "openai/gpt-5-mini",
  grantHash: hash("g"),
  quoteHash: hash("q"),
  price: {
    input: 1_000_000_000n,
    cache_read: 100_000_000n,
    output: 4_000_000_000n,
    reasoning: 4_000_000_000n,
  },
  markupBps: 500,
  maxOutputTokens: 1_000,
  inputTokensMax: 2_000,
  choices: 1,
  hiddenOutput: false,
  requestBytes: 900,
  hold: nanoUsd(10_000_000n),
};
const USE = { input: 200, cache_read: 100, output: 50, reasoning: 300 };
const SEEN: SeenAnswer = {
  usage: USE,
  complete: true,
  contentEvents: 40,
  visibleBytes: 210,
  bytesOut: 9_000,
  ended: true,
};
const RECEIPT: Receipt = {
  v: 1,
  iss: WORK.miner,
  aud: WORK.gatewayKeyId,
  ts: 1_750_000_001_000,
  rid,
  e: WORK.epoch,
  grant: WORK.grantHash,
  att: WORK.enclave,
  kind: "sim",
  security: "simulated",
  sealed_by: "gateway",
  model: WORK.model,
  upm: "gpt-5-mini",
  uph: "api.openai.com",
  upid: "",
  quote: WORK.quoteHash,
  use: USE,
  src: "provider",
  status: "complete",
  req: hash("r"),
  res: hash("s"),
  bytes: { in: WORK.requestBytes, out: SEEN.bytesOut },
  t: { ttft: 100, dur: 900 },
  seq: 4,
  prev: hash("p"),
};

interface Case {
  readonly name: string;
  readonly receipt?: Partial<Receipt>;
  readonly work?: Partial<GrantedWork>;
  readonly seen?: (Partial<Omit<SeenAnswer, "usage">> & { usage?: Usage | undefined }) | "nothing";
  readonly expected: string;
}

function outcome({ receipt, work, seen }: Omit<Case, "name" | "expected">): string {
  const { usage, ...rest } = { ...SEEN, ...(seen === "nothing" ? {} : seen) };
  const verdict = checkReceipt(
    { ...RECEIPT, ...receipt },
    { ...WORK, ...work },
    seen === "nothing" ? undefined : { ...rest, ...(usage === undefined ? {} : { usage }) },
  );
  return verdict.ok ? "ok" : verdict.refusal;
}

test("checkReceipt() settles an honest receipt at the quoted price with the markup", () => {
  // 200 × 1 000 + 100 × 100 + 350 × 4 000 nano-USD
  assert.deepEqual(checkReceipt(RECEIPT, WORK, SEEN), {
    ok: true,
    minerAmount: 1_610_000n,
    charge: 1_690_500n,
    clipped: false,
  });
});

test("checkReceipt() clips both amounts to the hold", () => {
  assert.deepEqual(checkReceipt(RECEIPT, { ...WORK, hold: nanoUsd(1_650_000n) }, SEEN), {
    ok: true,
    minerAmount: 1_610_000n,
    charge: 1_650_000n,
    clipped: true,
  });
  const tiny = checkReceipt(RECEIPT, { ...WORK, hold: nanoUsd(5n) }, SEEN);
  assert(tiny.ok && tiny.minerAmount === 5n && tiny.charge === 5n);
});

const counted = { src: "counted" as const, status: "client_abort" as const };
const cases: readonly Case[] = [
  {
    name: "another miner's",
    receipt: { iss: `5${"G".repeat(47)}` as Hotkey },
    expected: "wrong_miner",
  },
  {
    name: "another enclave's",
    receipt: { att: hash("x") as EnclaveId },
    expected: "wrong_enclave",
  },
  { name: "one for another gateway", receipt: { aud: hash("x") }, expected: "wrong_gateway" },
  { name: "one of another request", receipt: { rid: newRequestId(2) }, expected: "wrong_request" },
  { name: "one for another epoch", receipt: { e: 8 }, expected: "wrong_epoch" },
  { name: "one under another grant", receipt: { grant: hash("x") }, expected: "wrong_grant" },
  { name: "one for a dearer model", receipt: { model: "openai/gpt-5.5" }, expected: "wrong_model" },
  { name: "one at another price", receipt: { quote: hash("x") }, expected: "wrong_quote" },
  {
    name: "one about another body",
    receipt: { bytes: { in: 901, out: 9_000 } },
    expected: "wrong_bytes",
  },
  {
    name: "one that claims more bytes than came",
    receipt: { bytes: { in: 900, out: 9_001 } },
    expected: "wrong_bytes",
  },
  {
    name: "one that calls a broken answer complete",
    seen: { complete: false },
    expected: "wrong_status",
  },
  {
    name: "one that charges for a failure",
    receipt: { status: "upstream_error" },
    expected: "charged_failure",
  },
  { name: "inflated output", receipt: { use: { ...USE, output: 51 } }, expected: "usage_mismatch" },
  {
    name: "inflated reasoning",
    receipt: { use: { ...USE, reasoning: 301 } },
    expected: "usage_mismatch",
  },
  { name: "inflated input", receipt: { use: { ...USE, input: 201 } }, expected: "usage_mismatch" },
  {
    name: "cached input sold as fresh",
    receipt: { use: { ...USE, input: 300, cache_read: 0 } },
    expected: "usage_mismatch",
  },
  {
    name: "less than was used",
    receipt: { use: { ...USE, output: 49 } },
    expected: "usage_mismatch",
  },
  {
    name: "a count of its own where the provider spoke",
    receipt: { src: "counted", use: { ...USE, output: 60 } },
    expected: "usage_mismatch",
  },
  {
    name: "the provider's word where it said nothing",
    seen: { usage: undefined },
    expected: "usage_mismatch",
  },
  {
    name: "more output than granted",
    receipt: { use: { output: 1_001 } },
    work: { hiddenOutput: true },
    expected: "over_max_out",
  },
  {
    name: "more input than bytes",
    receipt: { use: { input: 2_001 } },
    seen: { usage: { input: 2_001 } },
    expected: "over_byte_bound",
  },
  {
    name: "more text than bytes",
    receipt: { use: { output: 485 } },
    seen: { usage: { output: 485 } },
    expected: "over_byte_bound",
  },
  {
    name: "a count beyond the bytes sent",
    receipt: { ...counted, use: { output: 965 }, bytes: { in: 900, out: 900 } },
    work: { hiddenOutput: true },
    seen: { bytesOut: 100, complete: false, ended: false },
    expected: "over_byte_bound",
  },
  {
    name: "a dimension that is not sold",
    receipt: { use: { audio_output: 5 } },
    seen: "nothing",
    expected: "unpriced_usage",
  },
];

for (const { name, expected, ...given } of cases) {
  test(`checkReceipt() refuses ${name}`, () => {
    assert.equal(outcome(given), expected);
  });
}

test("checkReceipt() has a case for every refusal", () => {
  assert.deepEqual(
    [...new Set(cases.map(({ expected }) => expected))].sort(),
    [...RECEIPT_REFUSALS].sort(),
  );
});

for (const { name, ...given } of [
  {
    name: "a failure without usage",
    receipt: { status: "upstream_error", use: {} },
    seen: { usage: undefined, complete: false },
  },
  {
    name: "a client's abort, with bytes that were under way",
    receipt: { ...counted, use: { input: 225, output: 60 } },
    seen: { usage: undefined, complete: false, ended: false, bytesOut: 8_000 },
  },
  {
    name: "a truncated answer, counted",
    receipt: { src: "counted", status: "truncated", use: { input: 225, output: 60 } },
    seen: { usage: undefined, complete: false },
  },
  { name: "an answer this process did not see", seen: "nothing" },
  {
    name: "an answer without usage, counted",
    receipt: { src: "counted", use: { input: 225, output: 60 } },
    seen: { usage: undefined },
  },
  {
    name: "hidden output where it is possible",
    receipt: { use: { output: 900 } },
    work: { hiddenOutput: true },
    seen: { usage: { output: 900 } },
  },
  {
    name: "a provider that went beyond the bound, up to the bound",
    receipt: { use: { input: 200, reasoning: 1_000 } },
    seen: { usage: { input: 200, reasoning: 1_200 } },
  },
  {
    name: "classes that are not sold apart, as plain tokens",
    receipt: { use: { input: 30 } },
    seen: { usage: { input: 10, image_input: 20 } },
  },
  { name: "zero counts beside absent ones", receipt: { use: { ...USE, audio_input: 0 } } },
] as const satisfies readonly Omit<Case, "expected">[]) {
  test(`checkReceipt() accepts ${name}`, () => {
    assert.equal(outcome(given), "ok");
  });
}
