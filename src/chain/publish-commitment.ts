import { createHash } from "node:crypto";
import type { Hotkey, Netuid } from "../core/ids.ts";
import type { Keypair } from "./keys.ts";
import type { Inclusion } from "./outbox.ts";
import type { Subtensor } from "./subtensor.ts";

/**
 * Replaces the commitment of the signer's hotkey, at most once for what it replaces: after a restart the call that was
 * under way is found instead of sent again.
 *
 * @throws ChainError as `submitOnce`
 */
export async function publishCommitment(
  chain: Pick<Subtensor, "commitmentOf" | "submitOnce">,
  netuid: Netuid,
  signer: Keypair,
  fields: readonly Uint8Array[],
): Promise<Inclusion> {
  const replaced = await chain.commitmentOf(netuid, signer.address as Hotkey);
  const digest = createHash("sha256");
  for (const field of fields) digest.update(`${field.length} `).update(field);
  const purpose = [
    "commitment",
    netuid,
    signer.address,
    `after-block-${replaced?.block ?? 0}`,
    digest.digest("hex"),
  ].join("/");
  return await chain.submitOnce(purpose, { kind: "set_commitment", netuid, fields }, signer);
}
