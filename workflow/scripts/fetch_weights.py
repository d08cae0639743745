"""Fetches the ImageNet weights of a network from timm's hub. Needs the network once."""

from hpaloc.arguments import Parser
from hpaloc.files import write_digest
from hpaloc.log import run_program
from hpaloc.pretrained import fetch_weights, read_pin
from hpaloc.provenance import record


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("--network", required=True, help="name of a SE-ResNeXt of timm")
    parser.add_output_folder("--downloads", help="folder of what is fetched")
    parser.add_output("--weights", help="output (safetensors)")
    parser.add_output("--digest", help="output: its sha256")
    parser.add_argument("--revision", help="commit on the hub, instead of the pinned one")
    args = parser.parse_args(argv)

    pin = read_pin(args.network)
    if args.revision is not None:
        pin = pin._replace(revision=args.revision, sha256="")
    fetch_weights(pin, args.downloads, args.weights)
    write_digest(args.weights, args.digest)
    record(args, [args.weights, args.digest])


if __name__ == "__main__":
    run_program(main)
