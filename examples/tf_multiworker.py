"""Data-parallel training with TensorFlow's MultiWorkerMirroredStrategy, beside the same training in one process.

    stoker run examples/tf_multiworker.py
    stoker run examples/tf_multiworker.py --steps 60

TensorFlow finds its peers by ``TF_CONFIG``, which Stoker sets for each rank of a gang. Every rank takes its share of
the same batches, and the gradients are summed over all ranks in each step: so all end with the same weights, which are
those of one process that has seen whole batches.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import stoker

# TensorFlow starts threads when it is imported, and a worker could not be forked with them: functions import it.
image = stoker.Image.python("3.11").pip_install("tensorflow-cpu==2.21.0", "scikit-learn==1.6.1")
app = stoker.App("tf-multiworker", image=image, env={"TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": ""})

SEED = 7
BATCH = 64  # images in all ranks together
LEARNING_RATE = 0.1


def make(tf: Any) -> tuple[Any, Any]:
    """Return the weights of a small network and its optimizer; the same ones each time."""
    draw = tf.random.Generator.from_seed(SEED)
    shapes = [(64, 32), (32,), (32, 10), (10,)]
    weights = [tf.Variable(draw.normal(shape, stddev=0.1)) for shape in shapes]
    return weights, tf.keras.optimizers.SGD(LEARNING_RATE, momentum=0.9)


def loss_of(tf: Any, weights: list[Any], images: Any, labels: Any) -> Any:
    """Return the sum of the losses of these images, as their share of a whole batch's mean."""
    hidden = tf.nn.tanh(images @ weights[0] + weights[1])
    logits = hidden @ weights[2] + weights[3]
    return tf.reduce_sum(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)) / BATCH


def fit(steps: int, *, strategy: Any, rank: int, size: int) -> dict[str, Any]:
    """Train on this rank's share of each batch, and return what came of it."""
    import numpy as np
    import tensorflow as tf
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    images, labels = (images / 16).astype("float32"), labels.astype("int32")
    with strategy.scope() if strategy else nullcontext():
        weights, optimizer = make(tf)
        optimizer.build(weights)

    def step(some_images: Any, some_labels: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = loss_of(tf, weights, some_images, some_labels)
        gradients = tape.gradient(loss, weights)
        optimizer.apply_gradients(zip(gradients, weights, strict=True))  # summed over the ranks by the strategy
        return loss

    @tf.function
    def train(some_images: Any, some_labels: Any) -> Any:
        if strategy is None:
            return step(some_images, some_labels)
        losses = strategy.run(step, args=(some_images, some_labels))
        return strategy.reduce(tf.distribute.ReduceOp.SUM, losses, axis=None)

    order = np.random.default_rng(SEED).permutation(len(images))
    losses = []
    for number in range(steps):
        batch = np.take(order, range(number * BATCH, (number + 1) * BATCH), mode="wrap")[rank::size]
        losses.append(float(train(tf.constant(images[batch]), tf.constant(labels[batch]))))
    print(f"rank {rank} of {size}: loss {losses[0]:.6f} → {losses[-1]:.6f}")
    flat = np.concatenate([weight.numpy().ravel() for weight in weights]).astype("float64")
    return {"losses": losses, "weights": flat.tolist()}


@app.function(cpu=1, timeout="10m")
def train_alone(steps: int) -> dict[str, Any]:
    return fit(steps, strategy=None, rank=0, size=1)


@app.function(cpu=1, timeout="10m", gang=stoker.Gang(size=2))
def train_together(steps: int) -> dict[str, Any]:
    """Train in all ranks; the call's value is rank 0's, with how far the others' weights are from it."""
    import tensorflow as tf

    strategy = tf.distribute.MultiWorkerMirroredStrategy()  # before anything else of TensorFlow's: it reads TF_CONFIG
    info = stoker.gang_info()
    found = fit(steps, strategy=strategy, rank=info.rank, size=info.size)
    found["apart"] = apart(tf, strategy, found["weights"])
    return found


def apart(tf: Any, strategy: Any, weights: list[float]) -> float:
    """Return the largest difference between two ranks' weights, of all ranks."""

    def gather() -> Any:
        return tf.distribute.get_replica_context().all_gather(tf.constant([weights], dtype=tf.float64), axis=0)

    gathered = tf.function(lambda: strategy.run(gather))()
    return float(tf.reduce_max(tf.reduce_max(gathered, axis=0) - tf.reduce_min(gathered, axis=0)))


def furthest(one: list[float], other: list[float]) -> float:
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


@app.local_entrypoint()
def main(steps: int = 120, ranks: int = 2) -> None:
    alone = train_alone.remote(steps)
    together = train_together.with_options(gang=stoker.Gang(size=ranks)).remote(steps)
    print(f"one process: loss {alone['losses'][0]:.6f} → {alone['losses'][-1]:.6f} in {steps} steps")
    print(f"{ranks} ranks: loss {together['losses'][0]:.6f} → {together['losses'][-1]:.6f}")
    print(f"their weights are {together['apart']:g} apart, ", end="")
    print(f"and at most {furthest(alone['weights'], together['weights']):.1e} from those of one process")
