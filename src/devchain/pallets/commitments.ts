import { accountId } from "../metadata/runtime-types.ts";
import { storageOf } from "../metadata/storage-item.ts";
import {
  boundedBytes,
  boundedVec,
  bytes,
  type Codec,
  fixedBytes,
  struct,
  tuple,
  u16,
  u32,
  u64,
  type ValueOf,
  variant,
  vec,
} from "../scale/codec.ts";
import {
  call,
  constant,
  ensure,
  entriesOf,
  type Pallet,
  palletErrors,
  palletEvents,
  signerOf,
} from "./pallet.ts";
import { subtensor } from "./subtensor/storage.ts";

const INDEX = 18;
const FIELDS_MAX = 3;
const RAW_BYTES_MAX = 128;
const BIG_RAW_BYTES_MAX = 512;
const TIMELOCKED_BYTES_MAX = 1_024;
/** Bytes that a hotkey may write in one epoch of the subnet. */
const SPACE_BYTES_PER_EPOCH = 3_100;
/** A write costs at least this many of them. */
const SPACE_BYTES_MIN = 100;

/** `Data`: Raw0…Raw128 are variants 1…129 of fixed length, BigRaw is longer. */
const data = variant("pallet_commitments::types::Data", {
  None: [0],
  ...rawVariants(),
  BlakeTwo256: [130, [fixedBytes(32)]],
  Sha256: [131, [fixedBytes(32)]],
  Keccak256: [132, [fixedBytes(32)]],
  ShaThree256: [133, [fixedBytes(32)]],
  TimelockEncrypted: [134, { encrypted: boundedBytes(TIMELOCKED_BYTES_MAX), reveal_round: u64 }],
  ResetBondsFlag: [135],
  BigRaw: [136, [boundedBytes(BIG_RAW_BYTES_MAX)]],
});

function rawVariants(): Record<`Raw${number}`, readonly [number, readonly [Codec<Uint8Array>]]> {
  const lengths = Array.from({ length: RAW_BYTES_MAX + 1 }, (_, length) => length);
  return Object.fromEntries(
    lengths.map((length) => [`Raw${length}`, [length + 1, [fixedBytes(length)]]] as const),
  );
}

const info = struct("pallet_commitments::types::CommitmentInfo", {
  fields: boundedVec(data, FIELDS_MAX),
});

const registration = struct("pallet_commitments::types::Registration", {
  deposit: u64,
  block: u32,
  info,
});

const usage = struct("pallet_commitments::types::UsageTracker", {
  last_epoch: u64,
  used_space: u64,
});

const storage = storageOf("Commitments");
const byHotkey = [
  ["Identity", u16],
  ["Twox64Concat", accountId],
] as const;
const items = {
  CommitmentOf: storage.optionalMap("CommitmentOf", byHotkey, registration),
  /** What timelocked commitments said, which this chain does not open. */
  RevealedCommitments: storage.optionalMap("RevealedCommitments", byHotkey, vec(tuple(bytes, u64))),
  LastCommitment: storage.optionalMap("LastCommitment", byHotkey, u32),
  UsedSpaceOf: storage.optionalMap("UsedSpaceOf", byHotkey, usage),
  MaxSpace: storage.value("MaxSpace", u32, SPACE_BYTES_PER_EPOCH),
};

const events = palletEvents(INDEX, { Commitment: [0, { netuid: u16, who: accountId }] });
const errors = palletErrors(INDEX, {
  TooManyFieldsInCommitmentInfo: 0,
  AccountNotAllowedCommit: 1,
  SpaceLimitExceeded: 2,
  UnexpectedUnreserveLeftover: 3,
});

/** Bytes of a field that count against the limit of an epoch. */
function spaceOf(field: ValueOf<typeof data>): number {
  if (field.value === undefined) return 0;
  const bytes = "encrypted" in field.value ? field.value.encrypted : field.value[0];
  return bytes.length;
}

export const commitmentsPallet: Pallet = {
  name: "Commitments",
  index: INDEX,
  path: "pallet_commitments",
  storage: entriesOf(items),
  calls: {
    set_commitment: call(
      0,
      { netuid: u16, info },
      {
        feeless: true,
        run(execution, origin, { netuid, info: commitment }) {
          const who = signerOf(origin);
          const registered = subtensor.Uids.get(execution, netuid, who) !== undefined;
          ensure(registered, errors.AccountNotAllowedCommit);
          const epoch = subtensor.SubnetEpochIndex.get(execution, netuid);
          const used = items.UsedSpaceOf.get(execution, netuid, who);
          const usedBytes = used?.last_epoch === epoch ? used.used_space : 0n;
          const bytes = commitment.fields.reduce((sum, field) => sum + spaceOf(field), 0);
          const spaceUsed = usedBytes + BigInt(Math.max(bytes, SPACE_BYTES_MIN));
          const spaceMax = BigInt(items.MaxSpace.get(execution));
          ensure(spaceUsed <= spaceMax, errors.SpaceLimitExceeded);
          const block = execution.number;
          items.UsedSpaceOf.put(execution, [netuid, who], {
            last_epoch: epoch,
            used_space: spaceUsed,
          });
          items.CommitmentOf.put(execution, [netuid, who], {
            deposit: 0n,
            block,
            info: commitment,
          });
          items.LastCommitment.put(execution, [netuid, who], block);
          execution.emit(events.Commitment, { netuid, who });
        },
      },
    ),
  },
  events,
  errors,
  constants: [constant("MaxFields", u32, FIELDS_MAX)],
};
