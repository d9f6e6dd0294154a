/** What the first screen tells. */
export interface Welcome {
  readonly base_url: string;
  readonly api_key: string;
  readonly chain_ws: string;
  readonly netuid: number;
  readonly models: readonly { readonly id: string; readonly surface: string }[];
  readonly simulated: boolean;
  /** The price of TAO, as fixed:AMOUNT in US dollars. */
  readonly taoUsd: string;
  readonly miners: number;
  readonly validators: number;
  readonly blockMs: number;
  readonly tempo: number;
  readonly directory: string;
  readonly readyMs: number;
}

/** The text that `daybreak local` prints once everything runs; its snippets work when pasted. */
export function welcomeText(w: Welcome): string {
  const origin = w.base_url.replace(/\/v1$/, "");
  const upstreams = w.simulated
    ? "a provider simulator behind them (no model is called)"
    : "your providers behind them";
  const epochSeconds = (w.tempo * w.blockMs) / 1000;
  return `
Daybreak local network, ready in ${(w.readyMs / 1000).toFixed(1)} s

  Runs       a Subtensor chain (${w.chain_ws}, subnet ${w.netuid}, an epoch every ${epochSeconds} s),
             ${w.miners} miner relay${w.miners === 1 ? "" : "s"} with simulated attestation, ${upstreams},
             1 gateway, ${w.validators} validator${w.validators === 1 ? "" : "s"}
  Base URL   ${w.base_url}
  API key    ${w.api_key}   (funded)
  TAO price  ${w.taoUsd} (US dollars; --tao-usd sets it, no exchange is asked)

${exampleText(w, origin)}
  Network    curl -s ${w.base_url}/network
  Data       ${w.directory}
  Stop       Ctrl-C
`;
}

function exampleText(w: Welcome, origin: string): string {
  const chat =
    w.models.find(({ surface, id }) => surface === "chat" && id.endsWith("gpt-5-mini")) ??
    w.models.find(({ surface }) => surface === "chat");
  const messages = w.models.find(({ surface }) => surface === "messages");
  const lines: string[] = [];
  if (chat !== undefined) {
    lines.push(
      "curl",
      "",
      `curl -s ${w.base_url}/chat/completions -H "authorization: Bearer ${w.api_key}" -H "content-type: application/json" -d '{"model": "${chat.id}", "messages": [{"role": "user", "content": "Hello"}]}'`,
      "",
      "openai (npm install openai; as an .mjs or .ts file)",
      "",
      `import OpenAI from "openai";`,
      `const openai = new OpenAI({ baseURL: "${w.base_url}", apiKey: "${w.api_key}" });`,
      `const completion = await openai.chat.completions.create({ model: "${chat.id}", messages: [{ role: "user", content: "Hello" }] });`,
      "console.log(completion.choices[0].message.content);",
      "",
    );
  }
  if (messages !== undefined) {
    lines.push(
      "@anthropic-ai/sdk (npm install @anthropic-ai/sdk; as an .mjs or .ts file)",
      "",
      `import Anthropic from "@anthropic-ai/sdk";`,
      `const anthropic = new Anthropic({ baseURL: "${origin}", apiKey: "${w.api_key}" });`,
      `const message = await anthropic.messages.create({ model: "${messages.id}", max_tokens: 256, messages: [{ role: "user", content: "Hello" }] });`,
      `for (const block of message.content) if (block.type === "text") console.log(block.text);`,
      "",
    );
  }
  if (lines.length === 0)
    lines.push("No miner offers a model: see daybreak.log in the data folder.", "");
  return lines.join("\n");
}
