"""Renders a source of simulated cells: image files, index, digest and the resolved settings."""

from hpaloc.arguments import Parser, positive
from hpaloc.files import write_digest, write_json
from hpaloc.index import write_index
from hpaloc.log import run_program
from hpaloc.provenance import record
from hpaloc.simulate.source import LABEL_TABLE, check_settings, make_source
from hpaloc.simulate.version import STAMP, VERSION


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("--name", required=True, help="name of the source in the index")
    parser.add_json("--settings", help="settings as JSON")
    parser.add_output_folder("--raw", help="folder of the image files")
    parser.add_output("--index", help="index to write (Parquet)")
    parser.add_output("--digest", help="sha256 of the index to write")
    parser.add_output("--settings-out", help="settings.json to write")
    parser.add_argument("--workers", type=positive, default=1, help="processes that render")
    args = parser.parse_args(argv)

    check_settings(args.settings)
    # An index must never stand beside images of other settings, not even after a kill.
    stamp = args.raw / STAMP
    for path in (args.index, args.digest, args.settings_out, stamp):
        path.unlink(missing_ok=True)
    write_index(make_source(args.name, args.settings, args.raw, args.workers), args.index)
    write_digest(args.index, args.digest)
    about = {"kind": "simulated", "root": ".", "simulated": True, "labelled": True}
    write_json(about | {"settings": args.settings | {"version": VERSION}}, args.settings_out)
    stamp.write_text(f"{VERSION}\n", encoding="utf-8")
    record(
        args,
        [args.index, args.digest, args.settings_out, stamp, *args.raw.glob(LABEL_TABLE)],
        listed_in=args.index,
    )


if __name__ == "__main__":
    run_program(main)
