"""Images a second in training and prediction, beside the limit of the device and a baseline.

For each network and size of the image, in one run on one device:

- training: the real loop from arrays on the disk; its step on a batch that lies on the device;
- the baseline of training, as a good engineer writes it in an afternoon. Both flip images and do
  nothing else to them, in turns;
- the forward pass alone: batch norm folded, 16 bits, compiled;
- prediction from arrays with four augmented views, as the workflow predicts; and with one plain
  view, in turns with a baseline of prediction;
- one image, one view, in a batch of its own: from an array, and from the atlas's four JPG files.

`--full` adds the paper's recipe (SE-ResNeXt-101, 224 px from 512 px arrays, its augmentation), and
`--together` two trainings at once on one GPU. The table is written after every case. What the
memory does not hold is said in its row, and the others go on.

    python benchmarks/train_step.py --full --together --out benchmarks/train_step.md
"""

import argparse
import copy
import datetime
import gc
import itertools
import json
import logging
import multiprocessing
import os
import platform
import shlex
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.metadata import version
from multiprocessing.connection import wait
from pathlib import Path
from statistics import median
from threading import BrokenBarrierError
from typing import Any

import cv2
import numpy as np
import torch
from machine import cpu_model
from made_images import make_images
from recipes import FLIPS, paper_recipe
from torch.utils.data import DataLoader, Dataset
from warnings_said import warnings_that_begin

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "workflow" / "scripts"))

from limits import Limits, bounds, measure_limits, sizes_of

from hpaloc import schedule
from hpaloc.backends import ready
from hpaloc.checkpoint import Checkpoint
from hpaloc.classes import CHANNELS
from hpaloc.compute import Compute, choose_compute, describe
from hpaloc.device_batches import to_device
from hpaloc.feed import Batch, view_batches
from hpaloc.files import write_text
from hpaloc.fold_data import FoldData
from hpaloc.gpu_lock import claim_gpus
from hpaloc.gpu_memory import is_shortage
from hpaloc.log import InputError, run_program
from hpaloc.network import build_network
from hpaloc.predict import mean_probabilities, probabilities
from hpaloc.ranks import ALONE
from hpaloc.speed import read_file
from hpaloc.training import Setup, set_up, train_epoch, train_step

WARM_UP_STEPS = 4
PAPER_VIEWS = {"kind": "augmentation", "views": 4}
# Images in a batch, by the size of images up to which it holds: what an 80-GB card has room for,
# the baseline's copies of everything included.
BATCHES = {224: 64, 512: 32}
LARGE_BATCH = 16
NO_ROOM = "does not fit"

