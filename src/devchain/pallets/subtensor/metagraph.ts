/** A whole subnet in one answer. */
import { accountId } from "../../metadata/runtime-types.ts";
import type { Hex } from "../../scale/bytes.ts";
import {
  bool,
  bytes,
  compact,
  compactBig,
  option,
  struct,
  tuple,
  u8,
  u16,
  u64,
  u128,
  type ValueOf,
  vec,
} from "../../scale/codec.ts";
import type { BlockView } from "../pallet.ts";
import {
  axonInfo,
  fixedI128,
  NO_AXON,
  storageIndexOf,
  subnetIdentity,
  subtensor,
} from "./storage.ts";

const c8 = compact(u8);
const c16 = compact(u16);
const c64 = compactBig(u64);

const chainIdentity = struct("pallet_subtensor::pallet::ChainIdentityV2", {
  name: bytes,
  url: bytes,
  github_repo: bytes,
  image: bytes,
  discord: bytes,
  description: bytes,
  additional: bytes,
});

/** Field order of spec version 425. Clients read it by name, from the metadata. */
export const metagraph = struct("pallet_subtensor::rpc_info::metagraph::Metagraph", {
  netuid: c16,
  name: vec(c8),
  symbol: vec(c8),
  identity: option(subnetIdentity),
  network_registered_at: c64,
  owner_hotkey: accountId,
  owner_coldkey: accountId,
  block: c64,
  tempo: c16,
  last_step: c64,
  blocks_since_last_step: c64,
  subnet_emission: c64,
  alpha_in: c64,
  alpha_out: c64,
  tao_in: c64,
  alpha_out_emission: c64,
  alpha_in_emission: c64,
  tao_in_emission: c64,
  pending_alpha_emission: c64,
  pending_root_emission: c64,
  subnet_volume: compactBig(u128),
  moving_price: fixedI128,
  rho: c16,
  kappa: c16,
  min_allowed_weights: c16,
  max_weights_limit: c16,
  weights_version: c64,
  weights_rate_limit: c64,
  activity_cutoff: c64,
  max_validators: c16,
  num_uids: c16,
  max_uids: c16,
  burn: c64,
  difficulty: c64,
  registration_allowed: bool,
  pow_registration_allowed: bool,
  immunity_period: c16,
  min_difficulty: c64,
  max_difficulty: c64,
  min_burn: c64,
  max_burn: c64,
  adjustment_alpha: c64,
  adjustment_interval: c16,
  target_regs_per_interval: c16,
  max_regs_per_block: c16,
  serving_rate_limit: c64,
  commit_reveal_weights_enabled: bool,
  commit_reveal_period: c64,
  liquid_alpha_enabled: bool,
  alpha_high: c16,
  alpha_low: c16,
  bonds_moving_avg: c64,
  hotkeys: vec(accountId),
  coldkeys: vec(accountId),
  identities: vec(option(chainIdentity)),
  axons: vec(axonInfo),
  active: vec(bool),
  validator_permit: vec(bool),
  pruning_score: vec(c16),
  last_update: vec(c64),
  emission: vec(c64),
  dividends: vec(c16),
  incentives: vec(c16),
  consensus: vec(c16),
  trust: vec(c16),
  rank: vec(c16),
  block_at_registration: vec(c64),
  alpha_stake: vec(c64),
  tao_stake: vec(c64),
  total_stake: vec(c64),
  tao_dividends_per_hotkey: vec(tuple(accountId, c64)),
  alpha_dividends_per_hotkey: vec(tuple(accountId, c64)),
});

/** Hyperparameters of what this chain does not do, as a new subnet of the real chain has them. */
const UNUSED = {
  subnet_emission: 0n,
  alpha_in_emission: 0n,
  tao_in_emission: 0n,
  pending_alpha_emission: 0n,
  pending_root_emission: 0n,
  subnet_volume: 0n,
  rho: 10,
  kappa: 32_767,
  activity_cutoff: 5_000n,
  difficulty: 10_000_000n,
  pow_registration_allowed: false,
  min_difficulty: 10_000_000n,
  max_difficulty: 4_611_686_018_427_387_903n,
  adjustment_alpha: 0n,
  adjustment_interval: 360,
  target_regs_per_interval: 2,
  max_regs_per_block: 1,
  liquid_alpha_enabled: false,
  alpha_high: 58_982,
  alpha_low: 45_875,
  bonds_moving_avg: 900_000n,
} as const;

