import builtins
import functools
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, interpolate
from training_case import make_case, recipe

import predict_part
from hpaloc import backends
from hpaloc.backends import fast_bfloat16, prepared, ready
from hpaloc.classes import N_CLASSES
from hpaloc.compute import Compute
from hpaloc.gradient import Forward
from hpaloc.log import InputError
from hpaloc.network import Network, build_network, save_weights
from hpaloc.thresholds import call_labels

SIZE = 64
GROUP = 4
OTHERS = ("compiled", "openvino")


def textures(count: int, seed: int) -> torch.Tensor:
    """Blurred noise, uint8 N × S × S × 4; no two images are alike in scale and brightness."""
    rng = np.random.default_rng(seed)
    cells = rng.integers(2, 17, count)
    images = [
        interpolate(
            torch.from_numpy(rng.gamma(1, rng.uniform(20, 60), (1, 4, n, n))), SIZE, mode="bicubic"
        )
        for n in cells
    ]
    return torch.cat(images).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def trained_network(seed: int) -> Network:
    """Some steps of training, until probabilities of all classes differ between textures.

    Random weights would not do: their maps are nearly equal for all images, and what they are
    rounded by is as large as what they differ by.
    """
    torch.manual_seed(seed)
    images = textures(128, seed)
    facts = images.float().std(dim=(1, 2))
    facts = torch.cat([facts, images.float().mean(dim=(1, 2))], dim=1)
    facts = (facts - facts.mean(dim=0)) / facts.std(dim=0)
    targets = (facts @ torch.randn(facts.shape[1], N_CLASSES) > 0).float()
    network = build_network(recipe(dropout=0.0))
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3)
    for step in range(32):
        rows = torch.arange(16) + 16 * (step % 8)
        loss = binary_cross_entropy_with_logits(network(images[rows]), targets[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval()


@pytest.fixture(scope="module")
def network() -> Network:
    return trained_network(1)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return textures(66, 3)  # 16 groups and a half


@pytest.fixture(scope="module")
def expected(network, images) -> np.ndarray:
    with torch.inference_mode():
        found = network(images).sigmoid().numpy()
    assert 0.1 < (found > 0.5).mean() < 0.9 and np.median(found.std(axis=0)) > 0.1
    return found


@pytest.fixture(scope="module")
def run_of(network) -> Callable[[str], Forward]:
    """A backend in float32, prepared once."""
    return functools.cache(lambda name: prepared(network, name, "float32", SIZE, GROUP))


@pytest.mark.parametrize("backend", OTHERS)
def test_probabilities_and_labels_agree_with_torch(run_of, images, expected, backend) -> None:
    found = run_of(backend)(images)
    assert found.dtype == torch.float32 and found.shape == (len(images), N_CLASSES)
    found = found.sigmoid().numpy()
    assert np.abs(found - expected).max() < 1e-4
    for threshold in (0.2, 0.5, 0.8):
        same = call_labels(found, threshold) == call_labels(expected, threshold)
        assert same.mean() >= 0.999


@pytest.mark.parametrize("backend", OTHERS)
def test_two_calls_and_other_company_give_the_same_bytes(run_of, images, backend) -> None:
    run = run_of(backend)
    whole = run(images)
    assert torch.equal(run(images), whole)
    for count in (1, GROUP, GROUP + 1):
        assert torch.equal(run(images[:count]), whole[:count])
    assert torch.equal(run(images[5:6]), whole[5:6])


def test_bfloat16_is_within_a_hundredth(network, images, expected) -> None:
    found = prepared(network, "openvino", "bfloat16", SIZE, GROUP)(images).sigmoid().numpy()
    error = np.abs(found - expected).max()
    assert error < 1e-2
    if "BF16" in _capabilities():
        assert error > 1e-5  # it was not float32
        # A network of 32 steps has many probabilities near 0.5, where hundredths change labels.
        assert (call_labels(found, 0.5) == call_labels(expected, 0.5)).mean() >= 0.995


def _capabilities() -> list[str]:
    import openvino

    return openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


AMD = "vendor_id\t: AuthenticAMD\n"
INTEL = "vendor_id\t: GenuineIntel\n"


@pytest.mark.parametrize(
    ("text", "fast"),
    [
        (INTEL + "flags\t\t: fpu avx512f avx512_bf16 amx_bf16 amx_tile\n", True),
        (INTEL + "flags\t\t: fpu avx512f avx512_bf16\n", False),
        (AMD + "flags\t\t: fpu avx512f avx512_bf16\n", True),
        (AMD + "flags\t\t: fpu avx2\n", False),
        ("Features\t: fp asimd bf16\n", False),
        (None, False),
    ],
)
def test_bfloat16_is_taken_where_it_is_faster(tmp_path, text, fast) -> None:
    path = tmp_path / "cpuinfo"
    if text is not None:
        path.write_text(text)
    assert fast_bfloat16(path) is fast


@pytest.mark.parametrize(
    ("precision", "native", "said"),
    [
        ("auto", False, "float32"),
        ("auto", True, "bfloat16"),
        ("float32", True, "float32"),
        ("bfloat16", False, "bfloat16"),
    ],
)
def test_the_precision_is_the_recipes_or_the_processors(
    network, monkeypatch, caplog, precision, native, said
) -> None:
    monkeypatch.setattr(backends, "fast_bfloat16", lambda: native)
    taken = []
    monkeypatch.setattr(
        backends, "_on_openvino", lambda library, program, bfloat16: taken.append(bfloat16)
    )
    with caplog.at_level(logging.INFO, "hpaloc"):
        prepared(network, "openvino", precision, SIZE, GROUP)
    assert taken == [said == "bfloat16"]
    assert f"in {said}, {GROUP} images at a time" in caplog.text and "prepared in" in caplog.text


def test_openvino_that_is_not_installed_is_told_in_words(network, monkeypatch) -> None:
    found = builtins.__import__

    def missing(name, *arguments, **keywords):
        if name.partition(".")[0] == "openvino":
            raise ImportError("No module named 'openvino'")
        return found(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(InputError, match="pip install openvino, or openvino of conda-forge"):
        prepared(network, "openvino", "auto", SIZE, GROUP)


def test_openvino_reports_to_nobody(run_of) -> None:
    run_of("openvino")
    assert sys.modules["openvino_telemetry"] is None


def test_without_a_compiler_torch_predicts_with_one_warning(network, images, tmp_path) -> None:
    # In a process of its own: torch looks for the compiler once.
    program = f"""
import sys
sys.path[:0] = {sys.path!r}
import logging, torch
from test_backends import GROUP, SIZE, trained_network, textures
from hpaloc.backends import prepared
logging.basicConfig(format="%(levelname)s %(message)s")
network = trained_network(1)
assert prepared(network, "compiled", "auto", SIZE, GROUP) is network
"""
    done = _python(program, {"CXX": "no-such-compiler", "XDG_CACHE_HOME": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    warnings = [line for line in done.stderr.splitlines() if line.startswith("WARNING the network")]
    assert len(warnings) == 1 and "cannot be compiled" in warnings[0]
    assert "lacks a C++ compiler (there is no no-such-compiler, which CXX names)" in warnings[0]
    assert "Debian, Ubuntu: g++ python3-dev" in warnings[0]
    assert list((tmp_path / "hpaloc").glob(f"torch{torch.__version__}-*"))


def _python(program: str, environment: dict[str, str]) -> subprocess.CompletedProcess:
    kept = {k: v for k, v in os.environ.items() if k != "TORCHINDUCTOR_CACHE_DIR"}
    return subprocess.run(
        [sys.executable, "-c", program],
        env=kept | environment, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip


def test_an_unknown_backend_is_refused(network) -> None:
    with pytest.raises(InputError, match="none of torch, compiled, openvino"):
        prepared(network, "tensorrt", "auto", SIZE, GROUP)


def test_a_gpu_is_not_given_up_for_a_backend_of_the_cpu(caplog, monkeypatch) -> None:
    monkeypatch.setattr(
        backends, "on_gpu", lambda networks, recipe, compute: [(*networks, "on a GPU")]
    )
    compute = Compute(torch.device("cuda"), torch.bfloat16)
    with caplog.at_level(logging.INFO, "hpaloc"):
        assert ready(["network"], recipe(), "openvino", compute) == [("network", "on a GPU")]
    assert "prediction.backend openvino is for the CPU" in caplog.text


def test_a_part_is_predicted_by_openvino_as_by_torch(tmp_path, network) -> None:
    case = make_case(tmp_path / "case")
    save_weights(network, case / "weights.safetensors")
    model = {"fold": 1, "image_size": SIZE, "recipe": recipe()}
    (case / "model.json").write_text(json.dumps(model))
    tables = []
    for backend in ("torch", "openvino"):
        out = case / f"{backend}.parquet"
        predict_part.main(
            [
                "--arrays", f"{case}/arrays/index.parquet", "--part", "0", "--parts", "1",
                "--folds", "1", "--weights", f"{case}/weights.safetensors",
                "--models", f"{case}/model.json", "--backend", backend,
                "--recipe", '{"precision": "float32", "tta": {"prediction": {"kind": "none"}}}',
                "--gpus", "0", "--workers", "0",
                "--predictions", str(out), "--digest", f"{out}.sha256",
            ]
        )  # fmt: skip
        tables.append(pd.read_parquet(out))
    one, other = (table.drop(columns=["image_id", "fold"]).to_numpy() for table in tables)
    assert tables[0]["image_id"].equals(tables[1]["image_id"])
    assert np.abs(one - other).max() < 1e-4 and not np.array_equal(one, other)
