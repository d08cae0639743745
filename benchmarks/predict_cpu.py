"""Prediction on a CPU: the backends of the configuration against eager float32.

Each backend is prepared once, as predict_part.py does with ``precision:
auto``, for batches of ``--batch``. Then they run in turns, and the medians
are compared. Weights are random; the statistics of batch norm are those of textured noise, so that
activations have a natural size, and the linear layer is scaled until logits differ by about 2
between images. Agreement is with eager float32, over other textures: the largest difference of
probabilities, and the share of images and classes that are called the same at a threshold of 0.5,
which lies in the middle of the probabilities of such a network; those of a trained one keep away.

    python benchmarks/predict_cpu.py --out benchmarks/predict_cpu.md
"""

import argparse
import datetime
import os
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np
import torch
from machine import cpu_model

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "workflow" / "scripts"))

from hpaloc.backends import BACKENDS, fast_bfloat16, prepared
from hpaloc.classes import CHANNELS
from hpaloc.compute import Compute, choose_compute
from hpaloc.files import write_text
from hpaloc.network import Network, build_network
from hpaloc.predict import probabilities


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", help="table to write (Markdown)")
    parser.add_argument("--network", default="seresnext50_32x4d")
    parser.add_argument("--size", type=int, default=512, help="px")
    parser.add_argument("--batch", type=int, default=8, help="images")
    parser.add_argument("--repeats", type=int, default=5, help="measurements of each")
    parser.add_argument("--compared", type=int, default=32, help="images whose labels are compared")
    parser.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)))
    arguments = parser.parse_args(argv)

    compute = choose_compute("auto", arguments.cores, gpus=0)
    network = make_network(arguments.network, arguments.size)
    images = textures(arguments.compared, arguments.size, seed=3)
    runs, preparation = {}, {}
    for backend in BACKENDS:
        start = time.perf_counter()
        run = prepared(network, backend, "auto", arguments.size, arguments.batch)
        probabilities(run, images[: arguments.batch], compute)
        if run is not network or backend == "torch":  # no compiler: the same once more
            runs[backend] = run
            preparation[backend] = time.perf_counter() - start
    found = {
        backend: np.concatenate(
            [probabilities(run, part, compute) for part in images.split(arguments.batch)]
        )
        for backend, run in runs.items()
    }
    rates: dict[str, list[float]] = {backend: [] for backend in runs}
    for _ in range(arguments.repeats):
        for backend, run in runs.items():
            rates[backend].append(rate(run, images[: arguments.batch], compute))
    command = shlex.join(["python", "benchmarks/predict_cpu.py", *(argv or sys.argv[1:])])
    text = report(rates, preparation, found, arguments, command)
    print(text)
    if arguments.out:
        write_text(text, arguments.out)


def rate(run: Callable, images: torch.Tensor, compute: Compute) -> float:
    start = time.perf_counter()
    probabilities(run, images, compute)
    return len(images) / (time.perf_counter() - start)


def make_network(name: str, size: int) -> Network:
    torch.manual_seed(1)
    recipe = {
        "network": name, "image_size": size, "pool": 2, "dropout": 0.0, "normalise": "fixed",
        "channel_means": [0.0746, 0.05063, 0.05089, 0.07629],
    }  # fmt: skip
    network = build_network(recipe)
    few = textures(16, size, seed=1)
    with torch.no_grad():
        for _ in range(4):
            for part in few.split(4):
                network(part)
        network.eval()
        logits = torch.cat([network(part) for part in few.split(4)])
        network.head.weight.mul_((2 / logits.std(dim=0))[:, None])
        network.head.bias.zero_()
        logits = torch.cat([network(part) for part in few.split(4)])
        network.head.bias.copy_(-logits.mean(dim=0))
    return network


def textures(count: int, size: int, seed: int) -> torch.Tensor:
    """Blurred noise of many scales and brightnesses: uint8 n × size × size × 4."""
    rng = np.random.default_rng(seed)
    images = np.empty((count, size, size, len(CHANNELS)), np.uint8)
    for image in images:
        for channel in range(len(CHANNELS)):
            cells = int(rng.integers(4, size // 4))
            noise = rng.gamma(1, rng.uniform(10, 60), (cells, cells)).astype(np.float32)
            large = cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC)
            image[..., channel] = np.clip(large, 0, 255)
    return torch.from_numpy(images)


def report(
    rates: dict[str, list[float]],
    preparation: dict[str, float],
    found: dict[str, np.ndarray],
    arguments: argparse.Namespace,
    command: str,
) -> str:
    names = ("torch", "openvino", "timm", "numpy")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    medians = {backend: statistics.median(values) for backend, values in rates.items()}
    reference = found["torch"]
    rows = []
    for backend, values in rates.items():
        same = (found[backend] >= 0.5) == (reference >= 0.5)
        rows.append(
            (
                f"`{backend}`", f"{medians[backend]:.2f}", f"{min(values):.2f} to {max(values):.2f}",
                f"{medians[backend] / medians['torch']:.1f}", f"{preparation[backend]:.0f}",
                f"{np.abs(found[backend] - reference).max():.1g}", f"{100 * same.mean():.2f} %",
            )
        )  # fmt: skip
    head = (
        "backend", "images/s", "least to most", "times torch", "preparation, s",
        "largest difference", "same labels",
    )  # fmt: skip
    grid = "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])
    precision = "bfloat16" if fast_bfloat16() else "float32"
    spread = np.quantile(reference, (0.1, 0.9))
    return f"""# Prediction on a CPU

{datetime.date.today()}, {arguments.cores} cores of {cpu_model()}, Python {platform.python_version()},
{versions}; load average {os.getloadavg()[1]:.1f} ({arguments.cores} is this program).
{arguments.network} at {arguments.size} px, batches of {arguments.batch}, medians of {arguments.repeats} interleaved runs.

    {command}

{grid}

- `torch` is eager float32. This processor is faster in {precision}, so the others take that.
- Preparation is with the first batch; torch's compiler keeps code in the user's cache, and another
  network of the same kind is prepared faster.
- Differences are over {len(reference)} images of textured noise and 28 classes, by a network of random weights
  (8 of 10 probabilities lie between {spread[0]:.2f} and {spread[1]:.2f}). They say nothing of accuracy on cells.
"""


if __name__ == "__main__":
    main()
