/** Stands in every token of a simulated TEE, so that nobody who reads one can mistake it. */
export const SIMULATED_NOTICE = "SIMULATED – NO CONFIDENTIALITY";

/** What a simulated TEE signs, as `simulated-tee+jwt`. */
export interface SimulatedTeeToken {
  /** 64 bytes, 128 lower-case hex digits. */
  readonly report_data: string;
  readonly image: string;
  readonly config: string;
  readonly notice: typeof SIMULATED_NOTICE;
  /** Unix seconds. */
  readonly iat: number;
  readonly exp: number;
}

/** Seconds for which a token is valid: the ten minutes after which hardware evidence is stale too. */
export const SIMULATED_TOKEN_LIFE_SECONDS = 600;
