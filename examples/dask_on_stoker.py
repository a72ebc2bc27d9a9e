"""A parameter sweep on a Dask cluster that lives as long as the sweep.

    stoker run examples/dask_on_stoker.py
    stoker run examples/dask_on_stoker.py --workers 2 --splits 10

Dask wants the same versions where its client runs and where its tasks run. So the client is in a function of Stoker's,
whose image the cluster's workers have as well: whoever runs this file needs neither Dask nor scikit-learn.
"""

from __future__ import annotations

from typing import Any

import stoker

image = stoker.Image.python("3.11").pip_install("distributed==2026.8.0", "cryptography>=42", "scikit-learn==1.6.1")
app = stoker.App("dask-on-stoker", image=image)

GAMMAS = (0.0005, 0.001, 0.002, 0.004)
COSTS = (1.0, 10.0, 100.0)


def digits(split: int) -> tuple[Any, Any, Any, Any]:
    """Return training images, test images and the labels of both, another choice for each split."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    parts: tuple[Any, Any, Any, Any] = tuple(train_test_split(images, labels, test_size=0.3, random_state=split))
    return parts


def accuracy(parts: tuple[Any, Any, Any, Any], gamma: float, cost: float) -> tuple[str, float]:
    """Return which worker has fitted the model, and the share of test images that it reads."""
    from distributed import get_worker
    from sklearn.svm import SVC

    images, test_images, labels, test_labels = parts
    return str(get_worker().name), float(SVC(gamma=gamma, C=cost).fit(images, labels).score(test_images, test_labels))


@app.function(cpu=1, timeout="10m")
def sweep(workers: int, splits: int) -> dict[str, Any]:
    """Start a cluster, try every setting on every split there, and return what came of it."""
    with stoker.clusters.dask(workers=workers, image=image, cpu=0.5, memory="1GiB") as client:
        parts = client.map(digits, range(splits))  # made once, and kept where the tasks that read them run
        settings = [(gamma, cost) for gamma in GAMMAS for cost in COSTS]
        tasks = {one: [client.submit(accuracy, part, *one) for part in parts] for one in settings}
        found = client.gather(tasks)
    done: dict[str, int] = {}
    for name, _ in (result for results in found.values() for result in results):
        done[name] = done.get(name, 0) + 1
    scores = {one: sum(score for _, score in results) / splits for one, results in found.items()}
    return {"done": done, "scores": sorted(scores.items(), key=lambda item: -item[1])}


@app.local_entrypoint()
def main(workers: int = 3, splits: int = 5) -> None:
    told = sweep.remote(workers, splits)
    print(f"{len(told['scores'])} settings on {splits} splits of the digits:")
    for (gamma, cost), score in told["scores"]:
        print(f"  {score:7.2%}  gamma={gamma:g} C={cost:g}")
    done = ", ".join(f"{name}: {count}" for name, count in sorted(told["done"].items()))
    print(f"models fitted by each worker: {done}")
