"""Uses a local chain through the Python SDK as a miner's and a validator's software does. Argument: the chain's ws:// address."""

import asyncio
import json
import sys
import urllib.request

import bittensor as bt
from bittensor import calls
from bittensor.keyfiles import Keypair

URL = sys.argv[1]
TAO = 10**9


class Keys:
    """A wallet whose keys are in memory."""

    def __init__(self, coldkey: str, hotkey: str):
        self.name = coldkey
        self.coldkey = self.coldkeypub = Keypair.create_from_uri(coldkey)
        self.hotkey = Keypair.create_from_uri(hotkey)


OWNER = Keys("//Alice", "//Alice/owner")
VALIDATOR = Keys("//Alice", "//Alice/validator")
MINER = Keys("//Bob", "//Bob/miner")


def dev(method: str, *params):
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
    request = urllib.request.Request(
        URL.replace("ws:", "http:"), body, {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request) as response:
        return json.load(response)["result"]


def same(what: str, got, wanted) -> None:
    if got != wanted:
        raise SystemExit(f"{what}: {got!r}, not {wanted!r}")
    print(f"ok: {what}: {got!r}")


def succeeded(what: str, result) -> None:
    same(what, (result.success, result.message), (True, "Success"))


async def register(client: bt.Client, netuid: int, keys: Keys) -> None:
    # The SDK's own intent sends registrations encrypted only, to a pallet that a local chain has no use for.
    call = calls.SubtensorModule.register_limit(
        netuid=netuid, hotkey=keys.hotkey.ss58_address, limit_price=TAO
    )
    succeeded("register", await client.submit_call(call, keys))


async def main() -> None:
    async with bt.Client(URL) as client:
        same("seconds per block", await client.block_time(), 0.25)

        before = await client.balances.get(MINER.coldkey.ss58_address)
        transfer = bt.Transfer(dest_ss58=MINER.coldkey.ss58_address, amount_tao=5)
        succeeded("transfer", await client.execute(transfer, OWNER))
        after = await client.balances.get(MINER.coldkey.ss58_address)
        same("rao received", after.rao - before.rao, 5 * TAO)

        subnet = await client.execute(bt.RegisterSubnet(), OWNER)
        netuid = subnet.data.get("netuid")
        same("register a subnet", (subnet.success, netuid), (True, 1))
        for keys in (VALIDATOR, MINER):
            await register(client, netuid, keys)
        refused = calls.SubtensorModule.register_limit(
            netuid=netuid, hotkey=MINER.hotkey.ss58_address, limit_price=TAO
        )
        again = await client.submit_call(refused, MINER)
        same("registered twice", again.message, "HotKeyAlreadyRegisteredInSubNet")

        stake = bt.AddStake(
            netuid=netuid, hotkey_ss58=VALIDATOR.hotkey.ss58_address, amount_tao=1
        )
        succeeded("add stake", await client.execute(stake, VALIDATOR))

        graph = await client.subnets.metagraph(netuid)
        hotkeys = [neuron.hotkey for neuron in graph.neurons]
        same("hotkeys", hotkeys, [k.hotkey.ss58_address for k in (OWNER, VALIDATOR, MINER)])
        staked = graph.neurons[1].alpha_stake.rao
        same("the validator has stake and permit", (staked > 0, graph.neurons[1].validator_permit), (True, True))
        neurons = await client.neurons.all(netuid)
        same("neurons", [n.hotkey for n in neurons], hotkeys)
        rules = await client.read("subnet_hyperparameters", netuid=netuid)
        same("tempo", rules["tempo"], graph.tempo)

        dev("dev_newBlock", {"count": 100})
        weights = bt.SetWeights(netuid=netuid, uids=[0, 2], weights=[0.25, 0.75])
        succeeded("set weights", await client.execute(weights, VALIDATOR))
        row = await client.query(("SubtensorModule", "Weights"), [netuid, 1])
        same("weights", [tuple(entry) for entry in row], [(0, 21845), (2, 65535)])


asyncio.run(main())
