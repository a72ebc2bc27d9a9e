"""Data-parallel training with torch.distributed, and what happens when a rank is killed.

    stoker run examples/ddp_digits.py
    stoker run examples/ddp_digits.py --epochs 4

A gang's workers start together, and find in their environment what ``init_process_group`` looks for. The same batches
are trained on by one process, by two ranks and by four: the losses are the same. Then an elastic gang loses a rank
in the middle, and goes on from its checkpoint with the three that are left.
"""

from __future__ import annotations

import os
import signal
import tempfile
import traceback
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import stoker

with suppress(ImportError):  # where this file is run needs none of it; workers are forked with it imported
    import torch
    import torch._dynamo  # the first optimizer imports it, which takes seconds: here it does so once, not in each rank
    import torch.distributed as dist
    from sklearn.datasets import load_digits

if TYPE_CHECKING:
    from collections.abc import Iterator

image = stoker.Image.python("3.11").pip_install("torch==2.13.0", "scikit-learn==1.6.1")
app = stoker.App("ddp-digits", image=image)

SEED = 7
BATCH = 48  # images in all ranks together: 2, 3 and 4 of them get equal shares
CHECKPOINT_STEPS = 5


def digits() -> tuple[Any, Any]:
    """Return images, scaled to 0…1, and the digits on them."""
    images, labels = load_digits(return_X_y=True)
    return torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)


def batches(count: int, epochs: int) -> list[Any]:
    """Return the places of each batch's images: the same whoever trains, and with however many."""
    shuffle = torch.Generator().manual_seed(SEED)
    orders = [torch.randperm(count, generator=shuffle) for _ in range(epochs)]
    return [order[i : i + BATCH] for order in orders for i in range(0, count - BATCH + 1, BATCH)]


def make() -> tuple[Any, Any]:
    """Return a model and its optimizer."""
    torch.manual_seed(SEED)
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Tanh(), torch.nn.Linear(64, 10))
    return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


@contextmanager
def process_group() -> Iterator[tuple[int, int]]:
    """Join the other ranks and yield (rank, size); alone where there is no gang.

    Leaving closes the connections, whatever happened: ranks that wait for this one then learn of it at once. What was
    made with the group has to be gone by then, which a traceback could keep alive.
    """
    if "RANK" not in os.environ:
        yield 0, 1
        return
    dist.init_process_group("gloo")  # MASTER_ADDR, MASTER_PORT, RANK and WORLD_SIZE are set
    try:
        yield dist.get_rank(), dist.get_world_size()
    except BaseException as error:
        traceback.clear_frames(error.__traceback__)
        raise
    finally:
        dist.destroy_process_group()


def fit(epochs: int, checkpoint: Path | None = None, kill_at: int = -1) -> list[float]:
    """Train, from the checkpoint if there is one, and return the loss of each batch."""
    images, labels = digits()
    model, optimizer = make()
    losses: list[float] = []
    if checkpoint is not None and checkpoint.exists():
        saved = torch.load(checkpoint)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        losses = saved["losses"]
    plan = batches(len(images), epochs)
    with process_group() as (rank, size):
        if size > 1:
            print(f"rank {rank} of {size} begins at step {len(losses)}")
        for loss in steps(model, optimizer, [(images[batch], labels[batch]) for batch in plan[len(losses) :]]):
            losses.append(loss)
            if checkpoint is not None and rank == 0 and len(losses) % CHECKPOINT_STEPS == 0:
                save(checkpoint, {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "losses": losses})
            if len(losses) == kill_at and rank == size - 1 and stoker.gang_info().attempt == 1:
                os.kill(os.getpid(), signal.SIGKILL)
    return losses


def steps(model: Any, optimizer: Any, plan: list[tuple[Any, Any]]) -> Iterator[float]:
    """Take a step for each batch, every rank with its share, and yield the loss over all of it."""
    rank, size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    step_model = torch.nn.parallel.DistributedDataParallel(model) if size > 1 else model
    for images, labels in plan:
        loss = torch.nn.functional.cross_entropy(step_model(images[rank::size]), labels[rank::size])
        optimizer.zero_grad()
        loss.backward()  # DistributedDataParallel averages the gradients over the ranks
        optimizer.step()
        total = loss.detach()
        if size > 1:
            dist.all_reduce(total)
        yield float(total) / size


def save(checkpoint: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint so that there is always a whole one."""
    half = checkpoint.with_suffix(".new")
    torch.save(state, half)
    half.replace(checkpoint)


@app.function(cpu=0.5, timeout="5m")
def train(epochs: int) -> list[float]:
    return fit(epochs)


@app.function(cpu=0.5, timeout="5m", gang=stoker.Gang(size=(2, 4)))
def train_elastic(epochs: int, checkpoint: str, kill_at: int) -> list[float]:
    return fit(epochs, Path(checkpoint), kill_at)


def furthest(one: list[float], other: list[float]) -> float:
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


@app.local_entrypoint()
def main(epochs: int = 2, kill_at: int = 23) -> None:
    alone = train.remote(epochs)
    print(f"one process: {len(alone)} batches, loss {alone[0]:.6f} → {alone[-1]:.6f}")
    for size in (2, 4):
        losses = train.with_options(gang=stoker.Gang(size=size)).remote(epochs)
        print(f"{size} ranks: loss {losses[0]:.6f} → {losses[-1]:.6f}, at most {furthest(alone, losses):.1e} away")
    with tempfile.TemporaryDirectory() as directory:
        losses = train_elastic.remote(epochs, f"{directory}/checkpoint.pt", kill_at)
    print(f"one of 4 ranks killed at step {kill_at}: loss {losses[-1]:.6f}, at most {furthest(alone, losses):.1e} away")