# Images a second (of one image alone: milliseconds) of all repeats, or why there are none, by what
# was measured.
Found = dict[str, list[float] | str]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--networks", nargs="+", default=["seresnext50_32x4d"])
    parser.add_argument("--sizes", nargs="+", type=int, default=[224, 512, 1024])
    parser.add_argument(
        "--batch-size", type=int, help="images; by their size if not given: 64, 32 or 16"
    )
    parser.add_argument("--images", type=int, default=1024, help="different images on the disk")
    parser.add_argument("--repeats", type=int, default=5, help="measurements of each")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--gpus", type=int, default=1, help="0: the CPU")
    parser.add_argument("--full", action="store_true", help="the paper's recipe too")
    parser.add_argument("--eager", action="store_true", help="nothing is compiled")
    parser.add_argument("--only", nargs="+", default=[""], help="beginnings of names of rows")
    parser.add_argument("--atlas", type=Path, help="folder of one image's four JPG files")
    parser.add_argument("--together", action="store_true", help="two trainings at once too")
    parser.add_argument("--out", help="table to write (Markdown)")
    parser.add_argument("--json", help="every single measurement")
    arguments = parser.parse_args(argv)
    command = shlex.join(["python", "benchmarks/train_step.py", *(argv or sys.argv[1:])])
    if arguments.atlas:
        atlas_files(arguments.atlas)  # now, and not after an hour
    claim_gpus(arguments.gpus)  # it says so where it has to wait
    logging.getLogger("hpaloc").setLevel(logging.WARNING)

    paper = paper_recipe()
    compute = choose_compute("auto", arguments.workers, arguments.gpus)
    try:
        limits = measure_limits(compute)
    except Exception as error:
        if not is_shortage(error):
            raise
        raise InputError(
            "the GPU has too little free memory to measure what it can do at most. Something else"
            " uses it: nvidia-smi names its processes. Run again when they have ended."
        ) from None
    cases = [
        (f"{name}, {size} px", paper | {"network": name, "image_size": size, "augmentation": FLIPS})
        for name, size in itertools.product(arguments.networks, arguments.sizes)
    ]
    if arguments.full:
        cases.append(("the paper's recipe", paper))
    results: dict[str, dict[str, Any]] = {}
    for name, recipe in cases:
        batch_size = arguments.batch_size or batch_for(recipe["image_size"])
        recipe = recipe | {"batch_size": batch_size, "pretrained": None}
        if arguments.eager:
            recipe["compile"] = False
        side = max(512, recipe["image_size"]) if arguments.gpus else recipe["image_size"]
        with tempfile.TemporaryDirectory() as folder:
            arrays, files = make_images(Path(folder), arguments.images, side)
            data = fold_of(arrays, arguments.workers)
            found = measure(recipe, data, files, compute, paper, arguments)
            free_memory()
            if arguments.together:
                found["training, two folds at once"] = together(recipe, data, arguments)
        results[name] = {
            "batch_size": batch_size,
            "found": found,
            "limits": bounds(build_network(recipe), recipe, limits),
        }
        show(name, found)
        if arguments.out:
            write_text(report(results, limits, compute, arguments, command), arguments.out)
        if arguments.json:
            write_text(json.dumps(results, indent=1), arguments.json)
    print(report(results, limits, compute, arguments, command))


def batch_for(size: int) -> int:
    """Images in a batch, by their pixels per side."""
    return next((count for most, count in BATCHES.items() if size <= most), LARGE_BATCH)


def atlas_files(folder: Path) -> list[Path]:
    """The JPG files of an image's four channels."""
    found = {channel: sorted(folder.glob(f"*{channel}.jpg")) for channel in CHANNELS}
    if missing := [channel for channel, files in found.items() if not files]:
        raise InputError(
            f"{folder}: no file *{missing[0]}.jpg. --atlas names a folder with an image's four JPG"
            f" files, which end in {', '.join(CHANNELS)}."
        )
    return [files[0] for files in found.values()]


