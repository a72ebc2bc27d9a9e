"""A training script written for Horovod, ported line by line.

    stoker run examples/horovod_style.py
    stoker run examples/horovod_style.py --ranks 4

What ``horovodrun -np 4 python train.py`` does from outside, ``gang=stoker.Gang(size=4)`` says of the function; inside,
each line of Horovod's has one of torch.distributed's. The line that was there stands above the one that took its place.
"""

from __future__ import annotations

import traceback
from contextlib import suppress
from typing import Any

import stoker

with suppress(ImportError):  # where this file is run needs none of it; workers are forked with it imported
    import torch
    import torch._dynamo  # the first optimizer imports it, which takes seconds: here it does so once, not in each rank
    import torch.distributed as dist  # import horovod.torch as hvd
    from sklearn.datasets import load_digits

image = stoker.Image.python("3.11").pip_install("torch==2.13.0", "scikit-learn==1.6.1")
app = stoker.App("horovod-style", image=image)

BATCH = 32  # of one rank
LEARNING_RATE = 0.05  # of one rank; as the batches of all together are larger, so are the steps


# $ horovodrun -np 2 python train.py
@app.function(cpu=0.5, timeout="5m", gang=stoker.Gang(size=2))
def train(epochs: int) -> dict[str, Any]:
    """Train on the digits and return what rank 0 has to tell."""
    # hvd.init()
    dist.init_process_group("gloo")
    try:
        return _train(epochs)
    except BaseException as error:
        traceback.clear_frames(error.__traceback__)  # nothing made with the group may outlive it
        raise
    finally:
        # hvd.shutdown()
        dist.destroy_process_group()


def _train(epochs: int) -> dict[str, Any]:
    # rank, size = hvd.rank(), hvd.size()
    rank, size = dist.get_rank(), dist.get_world_size()
    # torch.set_num_threads(1); torch.cuda.set_device(hvd.local_rank())
    local_rank = stoker.gang_info().local_rank

    torch.manual_seed(rank)  # each rank begins with other weights, until they are broadcast
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
    # optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE * hvd.size())
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE * size)

    # hvd.broadcast_parameters(model.state_dict(), root_rank=0)
    for tensor in model.state_dict().values():
        dist.broadcast(tensor, src=0)

    # sampler = DistributedSampler(dataset, num_replicas=hvd.size(), rank=hvd.rank())
    images, labels = _digits()
    mine = torch.arange(len(images))[rank::size]

    # optimizer = hvd.DistributedOptimizer(optimizer, named_parameters=model.named_parameters())
    for epoch in range(epochs):
        order = mine[torch.randperm(len(mine), generator=torch.Generator().manual_seed(epoch))]
        for places in order[: len(images) // size // BATCH * BATCH].split(BATCH):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(images[places]), labels[places])
            loss.backward()
            # (hvd.DistributedOptimizer averages the gradients in its step)
            average_gradients(model, size)
            optimizer.step()

        # loss = hvd.allreduce(loss, name="loss")   # the average
        mean = loss.detach()
        dist.all_reduce(mean)
        mean /= size
        # if hvd.rank() == 0:
        if rank == 0:
            print(f"epoch {epoch}: loss {float(mean):.4f}")

    # checksums = hvd.allgather(checksum)
    checksum = torch.cat([p.detach().flatten() for p in model.parameters()]).double().sum()
    checksums = [torch.zeros_like(checksum) for _ in range(size)]
    dist.all_gather(checksums, checksum)
    right = float((model(images).argmax(1) == labels).float().mean())
    apart = float(max(checksums) - min(checksums))
    return {"ranks": size, "local_rank": local_rank, "accuracy": right, "apart": apart}


def average_gradients(model: Any, size: int) -> None:
    """Replace each gradient by its average over the ranks."""
    for parameter in model.parameters():
        dist.all_reduce(parameter.grad)
        parameter.grad /= size


def _digits() -> tuple[Any, Any]:
    images, labels = load_digits(return_X_y=True)
    return torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)


@app.local_entrypoint()
def main(ranks: int = 2, epochs: int = 8) -> None:
    told = train.with_options(gang=stoker.Gang(size=ranks)).remote(epochs)
    print(f"{told['ranks']} ranks read {told['accuracy']:.1%} of the digits; their weights are {told['apart']:g} apart")
