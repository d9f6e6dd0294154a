import type { FastifyInstance } from "fastify";

export interface ModelDeps {
  /** The answer of `GET /models`. */
  readonly modelList: () => { readonly data: readonly unknown[] };
}

/** `GET /models` and `GET /models/count`; no key needed. */
export function modelRoutes(app: FastifyInstance, deps: ModelDeps): void {
  app.get("/models", () => Promise.resolve(deps.modelList()));
  app.get("/models/count", () =>
    Promise.resolve({ data: { count: deps.modelList().data.length } }),
  );
}
