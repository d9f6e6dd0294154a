/** The shapes in which a model can be asked, and where each is served. */
export const SURFACES = {
  chat: { path: "/chat/completions", name: "OpenAI chat completions" },
  messages: { path: "/messages", name: "Anthropic messages" },
} as const satisfies Record<string, { path: string; name: string }>;

export type Surface = keyof typeof SURFACES;

export function isSurface(value: unknown): value is Surface {
  return typeof value === "string" && Object.hasOwn(SURFACES, value);
}
