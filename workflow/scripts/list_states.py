"""Lists the states of training that no recipe of the configuration refers to; removes them if asked."""

import logging

from hpaloc.arguments import Parser
from hpaloc.log import InputError, run_program
from hpaloc.state import remove_state, size_of, stale_states

log = logging.getLogger("hpaloc")


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description=__doc__)
    parser.add_optional_folder("--state", required=True, help="folder of all states")
    parser.add_argument("--run", required=True, help="states of other runs are left alone")
    parser.add_json(
        "--current",
        help='what the configuration trains: [{"name", "fold", "recipe", "code", …}, …] as JSON',
    )
    parser.add_argument("--remove", action="store_true", help="remove them")
    args = parser.parse_args(argv)

    stale = stale_states(args.state, "train_fold", args.run, args.current)
    removed = 0
    for folder, why in stale:
        log.info("%s: %.1f MB, %s", folder, size_of(folder) / 1e6, why)
        if args.remove:
            try:
                remove_state(folder)
                removed += 1
            except InputError as error:
                log.warning("not removed: %s", error)
    done = f"{removed} removed" if args.remove else "remove_stale_states removes them"
    log.info("%d stale states of run %r; %s", len(stale), args.run, done)


if __name__ == "__main__":
    run_program(main)
