import type { Surface } from "../core/surface.ts";
import type { RequestFacts } from "./read-request.ts";
import type { Member } from "./scan-object.ts";

/** New JSON text for a member, or null to take it out. */
type Edits = Map<string, string | null>;

/**
 * The body without the fields that are meant for the gateway, and with `reasoning.effort` under the name that upstreams
 * know. Every value that stays keeps its bytes. The same buffer comes back when there is nothing to do.
 *
 * @param facts what `readRequest` said about exactly this body.
 */
export function withoutGatewayFields(body: Buffer, facts: RequestFacts): Buffer {
  const edits: Edits = new Map();
  const additions = new Map<string, string>();
  editGatewayFields(facts, edits, additions);
  return splice(body, facts.members, edits, additions);
}

export interface UpstreamOverrides {
  /** The name by which the upstream knows the model. */
  readonly model?: string;
  /** Most output tokens per choice: added when the client gave no bound, and a larger one is lowered to it. */
  readonly maxOutputTokens?: number;
}

/**
 * The body as an upstream gets it: no gateway fields, its own model name, a bound on the output, and, for a streamed chat,
 * `stream_options.include_usage`, without which the stream would not say what it used.
 *
 * @param facts what `readRequest` said about exactly this body.
 */
export function forUpstream(
  surface: Surface,
  body: Buffer,
  facts: RequestFacts,
  { model, maxOutputTokens }: UpstreamOverrides,
): Buffer {
  const edits: Edits = new Map();
  const additions = new Map<string, string>();
  editGatewayFields(facts, edits, additions);
  const set = (key: string, json: string): void => {
    if (facts.members.some((member) => member.key === key)) edits.set(key, json);
    else additions.set(key, json);
  };
  if (model !== undefined) set("model", JSON.stringify(model));
  if (
    maxOutputTokens !== undefined &&
    (facts.maxOutputTokens === undefined || facts.maxOutputTokens > maxOutputTokens)
  ) {
    const given = outputBoundNames(surface).filter((key) => isNumber(body, facts.members, key));
    for (const key of given.length > 0 ? given : outputBoundNames(surface).slice(0, 1))
      set(key, String(maxOutputTokens));
  }
  if (surface === "chat" && facts.stream) {
    const given = facts.members.find((member) => member.key === "stream_options");
    const options: unknown =
      given === undefined ? null : JSON.parse(body.toString("utf8", given.start, given.end));
    set("stream_options", JSON.stringify({ ...(options as object | null), include_usage: true }));
  }
  return splice(body, facts.members, edits, additions);
}

function outputBoundNames(surface: Surface): readonly string[] {
  return surface === "chat" ? ["max_completion_tokens", "max_tokens"] : ["max_tokens"];
}

function isNumber(body: Buffer, members: readonly Member[], key: string): boolean {
  const member = members.find((candidate) => candidate.key === key);
  if (member === undefined) return false;
  const first = body[member.start] ?? 0;
  return first >= 0x30 && first <= 0x39;
}

function editGatewayFields(
  facts: RequestFacts,
  edits: Edits,
  additions: Map<string, string>,
): void {
  for (const key of facts.gatewayFields) edits.set(key, null);
  if (facts.reasoningEffort === undefined) return;
  const effort = JSON.stringify(facts.reasoningEffort);
  // A null reasoning_effort may stand beside reasoning.effort; a second one would be a duplicate key.
  if (facts.members.some(({ key }) => key === "reasoning_effort"))
    edits.set("reasoning_effort", effort);
  else additions.set("reasoning_effort", effort);
}

function splice(
  body: Buffer,
  members: readonly Member[],
  edits: Edits,
  additions: ReadonlyMap<string, string>,
): Buffer {
  if (edits.size === 0 && additions.size === 0) return body;
  const pieces: Buffer[] = [Buffer.from("{")];
  let written = 0;
  // Neighbours that stay are copied in one piece, with the white space between them.
  let runStart = -1;
  let runEnd = -1;
  const endRun = (): void => {
    if (runStart >= 0) pieces.push(body.subarray(runStart, runEnd));
    runStart = -1;
  };
  const startPiece = (): void => {
    endRun();
    if (written++ > 0) pieces.push(COMMA);
  };
  for (const { key, keyStart, start, end } of members) {
    const edit = edits.get(key);
    if (edit === undefined) {
      if (runStart < 0) {
        startPiece();
        runStart = keyStart;
      }
      runEnd = end;
    } else {
      endRun();
      if (edit === null) continue;
      startPiece();
      pieces.push(body.subarray(keyStart, start), Buffer.from(edit));
    }
  }
  for (const [key, json] of additions) {
    startPiece();
    pieces.push(Buffer.from(`${JSON.stringify(key)}:${json}`));
  }
  endRun();
  pieces.push(Buffer.from("}"));
  return Buffer.concat(pieces);
}

const COMMA = Buffer.from(",");
