"""The golden cases of BERT: what transformers 5.x dropped or changed, and 4.49.0 still computes.

Every batch is padded, on the right in one half of the cases and on the left in the other. Names say what differs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.goldens.bert_runs import Case

DECODER: dict[str, Any] = {"is_decoder": True}
CROSS: dict[str, Any] = {"is_decoder": True, "add_cross_attention": True}
EVERYTHING: dict[str, Any] = {"output_hidden_states": True, "output_attentions": True}
ATTENTIONS: dict[str, Any] = {"output_attentions": True}
GRADIENTS = ("distance_embedding.weight", "attention.self.query.weight", "word_embeddings.weight")
NO_DROPOUT: dict[str, Any] = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
SIDES = ("right", "left")


def relative_cases() -> Iterator[Case]:
    """Relative positions (Shaw et al., arXiv:1803.02155; Huang et al., arXiv:2009.13658), gone from 5.x."""
    for kind in ("relative_key", "relative_key_query"):
        config = {"position_embedding_type": kind}
        for side in SIDES:
            yield Case(
                f"{kind} encoder {side}",
                "relative",
                "encoder: all outputs; gradients of the outputs times fixed random weights",
                "BertModel",
                "forward",
                config,
                {"padding": side, "flags": EVERYTHING if side == "right" else ATTENTIONS},
                {"backward": True, "gradients": GRADIENTS if side == "right" else GRADIENTS[:1]},
            )
            yield Case(
                f"{kind} masked LM {side}",
                "relative",
                "logits, loss and gradient digests of the masked language model",
                "BertForMaskedLM",
                "forward",
                config,
                {"padding": side, "labels": ["tokens"]},
                {"backward": True, "keep": ["loss", "logits"] if side == "right" else ["loss"]},
            )
            yield from relative_decoder_cases(kind, side)
        yield Case(
            f"{kind} encoder float64",
            "relative",
            "the encoder in double precision",
            "BertModel",
            "forward",
            config,
            {"padding": "left"},
            {"backward": True, "dtype": "float64"},
        )
        yield Case(
            f"{kind} encoder, heads of 8",
            "relative",
            "a head size whose square root is irrational: scaled by division in 4.49, so equal up to rounding only",
            "BertModel",
            "forward",
            {**config, "num_attention_heads": 4},
            {"padding": "right"},
            {"backward": True, "gradients": GRADIENTS[:1], "rounded": True},
        )


def relative_decoder_cases(kind: str, side: str) -> Iterator[Case]:
    config = {"position_embedding_type": kind}
    for name, decoder in (("decoder", DECODER), ("cross-attention decoder", CROSS)):
        encoder = {"encoder": True} if decoder is CROSS else {}
        yield Case(
            f"{kind} {name} {side}",
            "relative",
            "uncached logits, loss and gradients at attended positions (cross-attention has no relative positions)",
            "BertLMHeadModel",
            "forward",
            {**config, **decoder},
            {"padding": side, "labels": ["next_token"], "flags": {**ATTENTIONS, "use_cache": False}, **encoder},
            {"backward": True, "gradients": GRADIENTS[:1]},
        )
        if decoder is CROSS and side == "right":
            continue
        yield Case(
            f"{kind} {name} cached {side}",
            "relative",
            "decoded with a cache; 4.49 takes every query of a later piece for the last position, "
            "so its numbers are right for pieces of one token and wrong for longer ones",
            "BertLMHeadModel",
            "cached",
            {**config, **decoder},
            {"padding": side, **encoder},
            {"pieces": [[2, 1, 1, 1], [1, 1, 1, 1, 1], [2, 3]], "first": 1},
        )


HEAD_MASKS: dict[str, Any] = {
    "[H] of 0 and 1": [1.0, 0.0],
    "[H] fractional": [0.5, 1.25],
    "[L, H] of 0 and 1": [[1.0, 0.0], [0.0, 1.0]],
    "[L, H] fractional": [[0.25, 1.0], [0.0, 0.75]],
    "all zeros": [[0.0, 0.0], [0.0, 0.0]],
    "[L, B, H, 1, 1]": [
        [[[[1.0]], [[0.0]]], [[[0.5]], [[1.0]]], [[[0.0]], [[0.25]]]],
        [[[[0.0]], [[1.0]]], [[[1.0]], [[2.0]]], [[[1.0]], [[1.0]]]],
    ],
}


def head_mask_cases() -> Iterator[Case]:
    """Factors on the probabilities of each head; 5.x accepts the argument and ignores it."""
    for number, (form, mask) in enumerate(HEAD_MASKS.items()):
        side = SIDES[number % 2]
        inputs = {"padding": side, "head_mask": mask}
        yield Case(
            f"head_mask {form} encoder",
            "head_mask",
            "outputs, attention probabilities (they carry the factor), gradient with respect to the mask",
            "BertModel",
            "forward",
            {},
            {**inputs, "flags": ATTENTIONS},
            {"backward": True},
        )
        yield Case(
            f"head_mask {form} classifier",
            "head_mask",
            "loss, logits, gradient of the loss with respect to the mask (head importance, arXiv:1905.10650)",
            "BertForSequenceClassification",
            "forward",
            {"num_labels": 3},
            {**inputs, "labels": ["class"], "flags": ATTENTIONS},
            {"backward": True},
        )
        yield Case(
            f"head_mask {form} decoder",
            "head_mask",
            "the decoder's loss, logits and gradients",
            "BertLMHeadModel",
            "forward",
            DECODER,
            {**inputs, "labels": ["next_token"], "flags": {"use_cache": False}},
            {"backward": True, "keep": ["loss"] if number % 2 else ["loss", "logits"]},
        )
    yield from further_head_mask_cases()


def further_head_mask_cases() -> Iterator[Case]:
    mask = HEAD_MASKS["[L, H] fractional"]
    yield Case(
        "head_mask cross-attention decoder",
        "head_mask",
        "the mask of a layer acts on its self-attention and on its cross-attention",
        "BertLMHeadModel",
        "forward",
        CROSS,
        {
            "padding": "left",
            "encoder": True,
            "labels": ["next_token"],
            "head_mask": mask,
            "flags": {**ATTENTIONS, "use_cache": False},
        },
        {"backward": True},
    )
    yield Case(
        "head_mask with relative_key_query",
        "head_mask",
        "together with relative positions",
        "BertModel",
        "forward",
        {"position_embedding_type": "relative_key_query"},
        {"padding": "right", "head_mask": mask, "flags": ATTENTIONS},
        {"backward": True},
    )
    yield Case(
        "head_mask float64",
        "head_mask",
        "in double precision",
        "BertModel",
        "forward",
        {},
        {"padding": "left", "head_mask": mask},
        {"backward": True, "dtype": "float64"},
    )
    for side in SIDES:
        yield Case(
            f"no head_mask {side}",
            "head_mask",
            "the same encoder without a mask: what the cases above must differ from",
            "BertModel",
            "forward",
            {},
            {"padding": side},
        )


PRUNINGS: dict[str, Any] = {
    "one head": [{0: [1]}],
    "two layers": [{0: [1, 3], 1: [0]}],
    "cumulative, another layer": [{0: [0]}, {1: [0]}],
    "cumulative, the same layer": [{0: [1]}, {0: [3], 1: [2]}],
    "the same head twice": [{0: [1]}, {0: [1, 2]}],
    "a whole layer": [{1: [0, 1, 2, 3]}],
}


def pruning_cases() -> Iterator[Case]:
    """Heads cut out of the matrices, numbered as in the unpruned model; gone from 5.x."""
    wide = {"hidden_size": 64, "num_attention_heads": 4}
    for number, (name, steps) in enumerate(PRUNINGS.items()):
        yield Case(
            f"prune {name}",
            "pruning",
            "four heads of 16",
            "BertModel",
            "pruned",
            wide,
            {"padding": SIDES[number % 2]},
            {"prune": steps, "constructor": {"add_pooling_layer": False}},
        )
    steps = PRUNINGS["cumulative, the same layer"]
    yield Case(
        "prune heads of 8",
        "pruning",
        "four heads of 8: equal up to rounding",
        "BertModel",
        "pruned",
        {"num_attention_heads": 4},
        {"padding": "left"},
        {"prune": steps, "rounded": True},
    )
    for kind in ("relative_key", "relative_key_query"):
        yield Case(
            f"prune with {kind}",
            "pruning",
            "the distance embedding belongs to all heads and keeps its shape",
            "BertModel",
            "pruned",
            {**wide, "position_embedding_type": kind},
            {"padding": "right"},
            {"prune": [{0: [2]}], "constructor": {"add_pooling_layer": False}},
        )
    yield Case(
        "prune classifier",
        "pruning",
        "called on a class with a head",
        "BertForSequenceClassification",
        "pruned",
        {**wide, "num_labels": 3},
        {"padding": "right", "labels": ["class"]},
        {"prune": steps},
    )
    yield Case(
        "prune decoder",
        "pruning",
        "called on the decoder",
        "BertLMHeadModel",
        "pruned",
        {**wide, **DECODER},
        {"padding": "left", "flags": {"use_cache": False}},
        {"prune": steps},
    )


TUPLES: dict[str, tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    # name: class, config, inputs, constructor arguments
    "BertModel": ("BertModel", {}, {}, {}),
    "BertModel without pooler": ("BertModel", {}, {}, {"add_pooling_layer": False}),
    "BertModel decoder": ("BertModel", DECODER, {}, {}),
    "BertModel cross-attention decoder": ("BertModel", CROSS, {"encoder": True}, {}),
    "BertForPreTraining": ("BertForPreTraining", {}, {"labels": ["tokens", "next"]}, {}),
    "BertForPreTraining without labels": ("BertForPreTraining", {}, {}, {}),
    "BertLMHeadModel": ("BertLMHeadModel", {}, {"labels": ["next_token"]}, {}),
    "BertLMHeadModel decoder": ("BertLMHeadModel", DECODER, {"labels": ["next_token"]}, {}),
    "BertLMHeadModel decoder without labels": ("BertLMHeadModel", DECODER, {}, {}),
    "BertLMHeadModel cross-attention decoder": (
        "BertLMHeadModel",
        CROSS,
        {"encoder": True, "labels": ["next_token"]},
        {},
    ),
    "BertForMaskedLM": ("BertForMaskedLM", {}, {"labels": ["tokens"]}, {}),
    "BertForNextSentencePrediction": ("BertForNextSentencePrediction", {}, {"labels": ["class"]}, {}),
    "BertForSequenceClassification": ("BertForSequenceClassification", {"num_labels": 3}, {"labels": ["class"]}, {}),
    "BertForMultipleChoice": ("BertForMultipleChoice", {}, {"choices": 2, "labels": ["class"]}, {}),
    "BertForTokenClassification": ("BertForTokenClassification", {"num_labels": 4}, {"labels": ["tags"]}, {}),
    "BertForQuestionAnswering": ("BertForQuestionAnswering", {}, {"labels": ["span"]}, {}),
}


def tuple_cases() -> Iterator[Case]:
    """`return_dict=False`, with hidden states and attentions."""
    for number, (name, (model, config, inputs, constructor)) in enumerate(TUPLES.items()):
        yield Case(
            f"tuple {name}",
            "tuples",
            "order, kinds and shapes of the plain tuple; loss and logits",
            model,
            "tuple",
            config,
            {"padding": SIDES[number % 2], **inputs},
            {"constructor": constructor} if constructor else {},
        )


def graph_cases() -> Iterator[Case]:
    """`torchscript=True`, gradient checkpointing, chunked feed-forward."""
    for model, config in (
        ("BertModel", {}),
        ("BertForPreTraining", {}),
        ("BertForMaskedLM", {}),
        ("BertLMHeadModel", DECODER),
    ):
        yield Case(
            f"torchscript {model}",
            "graph",
            "plain tuples; the decoder weight is a parameter of its own, the decoder bias stays shared",
            model,
            "torchscript",
            config,
            {"padding": "left"},
        )
    for side in SIDES:
        yield Case(
            f"memory {side}",
            "graph",
            "training mode: the same numbers plain, with gradient checkpointing, with feed-forward chunks of 2",
            "BertModel",
            "memory",
            NO_DROPOUT,
            {"padding": side, "length": 6},
            {"train": True, "gradients": ("layer.0.attention.self.query.weight",)},
        )
    yield Case(
        "uneven chunks",
        "graph",
        "5 positions in chunks of 2",
        "BertModel",
        "uneven_chunks",
        {},
        {"padding": "right"},
    )


CASES: tuple[Case, ...] = (
    *relative_cases(),
    *head_mask_cases(),
    *pruning_cases(),
    *tuple_cases(),
    *graph_cases(),
)
