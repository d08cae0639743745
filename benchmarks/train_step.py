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
`--together` two trainings at once on one GPU.

    python benchmarks/train_step.py --full --together --out benchmarks/train_step.md
"""

import argparse
import copy
import datetime
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
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np
import torch
import yaml
from machine import cpu_model
from made_images import make_images
from torch.utils.data import DataLoader, Dataset

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "workflow" / "scripts"))

from limits import Limits, bounds, measure_limits

from hpaloc import schedule
from hpaloc.backends import ready
from hpaloc.checkpoint import Checkpoint
from hpaloc.classes import CHANNELS
from hpaloc.compute import Compute, choose_compute, describe
from hpaloc.config import resolve
from hpaloc.device_batches import to_device
from hpaloc.feed import Batch, view_batches
from hpaloc.files import write_text
from hpaloc.fold_data import FoldData
from hpaloc.network import build_network
from hpaloc.predict import mean_probabilities, probabilities
from hpaloc.ranks import ALONE
from hpaloc.speed import read_file
from hpaloc.training import Setup, set_up, train_epoch, train_step

WARM_UP_STEPS = 4
FLIPS = {
    "negative": 0,
    "groups": [{"name": "flip", "channels": "all", "apply": {"flip_and_rotate90": {}}}],
}
PAPER_VIEWS = {"kind": "augmentation", "views": 4}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--networks", nargs="+", default=["seresnext50_32x4d"])
    parser.add_argument("--sizes", nargs="+", type=int, default=[224, 512, 1024])
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--images", type=int, default=1024, help="different images on the disk")
    parser.add_argument("--repeats", type=int, default=5, help="measurements of each")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--gpus", type=int, default=1, help="0: the CPU")
    parser.add_argument("--full", action="store_true", help="the paper's recipe too")
    parser.add_argument("--atlas", type=Path, help="folder of one image's four JPG files")
    parser.add_argument("--together", action="store_true", help="two trainings at once too")
    parser.add_argument("--out", help="table to write (Markdown)")
    parser.add_argument("--json", help="every single measurement")
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    command = shlex.join(["python", "benchmarks/train_step.py", *(argv or sys.argv[1:])])

    paper = paper_recipe()
    compute = choose_compute("auto", arguments.workers, arguments.gpus)
    limits = measure_limits(compute)
    cases = [
        (f"{name}, {size} px", paper | {"network": name, "image_size": size, "augmentation": FLIPS})
        for name, size in itertools.product(arguments.networks, arguments.sizes)
    ]
    if arguments.full:
        cases.append(("the paper's recipe", paper))
    results: dict[str, dict[str, list[float]]] = {}
    for name, recipe in cases:
        recipe = recipe | {"batch_size": arguments.batch_size, "pretrained": None}
        side = max(512, recipe["image_size"]) if arguments.gpus else recipe["image_size"]
        with tempfile.TemporaryDirectory() as folder:
            arrays, files = make_images(Path(folder), arguments.images, side)
            data = fold_of(arrays, arguments.workers)
            results[name] = measure(recipe, data, files, compute, paper, arguments)
            if arguments.together:
                results[name]["training, two folds at once"] = together(recipe, data, arguments)
        results[name]["limits"] = list(bounds(build_network(recipe), recipe, limits))
        show(name, results[name])
    text = report(results, limits, compute, arguments, command)
    print(text)
    if arguments.out:
        write_text(text, arguments.out)
    if arguments.json:
        write_text(json.dumps(results, indent=1), arguments.json)


def paper_recipe() -> dict[str, Any]:
    config = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
    return resolve(config)["recipes"]["paper"]


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
) -> dict[str, list[float]]:
    """Images a second (of one image alone: milliseconds) of all repeats, by what was measured."""
    torch.compiler.reset()
    state = new_state(recipe)
    setup = set_up(recipe, 1, data, compute, None, ALONE, state)
    other = Baseline(recipe, compute, arguments.workers)
    trained = copy.deepcopy(setup.network).eval()
    (forward,) = ready([trained], recipe, "torch", compute)
    (alone,) = ready([trained], recipe | {"batch_size": 1}, "torch", compute)
    on_device = to_device(pixels_of(data, recipe, recipe["batch_size"]), compute)
    views = recipe | {"augmentation": paper["augmentation"]}
    programs: dict[str, Callable[[Window], None]] = {
        "training, from arrays": lambda window: training(setup, state, window),
        "training, baseline": lambda window: other.train(16 * files, data.labels, window),
        "training, batch on the device": lambda window: synthetic(setup, on_device, window),
        "forward": lambda window: forwards(forward, on_device, compute, window),
        "prediction, four views": lambda window: predicting(
            forward, data, views, PAPER_VIEWS, compute, window
        ),
        "prediction, one view": lambda window: predicting(
            forward, data, recipe, {"kind": "none"}, compute, window
        ),
        "prediction, one view, baseline": lambda window: other.predict(16 * files, window),
        "one image, from an array": lambda window: single(alone, data, recipe, compute, window),
    }
    if recipe["augmentation"] != FLIPS:  # the baseline knows flips alone
        for name in ("training, baseline", "prediction, one view, baseline"):
            del programs[name]
    if arguments.atlas:
        paths = [next(arguments.atlas.glob(f"*{channel}.jpg")) for channel in CHANNELS]
        programs["one image, from JPG files"] = lambda window: decoded(
            alone, paths, recipe["image_size"], compute, window
        )
    found: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(arguments.repeats):
        for name, program in programs.items():
            window = Window(arguments.seconds, compute)
            try:
                while True:
                    program(window)
            except Enough:
                pass
            rate = window.images / window.spent
            if "four views" in name:
                rate /= 4
            found[name].append(1000 / rate if "one image" in name else rate)
    return found


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


def synthetic(setup: Setup, images: torch.Tensor, window: Window) -> None:
    targets = torch.rand((len(images), 28), device=images.device).lt(0.06).float()
    batch = Batch(images, targets, torch.arange(len(images)))
    for step in itertools.count(1):
        train_step(setup, batch, step, schedule.BCE, 0.01, len(images))
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


def together(recipe: dict[str, Any], data: FoldData, arguments: argparse.Namespace) -> list[float]:
    """Images a second of two processes that train on one GPU at the same time, added up."""
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(2), context.Queue()
    frame, shards = data.arrays
    arrays = frame, [shard.filename for shard in shards]  # a mapped array would be copied
    processes = [
        context.Process(target=_train_beside, args=(recipe, arrays, arguments, barrier, results))
        for _ in range(2)
    ]
    for process in processes:
        process.start()
    rates = [results.get() for _ in processes]
    for process in processes:
        process.join()
    return [sum(pair) for pair in zip(*rates, strict=True)]


def _train_beside(recipe: Any, arrays: Any, arguments: Any, barrier: Any, results: Any) -> None:
    compute = choose_compute("auto", arguments.workers, arguments.gpus)
    frame, paths = arrays
    shards = [np.load(path, mmap_mode="r", allow_pickle=False) for path in paths]
    data = fold_of((frame, shards), max(1, arguments.workers // 2))
    state = new_state(recipe)
    setup = set_up(recipe, 1, data, compute, None, ALONE, state)
    rates = []
    for _ in range(arguments.repeats):
        window = Window(arguments.seconds, compute, lambda: barrier.wait(1200))
        try:
            while True:
                training(setup, state, window)
        except Enough:
            pass
        rates.append(window.images / window.spent)
    results.put(rates)


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


def show(name: str, found: dict[str, list[float]]) -> None:
    print(name)
    for what, values in found.items():
        if what != "limits":
            print(f"  {what}: {median(values):.4g} ({min(values):.4g} to {max(values):.4g})")
    sys.stdout.flush()


def report(
    results: dict[str, dict[str, list[float]]],
    limits: Limits,
    compute: Compute,
    arguments: argparse.Namespace,
    command: str,
) -> str:
    parts = []
    for name, found in results.items():
        fused, single_kernels, arithmetic = found["limits"]
        middle = {what: median(values) for what, values in found.items() if what != "limits"}
        rows = [
            f"| {what} | {middle[what]:,.4g} {'ms' if 'one image' in what else 'images/s'} |"
            f" {min(values):,.4g} to {max(values):,.4g} | {_remark(what, middle, found['limits'])} |"
            for what, values in found.items()
            if what != "limits"
        ]
        table = "\n".join(["|  | median | least to most |  |", "| --- | --- | --- | --- |", *rows])
        parts.append(
            f"## {name}\n\n{table}\n\nLimits of the forward pass on this device: {fused:,.0f} images/s"
            " where all but the convolutions is fused into them,"
            f" {single_kernels:,.0f} where every operation reads and writes its maps,"
            f" {arithmetic:,.0f} by arithmetic alone. A training step moves about three times as much.\n"
        )
    return f"""# Training and prediction

