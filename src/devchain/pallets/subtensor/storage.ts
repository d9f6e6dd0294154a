import { accountId, h256 } from "../../metadata/runtime-types.ts";
import { type StorageView, storageOf } from "../../metadata/storage-item.ts";
import type { Hex } from "../../scale/bytes.ts";
import {
  bool,
  boundedBytes,
  bytes,
  type Codec,
  positiveI128,
  struct,
  tuple,
  u8,
  u16,
  u32,
  u64,
  u128,
  type ValueOf,
  variant,
  vec,
} from "../../scale/codec.ts";

/** Number of the pallet, and its crate's name. */
export const SUBTENSOR = { index: 7, name: "SubtensorModule", path: "pallet_subtensor" } as const;

/** The subnet that every chain has. It has no neurons here. */
export const ROOT_NETUID = 0;
/** 1 alpha or 1 TAO in rao. */
export const RAO_PER_TOKEN = 1_000_000_000n;

/** Defaults of the real chain, except where a comment says otherwise. */
const DEFAULT_TEMPO_BLOCKS = 360;
const DEFAULT_BURN_RAO = RAO_PER_TOKEN / 10n;
const DEFAULT_MIN_BURN_RAO = 500_000n;
const DEFAULT_MAX_BURN_RAO = 100n * RAO_PER_TOKEN;
const DEFAULT_BURN_HALF_LIFE_BLOCKS = 360;
/** 1.26 as a fixed-point number with 64 digits after the point. */
const DEFAULT_BURN_INCREASE = (126n << 64n) / 100n;
const DEFAULT_WEIGHTS_RATE_LIMIT_BLOCKS = 100n;
const DEFAULT_MIN_ALLOWED_WEIGHTS = 1_024;
const DEFAULT_MAX_ALLOWED_UIDS = 256;
const DEFAULT_MAX_ALLOWED_VALIDATORS = 64;
const DEFAULT_SERVING_RATE_LIMIT_BLOCKS = 50n;
const DEFAULT_IMMUNITY_BLOCKS = 4_096;
const COMMIT_REVEAL_VERSION = 4;
/** Longest timelocked commit. */
export const COMMIT_BYTES_MAX = 5_000;
const MAX_WEIGHTS_LIMIT = 65_535;

const DEFAULT_TOKEN_SYMBOL = "α";
const NO_KEY: Hex = `0x${"00".repeat(32)}`;

export const axonInfo = struct("pallet_subtensor::pallet::AxonInfo", {
  block: u64,
  version: u32,
  ip: u128,
  port: u16,
  ip_type: u8,
  protocol: u8,
  placeholder1: u8,
  placeholder2: u8,
});
export type AxonInfo = ValueOf<typeof axonInfo>;

export const NO_AXON: AxonInfo = {
  block: 0n,
  version: 0,
  ip: 0n,
  port: 0,
  ip_type: 0,
  protocol: 0,
  placeholder1: 0,
  placeholder2: 0,
};

/** Longest public key of a neuron's TLS certificate. */
export const CERTIFICATE_KEY_BYTES_MAX = 64;
const neuronCertificate = struct("pallet_subtensor::pallet::NeuronCertificate", {
  public_key: boundedBytes(CERTIFICATE_KEY_BYTES_MAX),
  algorithm: u8,
});

/** `I96F32`: a number times 2³². */
export const fixedI128 = struct("substrate_fixed::FixedI128", { bits: positiveI128 });
/** `U96F32`: the same. */
const fixedU128 = struct("substrate_fixed::FixedU128", { bits: u128 });
/** 1 as a fixed-point number of these. */
export const FIXED_ONE = 1n << 32n;
/** `U64F64`: a number times 2⁶⁴. */
const fixedU64 = struct("substrate_fixed::FixedU128", { bits: u128 });
export const FIXED_64_ONE = 1n << 64n;

export const subnetIdentity = struct("pallet_subtensor::pallet::SubnetIdentityV3", {
  subnet_name: bytes,
  github_repo: bytes,
  subnet_contact: bytes,
  subnet_url: bytes,
  discord: bytes,
  description: bytes,
  logo_url: bytes,
  additional: bytes,
});

/** How an epoch ranks neurons. Later versions than 425 have it, and clients of those read it; only the first one is here. */
const epochConsensus = variant("pallet_subtensor::pallet::EpochConsensus", {
  Yuma: [0],
  Null: [1],
});

