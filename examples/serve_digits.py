"""The digits model of the sweep, served over HTTP: a picture in, the digit and its probabilities out.

    stoker server start
    stoker deploy examples/serve_digits.py
    stoker run examples/serve_digits.py --digit 7 --out seven.png      # a picture to try
    curl --data-binary @seven.png -H 'content-type: image/png' http://127.0.0.1:7410/digits/Digits/classify

http://127.0.0.1:7410/digits/docs says what it takes and gives. The model is trained once, before workers are forked:
each has it at once. Requests that come together are classified together.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import stoker

image = stoker.Image.python().pip_install("scikit-learn==1.6.1", "pillow==11.1.0")
app = stoker.App("digits", image=image)

SIDE = 8  # pixels, as the pictures that the model is trained on
BRIGHTEST = 16.0  # of those


@dataclass
class Guess:
    """What a picture shows: the likeliest digit, and how likely each of the ten is."""

    digit: int
    probabilities: list[float]


@app.cls(max_workers=2, max_pending=500, idle_timeout="10m")
class Digits:
    """A support vector machine, with the setting that the sweep found best."""

    @stoker.enter(snapshot=True)
    def train(self) -> None:
        from sklearn.datasets import load_digits
        from sklearn.svm import SVC

        images, digits = load_digits(return_X_y=True)
        self.model = SVC(C=10.0, gamma=0.001, probability=True, random_state=7).fit(images, digits)

    @stoker.endpoint(requires_token=False)
    @stoker.method(batch=stoker.Batch(max_size=32, max_wait="5ms"))
    def classify(self, picture: list[bytes]) -> list[Guess]:
        """Say which digit a picture shows: a PNG or JPEG of any size, bright on dark or dark on bright."""
        read = [pixels(one) for one in picture]
        good = [one for one in read if one is not None]
        found = iter(self.model.predict_proba(good) if good else [])
        # What is no picture is an answer to its sender alone: the others are classified all the same.
        return [NO_PICTURE if one is None else guess(next(found)) for one in read]  # type: ignore[misc]


NO_PICTURE = stoker.Response(
    '{"error":{"type":"NoPicture","message":"This is no picture that could be opened.","call_id":null}}',
    status=400,
    media_type="application/json",
)


def pixels(picture: bytes) -> list[float] | None:
    """Return a picture as the model sees it; None for what is none."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(picture)) as opened:
            gray = opened.convert("L")
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError):
        return None
    if gray.resize((1, 1)).getpixel((0, 0)) > 127:  # type: ignore[operator]
        gray = ImageOps.invert(gray)
    small = gray.resize((SIDE, SIDE), Image.Resampling.BOX)
    brightest = max(small.getdata()) or 1
    return [BRIGHTEST * value / brightest for value in small.getdata()]


def guess(probabilities: Any) -> Guess:
    return Guess(int(probabilities.argmax()), [round(float(one), 4) for one in probabilities])


@app.function()
def sample(digit: int) -> bytes:
    """Return a picture of a digit, of those that the model knows."""
    from PIL import Image
    from sklearn.datasets import load_digits

    images, digits = load_digits(return_X_y=True)
    found = images[digits == digit][0].reshape(SIDE, SIDE)
    out = io.BytesIO()
    Image.fromarray((found * 255 / BRIGHTEST).astype("uint8")).resize((160, 160)).save(out, "PNG")
    return out.getvalue()


@app.local_entrypoint()
def main(digit: int = 7, out: str = "digit.png") -> None:
    """Write a picture of a digit to try the endpoint with."""
    Path(out).write_bytes(sample.remote(digit))
    print(f"a {digit} is in {out}")