/** @returns undefined for a subnet or a mechanism that does not exist. */
export function metagraphOf(
  view: BlockView,
  netuid: number,
  mechanism: number,
): ValueOf<typeof metagraph> | undefined {
  const exists =
    subtensor.NetworksAdded.get(view, netuid) &&
    mechanism < subtensor.MechanismCountCurrent.get(view, netuid);
  if (!exists) return undefined;
  const index = storageIndexOf(netuid, mechanism);
  const num = subtensor.SubnetworkN.get(view, netuid);
  const uids = Array.from({ length: num }, (_, uid) => uid);
  const zeros = uids.map(() => 0);
  const hotkeys = uids.map((uid) => subtensor.Keys.get(view, netuid, uid));
  const stake = hotkeys.map((hotkey) => subtensor.TotalHotkeyAlpha.get(view, hotkey, netuid));
  const dividends = subtensor.Dividends.get(view, netuid);
  const filled = <T>(values: readonly T[], absent: T) => uids.map((uid) => values[uid] ?? absent);
  const perHotkey = (value: (uid: number) => bigint): [Hex, bigint][] =>
    hotkeys.map((hotkey, uid) => [hotkey, value(uid)]);
  const emission = subtensor.Emission.get(view, netuid);
  const identity = subtensor.SubnetIdentitiesV3.get(view, netuid);
  return {
    ...UNUSED,
    netuid: index,
    name: [...(identity?.subnet_name ?? Buffer.from(`Subnet ${netuid}`))],
    symbol: [...subtensor.TokenSymbol.get(view, netuid)],
    identity,
    network_registered_at: subtensor.NetworkRegisteredAt.get(view, netuid),
    owner_hotkey: subtensor.SubnetOwnerHotkey.get(view, netuid),
    owner_coldkey: subtensor.SubnetOwner.get(view, netuid),
    block: BigInt(view.number),
    tempo: subtensor.Tempo.get(view, netuid),
    last_step: subtensor.LastEpochBlock.get(view, netuid),
    blocks_since_last_step: subtensor.BlocksSinceLastStep.get(view, netuid),
    alpha_in: subtensor.SubnetAlphaIn.get(view, netuid),
    alpha_out: subtensor.SubnetAlphaOut.get(view, netuid),
    tao_in: subtensor.SubnetTAO.get(view, netuid),
    alpha_out_emission: subtensor.SubnetAlphaOutEmission.get(view, netuid),
    moving_price: subtensor.SubnetMovingPrice.get(view, netuid),
    min_allowed_weights: subtensor.MinAllowedWeights.get(view, netuid),
    max_weights_limit: subtensor.MaxWeightsLimit.get(view, netuid),
    weights_version: subtensor.WeightsVersionKey.get(view, netuid),
    weights_rate_limit: subtensor.WeightsSetRateLimit.get(view, netuid),
    max_validators: subtensor.MaxAllowedValidators.get(view, netuid),
    num_uids: num,
    max_uids: subtensor.MaxAllowedUids.get(view, netuid),
    burn: subtensor.Burn.get(view, netuid),
    min_burn: subtensor.MinBurn.get(view, netuid),
    max_burn: subtensor.MaxBurn.get(view, netuid),
    registration_allowed: true,
    immunity_period: subtensor.ImmunityPeriod.get(view, netuid),
    serving_rate_limit: subtensor.ServingRateLimit.get(view, netuid),
    commit_reveal_weights_enabled: subtensor.CommitRevealWeightsEnabled.get(view, netuid),
    commit_reveal_period: subtensor.RevealPeriodEpochs.get(view, netuid),
    hotkeys,
    coldkeys: hotkeys.map((hotkey) => subtensor.Owner.get(view, hotkey)),
    identities: uids.map(() => undefined),
    axons: hotkeys.map((hotkey) => subtensor.Axons.get(view, netuid, hotkey) ?? NO_AXON),
    active: filled(subtensor.Active.get(view, netuid), false),
    validator_permit: filled(subtensor.ValidatorPermit.get(view, netuid), false),
    pruning_score: zeros,
    last_update: filled(subtensor.LastUpdate.get(view, index), 0n),
    emission: filled(emission, 0n),
    dividends: filled(dividends, 0),
    incentives: filled(subtensor.Incentive.get(view, index), 0),
    consensus: zeros,
    trust: zeros,
    rank: zeros,
    block_at_registration: uids.map((uid) => subtensor.BlockAtRegistration.get(view, netuid, uid)),
    alpha_stake: stake,
    tao_stake: uids.map(() => 0n),
    total_stake: stake,
    tao_dividends_per_hotkey: perHotkey(() => 0n),
    alpha_dividends_per_hotkey: perHotkey((uid) =>
      (dividends[uid] ?? 0) > 0 ? (emission[uid] ?? 0n) : 0n,
    ),
  };
}
