/**
 * Collects what is asked for in one turn of the event loop and does it together at the end of that turn: alone when
 * nothing else is going on, and in larger batches the busier the process is. Nothing waits for a timer.
 *
 * @param work gets 1 to `itemsMax` items and returns their results in order. What it throws, every caller gets.
 */
export function turnBatch<Item, Result>(
  itemsMax: number,
  work: (items: readonly Item[]) => readonly Result[],
): (item: Item) => Promise<Result> {
  interface Waiting {
    readonly item: Item;
    readonly resolve: (result: Result) => void;
    readonly reject: (error: unknown) => void;
  }
  let waiting: Waiting[] = [];

  const doAll = (): void => {
    const all = waiting;
    waiting = [];
    for (let from = 0; from < all.length; from += itemsMax) {
      const batch = all.slice(from, from + itemsMax);
      try {
        const results = work(batch.map(({ item }) => item));
        batch.forEach(({ resolve }, i) => {
          resolve(results[i] as Result);
        });
      } catch (error) {
        for (const { reject } of batch) reject(error);
      }
    }
  };

  return (item) =>
    new Promise((resolve, reject) => {
      if (waiting.length === 0) setImmediate(doAll);
      waiting.push({ item, resolve, reject });
    });
}
