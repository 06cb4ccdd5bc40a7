// Loaded into a program under test: with each SIGUSR2 its clock jumps by a day, back and forth. The monotonic clock does not.
const DAY_MS = 86_400_000;
const RealDate = Date;
let jumpMs = 0;

process.on("SIGUSR2", () => {
  jumpMs = jumpMs === 0 ? -DAY_MS : 0;
});

globalThis.Date = new Proxy(RealDate, {
  construct: (target, args) =>
    args.length === 0 ? new target(target.now() + jumpMs) : Reflect.construct(target, args),
  get: (target, key) => (key === "now" ? () => target.now() + jumpMs : Reflect.get(target, key)),
});
