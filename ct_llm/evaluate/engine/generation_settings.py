"""What a generation request asks for, and whether the decode loop here does exactly that."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs
from transformers import GenerationConfig, GenerationMixin

OWN = {"eos_token_id", "do_sample", "temperature", "top_k", "top_p", "min_p"}
"""Settings that the decode loop follows."""
WITHOUT_EFFECT = {
    # lm-eval gives its own.
    "pad_token_id",
    "max_length",
    # Only how it is computed.
    "use_cache",
    "compile_config",
    "disable_compile",
    "prefill_chunk_size",
    # Only for prompts without tokens, for beams, or for a second model.
    "bos_token_id",
    "early_stopping",
    "length_penalty",
    "is_assistant",
    "num_assistant_tokens",
    "num_assistant_tokens_schedule",
    "assistant_confidence_threshold",
    "assistant_early_exit",
    "assistant_lookbehind",
    "assistant_ensemble_weight",
    "target_lookbehind",
    "max_matching_ngram_size",
    "speculation_type",
    "diversity_penalty",
    # Where the file comes from.
    "transformers_version",
    "_from_model_config",
}
CACHES = {None, "dynamic", "static", "hybrid"}
"""Caches that hold the keys and values as they are."""


@dataclass(frozen=True)
class GenerationSettings:
    stops: tuple[str, ...]
    """Stop strings, lm-eval's own (the end of text) last."""
    max_tokens: int
    eos: frozenset[int]
    """Tokens that end a generation besides."""
    sampling: Mapping[str, Any] | None
    """temperature, top_k, top_p, min_p; None: the likeliest token each time."""


def generation_settings(
    lm: Any, model: Any, gen_kwargs: Mapping[str, Any]
) -> GenerationSettings | str:
    """The settings of requests with these generation_kwargs, or why they are not for this loop.

    As lm-eval's HFLM.generate_until and transformers' generate read them: a request's own over the
    model's generation_config over transformers' defaults.
    """
    kwargs: dict[str, Any] = dict(normalize_gen_kwargs(dict(gen_kwargs), lm.max_gen_toks))
    eos_text = lm.tok_decode(lm.eot_token_id, skip_special_tokens=False)
    stops = handle_stop_sequences(kwargs.pop("until", None), eos=eos_text)
    max_tokens = kwargs.pop("max_gen_toks")
    if "max_length" in kwargs:
        return "max_length counts the padding of the batch"
    if max_tokens < 1 or lm.max_length - max_tokens < 1:
        return "no room for a prompt or for an answer"
    if not all(isinstance(stop, str) for stop in stops):
        return "stop strings that are no strings"

    merged = _merged(model.generation_config, kwargs)
    neutral = GenerationConfig._get_default_generation_params()
    for name, value in merged.items():
        if name in OWN or name in WITHOUT_EFFECT:
            continue
        if value is None or value is False or (name in neutral and value == neutral[name]):
            continue
        if name == "cache_implementation" and value in CACHES:
            continue
        return f"{name} = {value!r}"
    if merged["do_sample"]:
        # lm-eval's default is 0, not the model's; transformers refuses it.
        temperature = kwargs.get("temperature", 0.0)
        if not temperature > 0.0:
            return "sampling at temperature 0"
        sampling = {name: merged[name] for name in ("top_k", "top_p", "min_p")}
        sampling["temperature"] = temperature
    else:
        sampling = None
    eos = merged["eos_token_id"]
    ends = frozenset([eos] if isinstance(eos, int) else eos or [])
    return GenerationSettings(tuple(stops), max_tokens, ends, sampling)


def plain_generation(lm: Any, model: Any) -> str | None:
    """Why this model does not generate as a plain causal LM does, if so."""
    if lm.backend != "causal":
        return "not a causal model"
    if getattr(lm, "mixed_precision_dtype", None) is not None:
        return "mixed precision"
    for name in ("generate", "prepare_inputs_for_generation"):
        if getattr(type(model), name, None) is not getattr(GenerationMixin, name):
            return f"a {name} of its own"
    return None


def _merged(config: GenerationConfig, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    merged: dict[str, Any] = GenerationConfig().to_dict()
    merged.update(GenerationConfig._get_default_generation_params())
    merged.update({name: value for name, value in config.to_dict().items() if value is not None})
    merged.update(kwargs)
    return merged
