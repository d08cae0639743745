"""Shows how far every fold of a run is: which run and where, which wait, stopped or are finished."""

from pathlib import Path

from snakemake.common.configfile import load_configfile
from snakemake.exceptions import WorkflowError
from snakemake.utils import update_config

from hpaloc.arguments import Parser
from hpaloc.config import resolve
from hpaloc.fold_status import FoldStatus, fold_statuses, slurm_queue
from hpaloc.log import InputError, duration, run_program

HEADER = ("recipe", "fold", "status", "epoch", "step", "images/s", "best F1", "left", "tries", "")


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description=__doc__)
    parser.add_input(
        "--configfile",
        required=False,
        nargs="*",
        default=[],
        help="as Snakemake was given them, laid over config.yaml",
    )
    parser.add_optional_folder("--state", default="results/state", help="folder of all states")
    args = parser.parse_args(argv)

    config: dict = {}
    for path in [Path("config.yaml"), *args.configfile]:
        try:
            update_config(config, load_configfile(path))
        except (OSError, WorkflowError) as error:
            raise InputError(f"{path}: no configuration that can be read ({error}).") from error
    config = resolve(config)
    results = Path("results") / (config["run"] or "")
    statuses = fold_statuses(config, results, args.state, slurm_queue(Path.cwd()))
    rows = [HEADER, *map(cells, statuses)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print(line.rstrip())
    print(", ".join(counts(statuses)))


def cells(of: FoldStatus) -> tuple[str, ...]:
    """A row of the table; ``-`` where nothing is known. Epochs are finished ones."""
    told = of.progress
    epoch = step = rate = best = left = "-"
    if told:
        epoch = f"{told['epoch']} of {told['epochs']}"
        step = (
            f"{told['step'] - told['epoch'] * told['steps_per_epoch']} of {told['steps_per_epoch']}"
        )
        if told["images_per_s"]:
            rate = f"{told['images_per_s']:.1f}"
        if told["best_macro_f1"] is not None:
            best = f"{told['best_macro_f1']:.4f}"
        if told["at_most_s_left"]:
            left = duration(told["at_most_s_left"])
    if told.get("finished"):
        step = "-"
    tries = str(of.attempts) if of.attempts else "-"
    return (of.recipe, str(of.fold), of.status, epoch, step, rate, best, left, tries, of.where)


def counts(statuses: list[FoldStatus]) -> list[str]:
    """``2 finished``, ``1 running`` …, in the order of their first fold."""
    names = [one.status for one in statuses]
    return [f"{names.count(name)} {name}" for name in dict.fromkeys(names)]


if __name__ == "__main__":
    run_program(main)