def free_memory() -> None:
    """Gives memory of the GPU that nothing refers to back, for what comes next."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def fold_of(arrays: Any, workers: int) -> FoldData:
    # Passes of some hundred steps: what starts with a pass is no part of the loop.
    rows = np.tile(np.arange(len(arrays[0])), 16)
    labels = np.random.default_rng(1).random((len(rows), 28)) < 0.06
    return FoldData(arrays, rows, labels, rows, labels, workers, 1)


def measure(
    recipe: dict[str, Any],
    data: FoldData,
    files: list[Path],
    compute: Compute,
    paper: dict[str, Any],
    arguments: argparse.Namespace,
) -> Found:
    """All measurements of a case, in turns; those that the memory does not hold end alone."""
    torch.compiler.reset()
    size = recipe["batch_size"]
    state = new_state(recipe)

    # Each is made for the first measurement that needs it, so that a shortage is that row's.
    @cache
    def setup() -> Setup:
        return set_up(recipe, 1, data, compute, None, ALONE, state)

    @cache
    def other() -> Baseline:
        return Baseline(recipe, compute, arguments.workers)

    @cache
    def forward(batch_size: int) -> Any:
        network = copy.deepcopy(setup().network).eval()
        return ready([network], recipe | {"batch_size": batch_size}, "torch", compute)[0]

    @cache
    def on_device() -> torch.Tensor:
        return to_device(pixels_of(data, recipe, size), compute)

    views = recipe | {"augmentation": paper["augmentation"]}
    programs: dict[str, Callable[[Window], None]] = {
        "training, from arrays": lambda window: training(setup(), state, window),
        "training, baseline": lambda window: other().train(16 * files, data.labels, window),
        "training, batch on the device": lambda window: synthetic(
            setup(), state, on_device(), window
        ),
        "forward": lambda window: forwards(forward(size), on_device(), compute, window),
        "prediction, four views": lambda window: predicting(
            forward(size), data, views, PAPER_VIEWS, compute, window
        ),
        "prediction, one view": lambda window: predicting(
            forward(size), data, recipe, {"kind": "none"}, compute, window
        ),
        "prediction, one view, baseline": lambda window: other().predict(16 * files, window),
        "one image, from an array": lambda window: single(
            forward(1), data, recipe, compute, window
        ),
    }
    if recipe["augmentation"] != FLIPS:  # the baseline knows flips alone
        for name in ("training, baseline", "prediction, one view, baseline"):
            del programs[name]
    if arguments.atlas:
        paths = atlas_files(arguments.atlas)
        programs["one image, from JPG files"] = lambda window: decoded(
            forward(1), paths, recipe["image_size"], compute, window
        )
    found: Found = {name: [] for name in programs if any(map(name.startswith, arguments.only))}
    not_compiled: set[str] = set()
    for _ in range(arguments.repeats):
        for name, values in found.items():
            if isinstance(values, str):
                continue
            with warnings_that_begin("not compiled") as said:
                rate = images_per_second(programs[name], Window(arguments.seconds, compute))
            if said:
                not_compiled.add(network_of(name))
            free_memory()
            if rate is None:
                found[name] = NO_ROOM
                continue
            if "four views" in name:
                rate /= 4
            values.append(1000 / rate if "one image" in name else rate)
    if not_compiled:
        found["NOT COMPILED"] = f"{', '.join(sorted(not_compiled))}: rates of eager networks"
    if state.part_size:
        found["training in parts"] = f"of {state.part_size} images: the memory is short"
    return found


def network_of(name: str) -> str:
    """Which rows are measured with the same compiled network as the row ``name``."""
    if name.startswith("training"):
        return "training"
    return "one image" if name.startswith("one image") else "forward and prediction"


def images_per_second(program: Callable[["Window"], None], window: "Window") -> float | None:
    """The rate of a program that ends with Enough; None where the memory does not hold it."""
    try:
        while True:
            program(window)
    except Enough:
        return window.images / window.spent
    except Exception as error:
        if not is_shortage(error):
            raise
        traceback.clear_frames(error.__traceback__)  # they hold what has to be freed
        return None


class Enough(Exception):
    """Of a measurement."""


class Window:
    """Counts images for some seconds, from the end of the warm-up on."""

    def __init__(self, seconds: float, compute: Compute, begun: Callable[[], None] = lambda: None):
        self.seconds, self.on_gpu = seconds, compute.device.type == "cuda"
        self.begun = begun
        self.steps = self.images = 0
        self.start = self.spent = 0.0

    def add(self, images: int) -> None:
        self.steps += 1
        if self.steps < WARM_UP_STEPS:
            return
        if self.steps == WARM_UP_STEPS:
            self.begun()
            self._wait()
            self.start = time.perf_counter()
            return
        self.images += images
        # A CPU takes minutes for a step of a large network: two are enough then.
        if time.perf_counter() - self.start > self.seconds and self.steps > WARM_UP_STEPS + 1:
            self._wait()
            self.spent = time.perf_counter() - self.start
            raise Enough

    def _wait(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize()


def new_state(recipe: dict[str, Any]) -> Checkpoint:
    return Checkpoint(plateau=schedule.new_plateau(recipe["optimizer"]["learning_rate"]))


def training(setup: Setup, state: Checkpoint, window: Window) -> None:
    steps = len(state.steps)
    size = setup.recipe["batch_size"]
    try:
        train_epoch(setup, state, lambda _: window.add(size))
    finally:
        setup.records.all()
        del state.steps[steps:]
        state.step, state.counts = 0, None


def synthetic(setup: Setup, state: Checkpoint, images: torch.Tensor, window: Window) -> None:
    targets = torch.rand((len(images), 28), device=images.device).lt(0.06).float()
    batch = Batch(images, targets, torch.arange(len(images)))
    for step in itertools.count(1):
        part_size = state.part_size or len(images)
        _, _, fitting = train_step(setup, batch, step, schedule.BCE, 0.01, part_size)
        if fitting < part_size:
            state.part_size = fitting
        window.add(len(images))


def forwards(forward: Any, images: torch.Tensor, compute: Compute, window: Window) -> None:
    while True:
        probabilities(forward, images, compute)
        window.add(len(images))


def predicting(
    forward: Any,
    data: FoldData,
    recipe: dict[str, Any],
    views: dict[str, Any],
    compute: Compute,
    window: Window,
) -> None:
    batches = view_batches(
        data.arrays, data.rows, recipe, views, "prediction", data.workers, recipe["batch_size"]
    )
    mean_probabilities([forward], batches, len(data.rows), views, compute, window.add)


def single(
    forward: Any, data: FoldData, recipe: dict[str, Any], compute: Compute, window: Window
) -> None:
    images = pixels_of(data, recipe, 16)
    for number in itertools.cycle(range(len(images))):
        image = to_device(images[number : number + 1], compute)
        probabilities(forward, image, compute).cpu()
        window.add(1)


def decoded(forward: Any, paths: list[Path], size: int, compute: Compute, window: Window) -> None:
    image = np.empty((1, size, size, len(CHANNELS)), np.uint8)
    with ThreadPoolExecutor(len(paths)) as executor:
        while True:
            list(executor.map(read_file, paths, range(len(paths)), itertools.repeat(image[0])))
            probabilities(forward, to_device(torch.from_numpy(image), compute), compute).cpu()
            window.add(1)


def pixels_of(data: FoldData, recipe: dict[str, Any], count: int) -> torch.Tensor:
    """The first images at the network's size, uint8 count × S × S × 4."""
    batches = view_batches(
        data.arrays, data.rows[:count], recipe, {"kind": "none"}, "prediction", 0, count
    )
    return next(batches).images


