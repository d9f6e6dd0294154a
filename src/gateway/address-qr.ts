import { renderSVG } from "uqr";

/** Pictures that are kept, of 8 kB each. Drawing one takes 6 ms of CPU, and anyone with a key may ask. */
const KEPT_MAX = 500;

/**
 * @returns a function that draws the QR code (SVG) of an address. It has the plain address and no amount: no URI with an
 * amount is understood by all TAO wallets.
 */
export function addressQrs(): (address: string) => string {
  const kept = new Map<string, string>();
  return (address) => {
    const svg = kept.get(address) ?? renderSVG(address, { ecc: "M", pixelSize: 4, border: 4 });
    kept.delete(address);
    kept.set(address, svg);
    const [oldest] = kept.keys();
    if (kept.size > KEPT_MAX && oldest !== undefined) kept.delete(oldest);
    return svg;
  };
}
