import assert from "node:assert/strict";
import { test } from "node:test";
import Anthropic from "@anthropic-ai/sdk";
import OpenAI from "openai";
import { RouterError } from "../../src/core/errors.ts";
import { insufficientCredit } from "../../src/dialects/error-body.ts";
import {
  PaymentRequiredError,
  paymentRequiredHeader,
  type TopUp,
} from "../../src/gateway/payment-required.ts";
import {
  CHAT_MODEL,
  GENESIS,
  MESSAGES_MODEL,
  openTestGateway,
  openTestMiner,
  testNetwork,
  untilServing,
} from "./fixture.ts";

/** What x402 calls PaymentRequired. */
interface PaymentRequired {
  readonly x402Version: number;
  readonly error: string;
  readonly resource: { readonly url: string };
  readonly accepts: readonly {
    readonly scheme: string;
    readonly network: string;
    readonly amount: string;
    readonly asset: string;
    readonly payTo: string;
    readonly maxTimeoutSeconds: number;
    readonly extra: Readonly<Record<string, string | null>>;
  }[];
  readonly extensions: object;
}

interface Metadata {
  readonly code: string;
  readonly needed_nusd: string;
  readonly available_nusd: string;
  readonly affordable_max_tokens?: number;
  readonly top_up: Readonly<Record<string, string | null>>;
}

function decoded(header: string | null | undefined): PaymentRequired {
  return JSON.parse(Buffer.from(header ?? "", "base64").toString("utf8")) as PaymentRequired;
}

const TOP_UP: TopUp = {
  gatewayUrl: "https://gateway.example",
  genesisHash: `0x${"ab".repeat(32)}`,
  address: "5Address",
  minimumRao: 10n,
  nanoUsdPerTao: 400_000_000_000n,
  quote: undefined,
};

for (const { name, missing, topUp, amount } of [
  { name: "rounds what is missing up", missing: 4_001n, topUp: TOP_UP, amount: 11n },
  { name: "asks for the minimum at least", missing: 1n, topUp: TOP_UP, amount: 10n },
  {
    name: "asks for the minimum while there is no price",
    missing: 4_001n,
    topUp: { ...TOP_UP, nanoUsdPerTao: undefined },
    amount: 10n,
  },
]) {
  test(`PaymentRequiredError ${name}`, () => {
    const error = new PaymentRequiredError(insufficientCredit(5_000n, 0n), missing, topUp);
    assert.equal(error.amountRao, amount);
    assert(error instanceof RouterError && error.status === 402);
    const { accepts } = decoded(paymentRequiredHeader(error, "/v1/messages"));
    assert.equal(accepts[0]?.amount, amount.toString());
    assert.equal(accepts[0].extra["rateNusdPerTao"], topUp.nanoUsdPerTao?.toString() ?? null);
  });
}

test("both SDKs raise 402 after one request, with what is needed to pay in body and header", async (t) => {
  const network = testNetwork();
  await openTestMiner(t, network);
  const gateway = await openTestGateway(t, network);
  await untilServing(gateway, 1);
  const poor = await gateway.customer(1_000n);
  let requests = 0;
  const counting: typeof fetch = async (input, init) => {
    requests += 1;
    return await fetch(input, init);
  };
  // As everybody uses them: with their own retries.
  const openai = new OpenAI({
    apiKey: poor.apiKey,
    baseURL: `${gateway.url}/v1`,
    fetch: counting,
  });
  const anthropic = new Anthropic({ apiKey: poor.apiKey, baseURL: gateway.url, fetch: counting });
  const messages = [{ role: "user" as const, content: "hi" }];

  const viaOpenai = async (stream: boolean): Promise<InstanceType<typeof OpenAI.APIError>> => {
    try {
      await openai.chat.completions.create({
        model: CHAT_MODEL,
        messages,
        max_tokens: 1_000,
        stream,
      });
    } catch (error) {
      assert(error instanceof OpenAI.APIError);
      return error;
    }
    throw new Error("the request was served");
  };
  for (const stream of [false, true]) {
    requests = 0;
    const error = await viaOpenai(stream);
    assert.equal(error.status, 402);
    assert.equal(requests, 1);
    const { metadata } = error.error as { metadata: Metadata };
    assert.equal(metadata.code, "insufficient_credit");
    assert.equal(metadata.available_nusd, "1000");
    const missing = BigInt(metadata.needed_nusd) - 1_000n;
    assert(missing > 0n);
    assert.equal(metadata.top_up["address"], poor.depositAddress);
    assert.equal(metadata.top_up["minimum_rao"], "10000000");
    assert.equal(metadata.top_up["rate_nusd_per_tao"], "400000000000");
    assert.equal(metadata.top_up["quote_id"], null);
    const header = decoded(error.headers?.get("payment-required"));
    assert.equal(header.x402Version, 2);
    assert.equal(header.resource.url, `${gateway.url}/v1/chat/completions`);
    const [accepted] = header.accepts;
    assert.equal(accepted?.network, `polkadot:${GENESIS.slice(2, 34)}`);
    assert.equal(accepted.payTo, poor.depositAddress);
    assert.equal(accepted.asset, "TAO");
    assert.equal(accepted.amount, metadata.top_up["amount_rao"]);
    assert.equal(accepted.extra["neededNusd"], metadata.needed_nusd);
  }

  const answer = await fetch(`${gateway.url}/v1/deposits/quote`, {
    method: "POST",
    headers: { authorization: `Bearer ${poor.apiKey}` },
  });
  const { data: quote } = (await answer.json()) as { data: Record<string, string> };
  requests = 0;
  await assert.rejects(
    anthropic.messages.create({ model: MESSAGES_MODEL, messages, max_tokens: 1_000 }),
    (error) => {
      assert(error instanceof Anthropic.APIError);
      assert.equal(error.status, 402);
      const { metadata } = (error.error as { error: { metadata: Metadata } }).error;
      assert.equal(metadata.top_up["quote_id"], quote["quote_id"]);
      assert.equal(metadata.top_up["rate_nusd_per_tao"], quote["rate_nusd_per_tao"]);
      const headers = error.headers as Headers;
      const [accepted] = decoded(headers.get("payment-required")).accepts;
      assert.equal(accepted?.extra["quoteId"], quote["quote_id"]);
      return true;
    },
  );
  assert.equal(requests, 1);

  // Nothing but a refusal for money carries it.
  const unknown = await fetch(`${gateway.url}/v1/chat/completions`, {
    method: "POST",
    headers: { authorization: "Bearer sk-nobody" },
    body: "{}",
  });
  assert.equal(unknown.headers.get("payment-required"), null);
});
