"""A hyperparameter sweep on scikit-learn's handwritten digits.

    stoker run examples/digits_sweep.py
    stoker run examples/digits_sweep.py --folds 3 --picture digits.png

The functions run in an environment with a pinned scikit-learn. Where this file is run needs none of it: the best
model comes back as a value that cannot be opened here, and is handed on to the function that evaluates it.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import stoker

image = stoker.Image.python().pip_install("scikit-learn==1.6.1", "matplotlib==3.10.1")
app = stoker.App("digits-sweep", image=image)

SEED = 7
HELD_OUT = 0.25  # of the 1 797 images: no setting is chosen by them

Setting = dict[str, Any]


def settings() -> list[Setting]:
    """Return what the sweep tries: two kinds of model, 28 settings."""
    svm = [
        {"model": "svm", "C": c, "gamma": gamma}
        for c, gamma in itertools.product((0.1, 1.0, 10.0, 100.0), (0.0001, 0.0005, 0.001, 0.005))
    ]
    forest = [
        {"model": "forest", "n_estimators": trees, "max_depth": depth}
        for trees, depth in itertools.product((50, 100, 200), (5, 10, 20, None))
    ]
    return svm + forest


def split() -> tuple[Any, Any, Any, Any]:
    """Return training images, held-out images, and the digits of both."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, digits = load_digits(return_X_y=True)
    parts = train_test_split(images, digits, test_size=HELD_OUT, random_state=SEED, stratify=digits)
    return parts[0], parts[1], parts[2], parts[3]


def build(setting: Setting) -> Any:
    """Return the model of a setting, untrained."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.svm import SVC

    options = {name: value for name, value in setting.items() if name != "model"}
    return SVC(**options) if setting["model"] == "svm" else RandomForestClassifier(random_state=SEED, **options)


@app.function(cpu=1, memory="2GiB", timeout="5m", retries=1)
def score(setting: Setting, folds: int) -> float:
    """Return the accuracy of a setting by cross-validation on the training images."""
    from sklearn.model_selection import cross_val_score

    images, _, digits, _ = split()
    return float(cross_val_score(build(setting), images, digits, cv=folds).mean())


@app.function(cpu=1, memory="2GiB", timeout="5m")
def fit(setting: Setting) -> Any:
    """Return the model of a setting, trained on all training images."""
    images, _, digits, _ = split()
    return build(setting).fit(images, digits)


@app.function(cpu=1, memory="2GiB", timeout="5m")
def evaluate(model: Any) -> tuple[float, list[list[int]], bytes]:
    """Return a model's accuracy on the held-out images, its confusion matrix, and a picture of that as PNG."""
    import io

    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from sklearn.metrics import ConfusionMatrixDisplay, accuracy_score, confusion_matrix

    _, images, _, digits = split()
    found = model.predict(images)
    accuracy = float(accuracy_score(digits, found))
    matrix = confusion_matrix(digits, found)
    figure, axes = plt.subplots(figsize=(6, 6), dpi=120)
    ConfusionMatrixDisplay(matrix).plot(ax=axes, colorbar=False, cmap="Blues")
    axes.set_title(f"{len(digits)} held-out digits, {accuracy:.1%} read correctly")
    picture = io.BytesIO()
    figure.savefig(picture, format="png", bbox_inches="tight")
    return accuracy, matrix.tolist(), picture.getvalue()


def show(scored: list[tuple[float, Setting]]) -> None:
    """Print the table of settings, the best first."""
    print(f"\n{'accuracy':>8}  {'model':<7} setting")
    for accuracy, setting in scored:
        options = "  ".join(f"{name}={value}" for name, value in setting.items() if name != "model")
        print(f"{accuracy:>8.2%}  {setting['model']:<7} {options}")


@app.local_entrypoint()
def main(folds: int = 5, picture: Path = Path("confusion_matrix.png")) -> None:
    """Try all settings in parallel, refit the best one, and evaluate it on images that it has never seen."""
    tried = settings()
    accuracies = score.map(tried, [folds] * len(tried))
    scored = sorted(zip(accuracies, tried, strict=True), key=lambda pair: -pair[0])
    show(scored)

    best = scored[0][1]
    accuracy, matrix, png = evaluate.remote(fit.remote(best))
    right = sum(matrix[digit][digit] for digit in range(10))
    print(f"\nThe best setting, {best}, reads {right} of {sum(map(sum, matrix))} held-out digits: {accuracy:.2%}.")
    picture.write_bytes(png)
    print(f"The confusion matrix is in {picture}.")
