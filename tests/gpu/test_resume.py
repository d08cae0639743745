"""A state goes on from the CPU to a GPU and back."""

RESUME = """
from hpaloc.checkpoint import load_checkpoint
from hpaloc.keeper import Keeper
from hpaloc.lease import leased
from hpaloc.preemption import Preempted
from hpaloc.progress import ProgressFile

def attempt(folder, settings, data, compute, steps):
    '''Trains so many steps, is told to stop, and gives what is stored.'''
    state = load_checkpoint(folder)
    last = state.step + steps
    with leased(folder) as lease:
        made = []
        stops = lambda: made.append(1) or len(made) >= steps
        keeper = Keeper(folder, lease, 600, stops, ProgressFile(folder, 9, 9, 8))
        try:
            training.train(settings, 1, data, state, folder, keeper, compute)
        except Preempted:
            pass
        finally:
            keeper.close()
    stored = load_checkpoint(folder)
    assert stored.step == last, (stored.epoch, stored.step, last)
    return stored

def layout(state):
    states = {f"{key} {name}": tensor for key, one in state.optimizer["state"].items()
              for name, tensor in one.items()}
    return {name: [str(t.dtype), list(t.shape), list(t.stride())] if torch.is_tensor(t) else t
            for name, t in (state.network | states).items()}

from pathlib import Path
import tempfile
found = {}
for name in ("adadelta", "adamw", "sgd"):
    optimizer = {"name": name, "learning_rate": 0.01, "weight_decay": 1e-4}
    settings, data, gpu = fold(images=120, epochs=9, optimizer=optimizer)
    cpu = Compute(torch.device("cpu"), torch.float32)
    folder = Path(tempfile.mkdtemp())
    states = [attempt(folder, settings, data, compute, 2) for compute in (cpu, gpu, cpu, gpu)]
    found[name] = {
        "alike": all(layout(state) == layout(states[0]) for state in states),
        "scaled": [bool(state.scaler) for state in states],
    }
result(found=found, dtype=str(gpu.dtype))
"""


def test_every_optimizer_goes_on_from_the_cpu_to_a_gpu_and_back(on_gpu) -> None:
    """What is stored has the same names, types and layout; the values are not real there."""
    found, log = on_gpu(RESUME, capability=75)
    assert found["dtype"] == "torch.float16"
    for name in ("adadelta", "adamw", "sgd"):
        assert found["found"][name] == {"alike": True, "scaled": [False, True, False, True]}
    assert log.count("going on after epoch 0 (step 2)") == 3
    assert log.count("going on after epoch 0 (step 6)") == 3
