"""Fetches the ImageNet weights of a network from timm's hub. Needs the network once."""

import argparse
import logging
from pathlib import Path

from hpaloc.files import write_digest
from hpaloc.log import run_program
from hpaloc.pretrained import fetch_weights

log = logging.getLogger("hpaloc")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", required=True, help="name of a SE-ResNeXt of timm")
    parser.add_argument("--weights", required=True, type=Path, help="output (safetensors)")
    parser.add_argument("--digest", required=True, help="output: its sha256")
    args = parser.parse_args(argv)

    where = fetch_weights(args.network, args.weights)
    write_digest(args.weights, args.digest)
    log.info("%s from %s", args.weights, where)


if __name__ == "__main__":
    run_program(main)
