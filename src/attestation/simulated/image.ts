import { createHash } from "node:crypto";

/**
 * The image that simulated TEEs measure. Nothing is measured in a process without an enclave, so this is one constant:
 * a policy for a local network lists it, and no policy for a public network ever can.
 */
export const SIMULATED_IMAGE = `sha256:${createHash("sha256").update("daybreak/simulated-image/v1").digest("hex")}`;
