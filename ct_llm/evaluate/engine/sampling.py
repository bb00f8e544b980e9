"""Sampled generation whose draws belong to the item, not to the batch or the adapter.

lm-eval draws from torch's global generator, so that a text depends on everything sampled before it.
Here each sample of each item has its own numbers: the same for all adapters (which makes their
difference less noisy), whatever the batch, the order or the number of processes.
"""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lm_eval.api.instance import Instance
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)


def sample_names(requests: Sequence[Instance]) -> list[str]:
    """A name for each request's draws: its task, document, place in it, and which repeat it is."""
    seen: Counter[str] = Counter()
    names: list[str] = []
    for request in requests:
        item = f"{request.task_name}\0{request.doc_id}\0{request.idx}"
        names.append(f"{item}\0{seen[item]}")
        seen[item] += 1
    return names


def draws(name: str, count: int) -> list[float]:
    """Numbers in [0, 1) for a sample's tokens, equal on every machine and Python version."""
    generator = random.Random(name)
    return [generator.random() for _ in range(count)]


def warpers(settings: Mapping[str, Any]) -> LogitsProcessorList:
    """What transformers does to the scores of a sampled token, in its order.

    settings: temperature, top_k, top_p and min_p, in transformers' meaning; None is off.
    """
    temperature, top_k, top_p = settings["temperature"], settings["top_k"], settings["top_p"]
    chain = LogitsProcessorList()
    if temperature is not None and temperature != 1.0:
        chain.append(TemperatureLogitsWarper(float(temperature)))
    if top_k is not None and top_k != 0:
        chain.append(TopKLogitsWarper(top_k=top_k))
    if top_p is not None and top_p < 1.0:
        chain.append(TopPLogitsWarper(top_p=top_p))
    if settings["min_p"] is not None:
        chain.append(MinPLogitsWarper(min_p=settings["min_p"]))
    return chain


def sample(logits: Tensor, chain: LogitsProcessorList, uniform: Tensor) -> Tensor:
    """Tokens [rows] from logits [rows, vocabulary] and draws [rows], by inverting the distribution."""
    tokens_so_far: Any = None  # none of these looks at them
    scores: Any = logits.float()
    for warper in chain:
        scores = warper(tokens_so_far, scores)
    cumulative = torch.softmax(scores, dim=-1).cumsum(dim=-1)
    total = cumulative[:, -1:]
    tokens = torch.searchsorted(cumulative, uniform[:, None] * total, right=True)
    # Rounding may give the total itself: then the last token that has any probability.
    last = (cumulative < total).sum(dim=-1, keepdim=True)
    return torch.minimum(tokens, last)[:, 0]
