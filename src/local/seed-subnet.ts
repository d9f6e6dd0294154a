import { type Keypair, keypairOf } from "../chain/keys.ts";
import type { Subtensor } from "../chain/subtensor.ts";
import type { Hotkey, Netuid } from "../core/ids.ts";
import { NANO, type Rao, rao } from "../core/money.ts";
import type { NetworkSecrets } from "./network-file.ts";

/** What a coldkey gets from the owner when it has less: enough to register and, for a validator, to stake. */
const MINER_RAO = rao(10n * NANO);
const VALIDATOR_RAO = rao(1_000n * NANO);
const VALIDATOR_STAKE_RAO = rao(100n * NANO);

/**
 * Registers the subnet, its miners and its validators by signed extrinsics, as far as they are not registered yet.
 *
 * @returns the subnet's number.
 */
export async function seedSubnet(chain: Subtensor, secrets: NetworkSecrets): Promise<Netuid> {
  const ownerColdkey = keypairOf(secrets.owner.coldkey);
  const ownerHotkey = keypairOf(secrets.owner.hotkey).address as Hotkey;
  const netuid =
    (await ownSubnet(chain, ownerHotkey)) ??
    (await registerSubnet(chain, ownerColdkey, ownerHotkey));
  const metagraph = await chain.metagraph(netuid);
  const registered = new Set<string>(metagraph.neurons.map((neuron) => neuron.hotkey));
  const neurons = [
    ...secrets.miners.map((secret) => ({ secret, needsRao: MINER_RAO, stakes: false })),
    ...secrets.validators.map((secret) => ({ secret, needsRao: VALIDATOR_RAO, stakes: true })),
  ]
    .map(({ secret, ...rest }) => ({
      coldkey: keypairOf(secret.coldkey),
      hotkey: keypairOf(secret.hotkey).address as Hotkey,
      ...rest,
    }))
    .filter(({ hotkey }) => !registered.has(hotkey));
  if (neurons.length === 0) return netuid;
  await chain.submit(
    {
      kind: "batch_all",
      calls: neurons.map(({ coldkey, needsRao }) => transfer(coldkey.address, needsRao)),
    },
    ownerColdkey,
  );
  await Promise.all(
    neurons.map(async ({ coldkey, hotkey, stakes }) => {
      await chain.submit({ kind: "burned_register", netuid, hotkey }, coldkey);
      if (stakes)
        await chain.submit(
          { kind: "add_stake", netuid, hotkey, rao: VALIDATOR_STAKE_RAO },
          coldkey,
        );
    }),
  );
  return netuid;
}

function transfer(to: string, amount: Rao) {
  return { kind: "transfer", to, rao: amount } as const;
}

async function ownSubnet(chain: Subtensor, ownerHotkey: Hotkey): Promise<Netuid | undefined> {
  return (await chain.subnets()).find((subnet) => subnet.ownerHotkey === ownerHotkey)?.netuid;
}

async function registerSubnet(
  chain: Subtensor,
  ownerColdkey: Keypair,
  hotkey: Hotkey,
): Promise<Netuid> {
  await chain.submit({ kind: "register_network", hotkey }, ownerColdkey);
  const netuid = await ownSubnet(chain, hotkey);
  if (netuid === undefined)
    throw new Error("the chain accepted register_network but lists no subnet of ours");
  return netuid;
}