def together(
    recipe: dict[str, Any], data: FoldData, arguments: argparse.Namespace
) -> list[float] | str:
    """Images a second of two processes that train on one GPU at the same time, added up; or why
    there are none. Raises InputError where one of them fails."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    frame, shards = data.arrays
    arrays = frame, [shard.filename for shard in shards]  # a mapped array would be copied
    processes, answers = [], {}
    try:
        for _ in range(2):
            answer, sender = context.Pipe(duplex=False)
            process = context.Process(
                target=_train_beside, args=(recipe, arrays, arguments, barrier, sender)
            )
            process.start()
            sender.close()  # a process that has ended is the end of its answer then
            processes.append(process)
            answers[answer] = process
        return _added(answers)
    finally:
        for process in processes:
            process.kill()
            process.join()


def _added(answers: dict[Any, Any]) -> list[float] | str:
    rates = []
    while answers:
        for answer in wait(list(answers)):
            process = answers.pop(answer)
            try:
                found = answer.recv()
            except EOFError:
                process.join()
                raise InputError(
                    f"a process of --together ended with exit code {process.exitcode} and without"
                    " an answer (-9: killed, most often because memory was short; what it wrote is"
                    " above). Leave --together out, or free memory and run again."
                ) from None
            if isinstance(found, str):
                return found
            rates.append(found)
    return [sum(pair) for pair in zip(*rates, strict=True)]


def _train_beside(recipe: Any, arrays: Any, arguments: Any, barrier: Any, sender: Any) -> None:
    compute = choose_compute("auto", arguments.workers, arguments.gpus)
    frame, paths = arrays
    shards = [np.load(path, mmap_mode="r", allow_pickle=False) for path in paths]
    data = fold_of((frame, shards), max(1, arguments.workers // 2))
    state = new_state(recipe)
    rates = []
    try:
        with warnings_that_begin("not compiled") as said:
            setup = set_up(recipe, 1, data, compute, None, ALONE, state)
        if said:
            sender.send("not measured: not compiled, see the log")
            return
        for _ in range(arguments.repeats):
            window = Window(arguments.seconds, compute, lambda: barrier.wait(1200))
            rate = images_per_second(lambda window: training(setup, state, window), window)
            if rate is None:
                sender.send(NO_ROOM)
                return
            rates.append(rate)
    except BrokenBarrierError:
        sender.send("not measured: the other process was not ready within 20 minutes")
        return
    except Exception as error:
        if not is_shortage(error):
            raise
        sender.send(NO_ROOM)
        return
    sender.send(rates)


# The baseline: never tuned down, never tuned up.


class Baseline:
    """NCHW, fp16 autocast with a GradScaler (float32 on a CPU), a worker per core, np.load of a
    file per image, flips, float32 normalised on the CPU, pinned memory, no compiler."""

    def __init__(self, recipe: dict[str, Any], compute: Compute, workers: int):
        self.recipe, self.device, self.workers = recipe, compute.device, workers
        self.half = compute.device.type == "cuda"
        network = build_network(recipe)
        self.body = network.body.to(memory_format=torch.contiguous_format).to(self.device)
        self.head = torch.nn.Sequential(network.pool, torch.nn.Flatten(), network.head)
        self.head.to(self.device)
        parameters = [*self.body.parameters(), *self.head.parameters()]
        self.optimizer = torch.optim.Adadelta(parameters, lr=0.1)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.half)

    def train(self, files: list[Path], labels: np.ndarray, window: Window) -> None:
        self.body.train()
        for images, targets in self._loader(files, labels, flips=True):
            images = images.to(self.device, non_blocking=True)
            targets = targets.to(self.device, non_blocking=True)
            self.optimizer.zero_grad()
            with torch.autocast(self.device.type, torch.float16, enabled=self.half):
                logits = self.head(self.body(images))
                loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets)
            self.scaler.scale(loss).backward()
            self.scaler.step(self.optimizer)
            self.scaler.update()
            loss.item()  # as it is logged
            window.add(len(images))

    def predict(self, files: list[Path], window: Window) -> None:
        self.body.eval()
        labels = np.zeros((len(files), 28), bool)
        with torch.no_grad():
            for images, _ in self._loader(files, labels, flips=False):
                images = images.to(self.device, non_blocking=True)
                with torch.autocast(self.device.type, torch.float16, enabled=self.half):
                    logits = self.head(self.body(images))
                logits.float().sigmoid().cpu().numpy()
                window.add(len(images))

    def _loader(self, files: list[Path], labels: np.ndarray, flips: bool) -> Iterator[Any]:
        return iter(
            DataLoader(
                ImageFiles(files, labels, self.recipe, flips),
                batch_size=self.recipe["batch_size"],
                shuffle=flips,
                drop_last=True,
                num_workers=self.workers,
                pin_memory=self.half,
            )
        )


class ImageFiles(Dataset):
    def __init__(self, files: list[Path], labels: np.ndarray, recipe: dict[str, Any], flips: bool):
        self.files, self.labels, self.flips = files, labels.astype(np.float32), flips
        self.size = recipe["image_size"]
        self.means = np.array(recipe["channel_means"], np.float32)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        image = np.load(self.files[number])
        if image.shape[0] != self.size:
            image = cv2.resize(image, (self.size, self.size), interpolation=cv2.INTER_AREA)
        if self.flips:
            view = np.random.randint(8)
            image = image.transpose(1, 0, 2) if view & 4 else image
            image = image[::-1] if view & 2 else image
            image = image[:, ::-1] if view & 1 else image
        image = image.astype(np.float32) / 255 - self.means
        return (
            torch.from_numpy(image.transpose(2, 0, 1).copy()),
            torch.from_numpy(self.labels[number]),
        )


def show(name: str, found: Found) -> None:
    print(name)
    for what, values in found.items():
        said = values
        if not isinstance(values, str):
            said = f"{median(values):.4g} ({min(values):.4g} to {max(values):.4g})"
        print(f"  {what}: {said}")
    sys.stdout.flush()


def report(
    results: dict[str, dict[str, Any]],
    limits: Limits,
    compute: Compute,
    arguments: argparse.Namespace,
    command: str,
) -> str:
    parts = []
    for name, result in results.items():
        found, (fused, single_kernels, arithmetic) = result["found"], result["limits"]
        middle = {
            what: median(values) for what, values in found.items() if not isinstance(values, str)
        }
        rows = [
            f"| {what} | {values} | | |"
            if isinstance(values, str)
            else f"| {what} | {middle[what]:,.4g} {'ms' if 'one image' in what else 'images/s'} |"
            f" {min(values):,.4g} to {max(values):,.4g} | {_remark(what, middle, result['limits'])} |"
            for what, values in found.items()
        ]
        table = "\n".join(["|  | median | least to most |  |", "| --- | --- | --- | --- |", *rows])
        parts.append(
            f"## {name}, batches of {result['batch_size']}\n\n{table}\n\n"
            f"Limits of the forward pass on this device: {fused:,.0f} images/s"
            " where all but the convolutions is fused into them,"
            f" {single_kernels:,.0f} where every operation reads and writes its maps,"
            f" {arithmetic:,.0f} by arithmetic alone. A training step moves about three times as much.\n"
        )
    return f"""# Training and prediction

