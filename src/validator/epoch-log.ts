import type { LogRoot } from "../core/commitment.ts";
import type { EnclaveId } from "../core/ids.ts";
import { CATALOGUE_VERSION } from "../core/models.ts";
import type { SignedQuote } from "../core/quote.ts";
import type { EpochFile } from "../usage-log/epoch-file.ts";
import { LogError, type LogErrorCode, type LogReader } from "../usage-log/reader.ts";
import type { Edge } from "../usage-log/tree.ts";
import { referencesOf, type VerifiedEnclave } from "./audit-epoch.ts";

/** Leaves that one epoch may have; more is not read. */
const LEAVES_PER_EPOCH_MAX = 1_000_000n;
/** Side files fetched at the same time. */
const FETCHES_MAX = 8;
/** Enclaves, and quotes, that one epoch may refer to; leaves that need more are refused. */
const SIDE_FILES_MAX = 20_000;

/** Why nothing in an epoch's log counts. */
export type LogRefusal =
  | LogErrorCode
  | "log_shrank"
  | "overlapping_epochs"
  | "other_catalogue"
  | "too_many_leaves";

/** An epoch's part of the log, whose root is the one on the chain. Its leaves are not checked yet. */
export interface EpochLog {
  readonly file: EpochFile;
  /** Leaves before `file.first` that no earlier root on the chain covered: their epoch's root was missing. */
  readonly lateCount: number;
  readonly leaves: readonly Uint8Array[];
  /** Right edge of the tree at the epoch's end. */
  readonly edge: Edge;
}

/**
 * Reads what an epoch added to the log, from the last edge whose root was on the chain.
 *
 * The leaves are fetched and hashed on top of `previous`, so an accepted root proves that the log only grew.
 *
 * @param previous undefined for a validator's first epoch: then the log's own tiles give the edge, which the root proves.
 * @returns a refusal when the log contradicts the chain or itself.
 * @throws when the log cannot be reached: the caller tries again.
 */
export async function readEpochLog(
  reader: LogReader,
  committed: LogRoot,
  previous: Edge | undefined,
): Promise<({ ok: true } & EpochLog) | { ok: false; refusal: LogRefusal }> {
  try {
    return await readOrThrow(reader, committed, previous);
  } catch (error) {
    if (error instanceof LogError) return { ok: false, refusal: error.code };
    throw error;
  }
}

async function readOrThrow(
  reader: LogReader,
  { epoch, size, root, sums }: LogRoot,
  previous: Edge | undefined,
): Promise<({ ok: true } & EpochLog) | { ok: false; refusal: LogRefusal }> {
  const checkpoint = await reader.checkpoint();
  if (checkpoint.size < size) return { ok: false, refusal: "checkpoint_behind_root" };
  if (checkpoint.size === size && Buffer.compare(checkpoint.root, root) !== 0)
    return { ok: false, refusal: "root_mismatch" };
  const file = await reader.epochFile(epoch, sums);
  if (file.size !== size || Buffer.compare(file.root, root) !== 0 || file.first > size)
    return { ok: false, refusal: "epoch_file_mismatch" };
  if (file.catalogue !== CATALOGUE_VERSION) return { ok: false, refusal: "other_catalogue" };
  const from = previous?.size ?? file.first;
  if (size < from) return { ok: false, refusal: "log_shrank" };
  if (file.first < from) return { ok: false, refusal: "overlapping_epochs" };
  if (size - from > LEAVES_PER_EPOCH_MAX) return { ok: false, refusal: "too_many_leaves" };
  const start = previous ?? (await reader.edgeAt(from));
  const { leaves, edge } = await reader.appendedSince(start, size, root);
  return { ok: true, file, lateCount: Number(file.first - from), leaves, edge };
}

/**
 * Fetches what leaves refer to: evidence, verified as it arrives, and quotes.
 * A file that is missing or malformed is left out, and the leaves that need it are refused.
 *
 * @throws when the log cannot be reached.
 */
export async function readSideFiles(
  reader: LogReader,
  leaves: readonly Uint8Array[],
  verifyEnclave: (id: EnclaveId, evidence: string) => Promise<VerifiedEnclave | undefined>,
): Promise<{
  enclaves: ReadonlyMap<EnclaveId, VerifiedEnclave>;
  quotes: ReadonlyMap<string, SignedQuote>;
}> {
  const references = referencesOf(leaves);
  const enclaves = new Map<EnclaveId, VerifiedEnclave>();
  const quotes = new Map<string, SignedQuote>();
  await eachOf(references.enclaves, async (id) => {
    const evidence = await sideOf(reader, "evidence", id);
    const enclave = evidence === undefined ? undefined : await verifyEnclave(id, evidence);
    if (enclave !== undefined) enclaves.set(id, enclave);
  });
  await eachOf(references.quotes, async (hash) => {
    const quote = signedQuoteFromJson(await sideOf(reader, "quote", hash));
    if (quote !== undefined) quotes.set(hash, quote);
  });
  return { enclaves, quotes };
}

async function sideOf(
  reader: LogReader,
  kind: "evidence" | "quote",
  name: string,
): Promise<string | undefined> {
  try {
    return await reader.side(kind, name);
  } catch (error) {
    if (error instanceof LogError) return undefined;
    throw error;
  }
}

async function eachOf<T>(names: ReadonlySet<T>, read: (name: T) => Promise<void>): Promise<void> {
  const bounded = [...names].slice(0, SIDE_FILES_MAX);
  for (let at = 0; at < bounded.length; at += FETCHES_MAX)
    await Promise.all(bounded.slice(at, at + FETCHES_MAX).map(read));
}

function signedQuoteFromJson(text: string | undefined): SignedQuote | undefined {
  let json: unknown;
  try {
    json = JSON.parse(text ?? "");
  } catch {
    return undefined;
  }
  if (typeof json !== "object" || json === null) return undefined;
  const { quote, sig } = json as Record<string, unknown>;
  return typeof quote === "string" && typeof sig === "string" ? { quote, sig } : undefined;
}
