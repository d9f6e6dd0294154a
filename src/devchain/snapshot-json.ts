/**
 * A chain at one block as JSON: `dev_snapshot` gives it, `dev_restore` and a new chain take it.
 *
 *   { "format": "daybreak-devchain-snapshot", "version": 1, "genesis_hash": "0x…", "block": 120, "data": "…" }
 *
 * `data` is base64 of the gzipped record that also begins the chain's own file. The two facts beside it are for the reader.
 *
 * @module
 */
import { gunzipSync, gzipSync } from "node:zlib";
import { decodeSnapshot, encodeSnapshot, type Snapshot } from "./chain-file.ts";

const FORMAT = "daybreak-devchain-snapshot";
const VERSION = 1;
/** Most bytes that a snapshot unpacks to. */
const SNAPSHOT_BYTES_MAX = 256 << 20;

export interface SnapshotJson {
  readonly format: string;
  readonly version: number;
  readonly genesis_hash: string;
  readonly block: number;
  readonly data: string;
}

export function snapshotJson(snapshot: Snapshot): SnapshotJson {
  return {
    format: FORMAT,
    version: VERSION,
    genesis_hash: snapshot.genesis.hash,
    block: snapshot.base.number,
    data: gzipSync(encodeSnapshot(snapshot)).toString("base64"),
  };
}

/** @throws Error that says what is wrong with it. */
export function readSnapshotJson(json: unknown): Snapshot {
  const { format, version, data } =
    typeof json === "object" && json !== null ? (json as Readonly<Record<string, unknown>>) : {};
  if (format !== FORMAT) throw new Error(`it is not a snapshot: "format" must be "${FORMAT}"`);
  if (version !== VERSION)
    throw new Error(`it has version ${String(version)}, and this program reads ${VERSION}`);
  try {
    const packed = Buffer.from(String(data), "base64");
    return decodeSnapshot(gunzipSync(packed, { maxOutputLength: SNAPSHOT_BYTES_MAX }));
  } catch (cause) {
    throw new Error(`its data is damaged (${(cause as Error).message})`, { cause });
  }
}
