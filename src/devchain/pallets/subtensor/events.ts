import { accountId, dispatchError, h256 } from "../../metadata/runtime-types.ts";
import { compact, u16, u64, vec } from "../../scale/codec.ts";
import { palletErrors, palletEvents } from "../pallet.ts";
import { SUBTENSOR } from "./storage.ts";

/** Numbers of spec version 425. They drift between versions: clients match events and errors by name. */
export const subtensorEvents = palletEvents(SUBTENSOR.index, {
  /** netuid, mechanism */
  NetworkAdded: [0, [u16, u16]],
  /** coldkey, hotkey, TAO, alpha, netuid, fee */
  StakeAdded: [2, [accountId, accountId, u64, u64, u16, u64]],
  StakeRemoved: [3, [accountId, accountId, u64, u64, u16, u64]],
  /** storage index, uid */
  WeightsSet: [5, [u16, u16]],
  /** netuid, uid, hotkey */
  NeuronRegistered: [6, [u16, u16, accountId]],
  /** netuid, hotkey */
  AxonServed: [28, [u16, accountId]],
  /** hotkey, storage index, hash */
  WeightsCommitted: [85, [accountId, u16, h256]],
  WeightsRevealed: [86, [accountId, u16, h256]],
  /** hotkey, netuid, hashes */
  WeightsBatchRevealed: [87, [accountId, u16, vec(h256)]],
  /** netuids, hotkey */
  BatchWeightsCompleted: [88, [vec(compact(u16)), accountId]],
  BatchCompletedWithErrors: [89, []],
  /** netuid, error */
  BatchWeightItemFailed: [90, [u16, dispatchError]],
  /** from coldkey, to coldkey, hotkey, from netuid, to netuid, TAO equivalent */
  StakeTransferred: [91, [accountId, accountId, accountId, u16, u16, u64]],
  /** netuid, block */
  FirstEmissionBlockNumberSet: [95, [u16, u64]],
  /** hotkey, storage index, hash of the ciphertext, round */
  TimelockedWeightsCommitted: [107, [accountId, u16, h256, u64]],
  /** storage index, hotkey */
  TimelockedWeightsRevealed: [108, [u16, accountId]],
  /** alpha in rao by uid, what is burned included */
  IncentiveAlphaEmittedToMiners: [110, { netuid: u16, emissions: vec(u64) }],
});

export const subtensorErrors = palletErrors(SUBTENSOR.index, {
  InvalidIpType: 1,
  InvalidIpAddress: 2,
  InvalidPort: 3,
  HotKeyNotRegisteredInSubNet: 4,
  HotKeyAccountNotExists: 5,
  HotKeyNotRegisteredInNetwork: 6,
  NonAssociatedColdKey: 7,
  NotEnoughStakeToWithdraw: 9,
  NotEnoughStakeToSetWeights: 10,
  NotEnoughBalanceToStake: 12,
  NeuronNoValidatorPermit: 15,
  WeightVecNotEqualSize: 16,
  DuplicateUids: 17,
  UidVecContainInvalidOne: 18,
  WeightVecLengthIsLow: 19,
  HotKeyAlreadyRegisteredInSubNet: 21,
  MaxWeightExceeded: 26,
  SettingWeightsTooFast: 29,
  IncorrectWeightVersionKey: 30,
  ServingRateLimitExceeded: 31,
  UidsLengthExceedUidsInSubNet: 32,
  RegistrationNotPermittedOnRootSubnet: 42,
  CanNotSetRootNetworkWeights: 47,
  NoNeuronIdAvailable: 48,
  NoWeightsCommitFound: 51,
  InvalidRevealCommitHashNotMatch: 52,
  CommitRevealEnabled: 53,
  CommitRevealDisabled: 54,
  MechanismDoesNotExist: 74,
  SubnetNotExists: 76,
  TooManyUnrevealedCommits: 77,
  ExpiredWeightCommit: 78,
  RevealTooEarly: 79,
  InputLengthsUnequal: 80,
  CommittingWeightsTooFast: 81,
  AmountTooLow: 82,
  InsufficientLiquidity: 83,
  SlippageTooHigh: 84,
  TransferDisallowed: 85,
  FirstEmissionBlockNumberAlreadySet: 88,
  IncorrectCommitRevealVersion: 110,
  InvalidRevealRound: 111,
  CannotAffordLockCost: 116,
  RegistrationPriceLimitExceeded: 136,
});

/**
 * The pool's number for an error that a guard finds before a call is in a block: `Custom error: N`.
 * Everything that is not here is 255, BadRequest.
 *
 * @see subtensor, common/src/transaction_error.rs
 */
const CUSTOM_ERRORS: Readonly<Record<string, number>> = {
  AmountTooLow: 1,
  NotEnoughStakeToSetWeights: 1,
  NotEnoughBalanceToStake: 2,
  SubnetNotExists: 3,
  SettingWeightsTooFast: 6,
  HotKeyNotRegisteredInNetwork: 10,
  InvalidIpAddress: 11,
  ServingRateLimitExceeded: 12,
  InvalidPort: 13,
  InvalidRevealRound: 15,
  NoWeightsCommitFound: 16,
  InvalidRevealCommitHashNotMatch: 16,
  ExpiredWeightCommit: 17,
  RevealTooEarly: 17,
  InputLengthsUnequal: 18,
  HotKeyNotRegisteredInSubNet: 19,
};
const BAD_REQUEST = 255;

export function customErrorOf(errorName: string): number {
  return CUSTOM_ERRORS[errorName] ?? BAD_REQUEST;
}