{datetime.date.today()}, {describe(compute.device)}, {compute.dtype}; {arguments.workers} cores of {cpu_model()},
Python {platform.python_version()}, torch {torch.__version__}, timm {version("timm")}. Load average {os.getloadavg()[1]:.1f}.
Medians of {arguments.repeats} interleaved runs of {arguments.seconds:g} s, batches of {arguments.batch_size}; {arguments.images} images in the page
cache. This device copies {limits.bytes_per_second / 1e9:,.0f} GB/s and multiplies {limits.operations_per_second / 1e12:,.1f} TFLOP/s (measured
before).

    {command}

{chr(10).join(parts)}
The images are noise: rates depend on sizes and not on what the images show.
"""


def _remark(what: str, middle: dict[str, float], limit: list[float]) -> str:
    if what == "training, from arrays":
        words = [f"{middle[what] / middle['training, batch on the device']:.0%} of the step alone"]
        if other := middle.get("training, baseline"):
            words.append(f"{middle[what] / other:.2f} times the baseline")
        return ", ".join(words)
    if what == "training, batch on the device":
        return f"{3 * middle[what] / limit[0]:.0%} of a third of the fused limit"
    if what == "forward":
        return f"{middle[what] / limit[0]:.0%} of the fused limit"
    if what == "prediction, one view" and (other := middle.get("prediction, one view, baseline")):
        return f"{middle[what] / other:.2f} times the baseline"
    if what == "prediction, four views":
        return f"{4 * middle[what] / middle['forward']:.0%} of the forward pass alone"
    if what == "training, two folds at once":
        return f"{middle[what] / middle['training, from arrays']:.2f} times one fold"
    return ""


if __name__ == "__main__":
    main()
