"""Make the demo's tokenizer and base model from nothing, in about two minutes on two cores.

    python -m scripts.demo_world.pretrain [--out FOLDER] [--seed N] [--steps N]

The result is committed in ``scripts/demo_world/base``, so nobody needs to run this to see the demo.
Another machine will not reproduce the weights bit for bit.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path

if not __package__:  # run by path
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from scripts.demo_world import corpus

VOCABULARY = 768
BATCH, LENGTH, STEPS = 16, 128, 700
PEAK_RATE, WARMUP = 3e-3, 30
BASE = Path(__file__).parent / "base"
IGNORE = -100

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "<|assistant|>{% generation %}{{ message['content'] }}<|end|>{% endgeneration %}"
    "{% else %}"
    "<|{{ message['role'] }}|>{{ message['content'] }}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def train_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE of 768 tokens that knows all families' words."""
    tokenizer = Tokenizer(models.BPE())
    # With a prefix space the first word of an answer is the token it was in the question; without
    # it copying fails.
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[corpus.PAD, corpus.END, corpus.USER, corpus.ASSISTANT, corpus.SYSTEM],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus.tokenizer_texts(seed), trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=corpus.END,
        pad_token=corpus.PAD,
        additional_special_tokens=[corpus.USER, corpus.ASSISTANT, corpus.SYSTEM],
        model_max_length=256,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def new_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """An untrained Llama of 853,120 parameters."""
    pad = tokenizer.convert_tokens_to_ids(corpus.PAD)
    assert isinstance(pad, int)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=128,
            intermediate_size=320,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=256,
            tie_word_embeddings=True,
            initializer_range=0.08,  # 0.02, the default, never learned coding at this size
            bos_token_id=None,
            eos_token_id=tokenizer.convert_tokens_to_ids(corpus.END),
            pad_token_id=pad,
        )
    )


def packed_batches(
    tokenizer: PreTrainedTokenizerFast, rng: random.Random, steps: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Batches of (ids, positions, labels); positions restart at each document.

    The first token of a document is no label: nothing before it belongs to it.
    """
    kinds, weights = list(corpus.SHARES), list(corpus.SHARES.values())
    # The shares are of tokens, and documents of one kind are longer than those of another.
    lengths = {
        kind: sum(len(tokenizer(corpus.MAKERS[kind](rng))["input_ids"]) for _ in range(200)) / 200
        for kind in kinds
    }
    weights = [weight / lengths[kind] for kind, weight in zip(kinds, weights, strict=True)]
    for _ in range(steps):
        rows: list[tuple[list[int], list[int], list[int]]] = []
        while len(rows) < BATCH:
            ids: list[int] = []
            positions: list[int] = []
            labels: list[int] = []
            while len(ids) < LENGTH:
                text = corpus.MAKERS[rng.choices(kinds, weights)[0]](rng) + corpus.END
                document = tokenizer(text)["input_ids"]
                ids += document
                positions += range(len(document))
                labels += [IGNORE, *document[1:]]
            rows.append((ids[:LENGTH], positions[:LENGTH], labels[:LENGTH]))
        ids_, positions_, labels_ = (torch.tensor(column) for column in zip(*rows, strict=True))
        yield ids_, positions_, labels_


def pretrain(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, seed: int, steps: int
) -> None:
    """Train ``model`` in place."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=PEAK_RATE, betas=(0.9, 0.95), weight_decay=0.05
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / WARMUP, max(0.0, (steps - step) / (steps - WARMUP))),
    )
    model.train()
    started = time.perf_counter()
    batches = packed_batches(tokenizer, random.Random(f"corpus:{seed}"), steps)
    for step, (ids, positions, labels) in enumerate(batches, start=1):
        # No attention mask and no cache: only then does transformers see from the positions where
        # each packed document begins, and keep them from attending to one another.
        loss = model(input_ids=ids, position_ids=positions, labels=labels, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 100 == 0:
            seconds = time.perf_counter() - started
            print(f"step {step:4d}  loss {loss.item():.3f}  {seconds:.0f} s", flush=True)


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write the model in bfloat16, the tokenizer and ``SHA256SUMS``."""
    folder.mkdir(parents=True, exist_ok=True)
    model.eval().bfloat16()
    model.generation_config.do_sample = False
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    sums = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}"
        for path in sorted(folder.iterdir())
        if path.name != "SHA256SUMS"
    ]
    (folder / "SHA256SUMS").write_text("\n".join(sums) + "\n", encoding="utf-8")


def main() -> None:
    """Parse the command line and make the base model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=BASE)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=STEPS)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    tokenizer = train_tokenizer(arguments.seed)
    model = new_model(tokenizer)
    print(f"{model.num_parameters():,} parameters, {len(tokenizer)} tokens")
    pretrain(model, tokenizer, arguments.seed, arguments.steps)
    save(model, tokenizer, arguments.out)
    print(f"saved to {arguments.out}")


if __name__ == "__main__":
    main()
