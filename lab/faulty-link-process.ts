// The process of a FaultyLink, on its host: does what its parent says until that is gone.
import type { LinkCommand, LinkReply, LinkRequest } from "./faulty-link.ts";
import { FaultyRelay } from "./faulty-relay.ts";

const relay = new FaultyRelay();
const tell = (reply: LinkReply) => process.send!(reply);

process.on("disconnect", () => process.exit());
process.on("message", ({ id, ...command }: LinkRequest) => {
  obey(command).then(
    (answer) => tell({ id, ...answer }),
    (error: Error) => tell({ id, error: error.message }),
  );
});
tell({ address: await relay.listen() });

async function obey(command: LinkCommand) {
  switch (command.command) {
    case "leadTo":
      return relay.leadTo(command.target);
    case "setUsualDelay":
      return relay.setUsualDelay(command.ms);
    case "set":
      return relay.set(command.fault);
    case "heal":
      return relay.heal();
    case "figures":
      return { figures: relay.figures() };
  }
}