const recycleOrBurn = variant("pallet_subtensor::pallet::RecycleOrBurnEnum", {
  Burn: [0],
  Recycle: [1],
});

const storage = storageOf(SUBTENSOR.name);
const netuid = ["Identity", u16] as const;
const uid = ["Identity", u16] as const;
const account = ["Blake2_128Concat", accountId] as const;

/** A hyperparameter or a figure of each subnet. */
const perSubnet = <T>(name: string, codec: Codec<T>, fallback: T) =>
  storage.map(name, [netuid], codec, fallback);
/** A vector with one element per neuron, by uid. */
const perNeuron = <T>(name: string, codec: Codec<T>) => storage.map(name, [netuid], vec(codec), []);

/** Storage of SubtensorModule, as far as a subnet's software reads it. Stake and emission are in rao of alpha. */
export const subtensor = {
  Owner: storage.map("Owner", [account], accountId, NO_KEY),
  /** Hotkeys that a coldkey has staked on. */
  StakingHotkeys: storage.map("StakingHotkeys", [account], vec(accountId), []),
  OwnedHotkeys: storage.map("OwnedHotkeys", [account], vec(accountId), []),

  TotalNetworks: storage.value("TotalNetworks", u16, 0),
  NetworksAdded: perSubnet("NetworksAdded", bool, false),
  NetworkRegisteredAt: perSubnet("NetworkRegisteredAt", u64, 0n),
  FirstEmissionBlockNumber: storage.optionalMap("FirstEmissionBlockNumber", [netuid], u64),
  SubtokenEnabled: perSubnet("SubtokenEnabled", bool, false),
  /** What its registration cost. */
  SubnetLocked: perSubnet("SubnetLocked", u64, 0n),
  SubnetOwner: perSubnet("SubnetOwner", accountId, NO_KEY),
  SubnetOwnerHotkey: perSubnet("SubnetOwnerHotkey", accountId, NO_KEY),
  SubnetIdentitiesV3: storage.optionalMap("SubnetIdentitiesV3", [netuid], subnetIdentity),
  TokenSymbol: perSubnet("TokenSymbol", bytes, Buffer.from(DEFAULT_TOKEN_SYMBOL)),
  SubnetEpochConsensus: perSubnet("SubnetEpochConsensus", epochConsensus, { type: "Yuma" }),
  SubnetworkN: perSubnet("SubnetworkN", u16, 0),
  MechanismCountCurrent: storage.map("MechanismCountCurrent", [["Twox64Concat", u16]], u8, 1),

  Uids: storage.optionalMap("Uids", [netuid, account], u16),
  Keys: storage.map("Keys", [netuid, uid], accountId, NO_KEY),
  BlockAtRegistration: storage.map("BlockAtRegistration", [netuid, uid], u64, 0n),
  Axons: storage.optionalMap("Axons", [netuid, account], axonInfo),
  NeuronCertificates: storage.optionalMap(
    "NeuronCertificates",
    [netuid, account],
    neuronCertificate,
  ),
  ValidatorPermit: perNeuron("ValidatorPermit", bool),
  Active: perNeuron("Active", bool),
  LastUpdate: perNeuron("LastUpdate", u64),
  Incentive: perNeuron("Incentive", u16),
  Dividends: perNeuron("Dividends", u16),
  Emission: perNeuron("Emission", u64),
  Bonds: storage.map("Bonds", [netuid, uid], vec(tuple(u16, u16)), []),
  Weights: storage.map("Weights", [netuid, uid], vec(tuple(u16, u16)), []),

  TotalHotkeyAlpha: storage.map("TotalHotkeyAlpha", [account, netuid], u64, 0n),
  SubnetTAO: perSubnet("SubnetTAO", u64, 0n),
  SubnetAlphaIn: perSubnet("SubnetAlphaIn", u64, 0n),
  SubnetAlphaOut: perSubnet("SubnetAlphaOut", u64, 0n),
  /** Alpha per block that the last epoch paid out. */
  SubnetAlphaOutEmission: perSubnet("SubnetAlphaOutEmission", u64, 0n),
  SubnetMovingPrice: perSubnet("SubnetMovingPrice", fixedI128, { bits: 0n }),
  /** Part of the miners' incentive that the last epoch withheld, because it was addressed to the owner. */
  MinerBurned: perSubnet("MinerBurned", fixedU128, { bits: 0n }),
  TransferToggle: perSubnet("TransferToggle", bool, true),
  RecycleOrBurn: perSubnet("RecycleOrBurn", recycleOrBurn, { type: "Burn" }),

  Tempo: perSubnet("Tempo", u16, DEFAULT_TEMPO_BLOCKS),
  Burn: perSubnet("Burn", u64, DEFAULT_BURN_RAO),
  MinBurn: perSubnet("MinBurn", u64, DEFAULT_MIN_BURN_RAO),
  MaxBurn: perSubnet("MaxBurn", u64, DEFAULT_MAX_BURN_RAO),
  /** Blocks in which the price of a registration halves; 0: it stays. */
  BurnHalfLife: perSubnet("BurnHalfLife", u16, DEFAULT_BURN_HALF_LIFE_BLOCKS),
  /** What a registration multiplies its price by. */
  BurnIncreaseMult: perSubnet("BurnIncreaseMult", fixedU64, { bits: DEFAULT_BURN_INCREASE }),
  WeightsVersionKey: perSubnet("WeightsVersionKey", u64, 0n),
  WeightsSetRateLimit: perSubnet("WeightsSetRateLimit", u64, DEFAULT_WEIGHTS_RATE_LIMIT_BLOCKS),
  CommitRevealWeightsEnabled: perSubnet("CommitRevealWeightsEnabled", bool, true),
  RevealPeriodEpochs: storage.map("RevealPeriodEpochs", [["Twox64Concat", u16]], u64, 1n),
  CommitRevealWeightsVersion: storage.value(
    "CommitRevealWeightsVersion",
    u16,
    COMMIT_REVEAL_VERSION,
  ),
  /** By storage index and epoch: hotkey, block, ciphertext, round that opens it. */
  TimelockedWeightCommits: storage.map(
    "TimelockedWeightCommits",
    [
      ["Twox64Concat", u16],
      ["Twox64Concat", u64],
    ],
    vec(tuple(accountId, u64, boundedBytes(COMMIT_BYTES_MAX), u64)),
    [],
  ),
  /** By storage index: hash, epoch, block, and a number that is not used any more. */
  WeightCommits: storage.optionalMap(
    "WeightCommits",
    [
      ["Twox64Concat", u16],
      ["Twox64Concat", accountId],
    ],
    vec(tuple(h256, u64, u64, u64)),
  ),
  MinAllowedWeights: perSubnet("MinAllowedWeights", u16, DEFAULT_MIN_ALLOWED_WEIGHTS),
  MaxWeightsLimit: perSubnet("MaxWeightsLimit", u16, MAX_WEIGHTS_LIMIT),
  MaxAllowedUids: perSubnet("MaxAllowedUids", u16, DEFAULT_MAX_ALLOWED_UIDS),
  MaxAllowedValidators: perSubnet("MaxAllowedValidators", u16, DEFAULT_MAX_ALLOWED_VALIDATORS),
  ServingRateLimit: perSubnet("ServingRateLimit", u64, DEFAULT_SERVING_RATE_LIMIT_BLOCKS),
  ImmunityPeriod: perSubnet("ImmunityPeriod", u16, DEFAULT_IMMUNITY_BLOCKS),
  StakeThreshold: storage.value("StakeThreshold", u64, 0n),

  LastEpochBlock: perSubnet("LastEpochBlock", u64, 0n),
  SubnetEpochIndex: perSubnet("SubnetEpochIndex", u64, 0n),
  PendingEpochAt: perSubnet("PendingEpochAt", u64, 0n),
  BlocksSinceLastStep: perSubnet("BlocksSinceLastStep", u64, 0n),
};

/**
 * How much of a hotkey's stake is whose. The real chain keeps shares of a pool instead, so this item is not in the
 * metadata and clients cannot come to rely on it.
 */
export const stakeOf = storageOf("DevchainStake").map(
  "StakeOf",
  [account, account, netuid],
  u64,
  0n,
);

/** Where the vectors of a mechanism are: `netuid` itself for the first one. */
export function storageIndexOf(netuid: number, mechanism: number): number {
  return netuid + 4_096 * mechanism;
}

/** Every subnet but root. */
export function subnetsOf(view: StorageView): number[] {
  const count = subtensor.TotalNetworks.get(view);
  return Array.from({ length: Math.max(0, count - 1) }, (_, i) => i + 1);
}

/** The vector with element `index` replaced; missing elements before it are `absent`. */
export function withElement<T>(list: readonly T[], index: number, value: T, absent: T): T[] {
  return Array.from({ length: Math.max(list.length, index + 1) }, (_, i) =>
    i === index ? value : (list[i] ?? absent),
  );
}