{datetime.date.today()}, {describe(compute.device)}, {compute.dtype}; {arguments.workers} cores of {cpu_model()},
Python {platform.python_version()}, torch {torch.__version__}, timm {version("timm")}. Load average {os.getloadavg()[1]:.1f}.
Medians of {arguments.repeats} interleaved runs of {arguments.seconds:g} s; {arguments.images} images in the page
cache. This device copies {limits.bytes_per_second / 1e9:,.0f} GB/s and multiplies {limits.operations_per_second / 1e12:,.1f} TFLOP/s (measured
before, {sizes_of(limits)}).

    {command}

{chr(10).join(parts)}
The images are noise: rates depend on sizes and not on what the images show.
"""


def _remark(what: str, middle: dict[str, float], limit: tuple[float, float, float]) -> str:
    rate = middle[what]
    words = []
    match what:
        case "training, from arrays":
            if alone := middle.get("training, batch on the device"):
                words.append(f"{rate / alone:.0%} of the step alone")
            if other := middle.get("training, baseline"):
                words.append(f"{rate / other:.2f} times the baseline")
        case "training, batch on the device":
            words.append(f"{3 * rate / limit[0]:.0%} of a third of the fused limit")
        case "forward":
            words.append(f"{rate / limit[0]:.0%} of the fused limit")
        case "prediction, one view":
            if other := middle.get("prediction, one view, baseline"):
                words.append(f"{rate / other:.2f} times the baseline")
        case "prediction, four views":
            if alone := middle.get("forward"):
                words.append(f"{4 * rate / alone:.0%} of the forward pass alone")
        case "training, two folds at once":
            if alone := middle.get("training, from arrays"):
                words.append(f"{rate / alone:.2f} times one fold")
    return ", ".join(words)


if __name__ == "__main__":
    run_program(main)
