"""GPT-2 against transformers 5.x away from the defaults: every setting that changes the numbers, and its heads' own.

The oracle honours `reorder_and_upcast_attn` under eager only, so under sdpa ours is compared with its eager.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from minitf.losses import causal_language_model_loss
from tests.parity.gpt2_pairs import CHOICES, attended, different, for_oracle, gradients, inputs_for, objective, pair
from tests.support import random_value


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def outputs(class_name: str, ours: Any, theirs: Any, inputs: dict[str, Any]) -> list[dict[str, Any]]:
    with torch.no_grad():
        both = ours(**inputs), theirs(**for_oracle(inputs))
    return [attended(class_name, output, inputs["attention_mask"]) for output in both]


SETTINGS: dict[str, dict[str, Any]] = {
    # At the usual 1e-5 nobody can see whether epsilon stands inside or outside of the square root.
    "layer_norm_epsilon=0.25": {"layer_norm_epsilon": 0.25},
    "activation_function=gelu": {"activation_function": "gelu"},
    "activation_function=relu": {"activation_function": "relu"},
    "activation_function=silu": {"activation_function": "silu"},
    "n_inner=None": {"n_inner": None},
    "n_inner=10": {"n_inner": 10},
    "one head": {"n_head": 1},
    "five layers": {"n_layer": 5},
    "scale_attn_weights=False": {"scale_attn_weights": False},
    "scale_attn_by_inverse_layer_idx": {"scale_attn_by_inverse_layer_idx": True, "n_layer": 3},
    "scaled by the layer only": {"scale_attn_weights": False, "scale_attn_by_inverse_layer_idx": True, "n_layer": 3},
}


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("class_name", ["GPT2LMHeadModel", "GPT2ForSequenceClassification"])
def test_settings_that_change_the_numbers(setting: str, attention: str, class_name: str) -> None:
    ours, theirs = pair(class_name, attention=attention, **SETTINGS[setting])
    inputs = inputs_for(class_name, padding="left")
    assert different(*outputs(class_name, ours, theirs, inputs)) == []


@pytest.mark.parametrize("setting", ["scale_attn_weights=False", "scale_attn_by_inverse_layer_idx"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_scalings_are_not_ignored(setting: str, attention: str) -> None:
    inputs = inputs_for("GPT2Model")
    layers = SETTINGS[setting].get("n_layer", 2)
    scaled, plain = (
        pair("GPT2Model", attention=attention, **settings)[0](**inputs).last_hidden_state
        for settings in (SETTINGS[setting], {"n_layer": layers})
    )
    assert (scaled - plain).abs().max() > 0.05


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(
    "extra", [{}, {"scale_attn_by_inverse_layer_idx": True}, {"scale_attn_weights": False}], ids=str
)
def test_reorder_and_upcast_attn(attention: str, dtype: torch.dtype, extra: dict[str, Any], training: bool) -> None:
    """Close to the oracle's eager: it scales while it multiplies, and rounds the probabilities to half precision.

    In float64 there is nothing to raise to float32, and ours computes in float64; the oracle refuses.
    """
    ours, _ = pair("GPT2LMHeadModel", attention=attention, dtype=dtype, reorder_and_upcast_attn=True, **extra)
    _, theirs = pair("GPT2LMHeadModel", dtype=dtype, reorder_and_upcast_attn=dtype != torch.float64, **extra)
    if training and attention == "sdpa":
        for model in (ours, theirs):
            for block in model.transformer.h:
                block.attn.attn_dropout.p = 0.0  # the kernel draws other numbers than the eager function
    inputs = inputs_for("GPT2LMHeadModel")
    losses = []
    for model in (ours, theirs):
        model.train(training)
        torch.manual_seed(3)
        output = model(**inputs)
        # not output.loss, for which the oracle rounds float64 to float32
        output.loss = causal_language_model_loss(output.logits, inputs["labels"])
        output.loss.backward()
        losses.append(attended("GPT2LMHeadModel", output, inputs["attention_mask"]))
    limit = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 0.05}[dtype]
    scale = losses[1]["logits"].abs().max()
    assert (losses[0]["logits"] - losses[1]["logits"]).abs().max() <= limit * scale
    expected = gradients(theirs) if dtype != torch.bfloat16 else {}
    for name, other in expected.items():
        gradient = gradients(ours)[name]
        assert gradient is not None, name
        assert other is not None, name
        # a key's bias adds one number to all scores of a query, so its true gradient is 0
        assert (gradient - other).abs().max() <= 4 * limit * (other.abs().max() + 0.01), name


def test_upcasting_is_more_exact_in_half_precision() -> None:
    """What the setting is for: scores and softmax in float32 are nearer to the float64 result than in bfloat16."""
    hidden = torch.from_numpy(random_value("hidden", (3, 30, 64))).bfloat16()
    errors = {}
    for upcast in (False, True):
        half, _ = pair("GPT2Model", dtype=torch.bfloat16, n_layer=1, reorder_and_upcast_attn=upcast)
        enlarge_scores_(half, 6.0)
        with torch.no_grad():
            three = half.h[0].attn.c_attn(hidden)
            reference = exact_attention(three.double())
            context: list[torch.Tensor] = []
            half.h[0].attn.c_proj.register_forward_pre_hook(lambda *given, into=context: into.append(given[1][0]))
            half.h[0].attn(hidden, torch.ones(1, 1, 30, 30, dtype=torch.bool).tril())
        errors[upcast] = (context[0].double() - reference).pow(2).mean().sqrt().item()
    assert errors[True] < 0.5 * errors[False]


def exact_attention(three: torch.Tensor) -> torch.Tensor:
    """Causal attention of 4 heads of 16 in the dtype of `three` `[B, T, 3C]`, with another formula than the model's."""
    batch, length, _ = three.shape
    query, key, value = three.view(batch, length, 3, 4, 16).permute(2, 0, 3, 1, 4)
    scores = torch.einsum("bhtd,bhsd->bhts", query, key) / 4
    scores = scores.masked_fill(~torch.ones(length, length, dtype=torch.bool).tril(), float("-inf"))
    context = torch.einsum("bhts,bhsd->bhtd", scores.softmax(-1), value)
    return context.permute(0, 2, 1, 3).reshape(batch, length, 64)


def enlarge_scores_(model: torch.nn.Module, factor: float = 200.0) -> torch.nn.Module:
    """Multiply every query and key by `factor`, so that scores differ by far more than 10000."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".c_attn." in name:
                parameter[..., :128].mul_(factor)
    return model


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("padding", ["right", "left"])
def test_what_is_hidden_stays_hidden_whatever_the_scores(padding: str, attention: str) -> None:
    """A mask of -10000, as OpenAI's own code had it, lets padding through here; the smallest float does not."""
    ours, theirs = (enlarge_scores_(model) for model in pair("GPT2LMHeadModel", attention=attention))
    inputs = inputs_for("GPT2LMHeadModel", padding=padding)
    three = ours.transformer.h[0].attn.c_attn(torch.from_numpy(random_value("x", (50, 64))).float())
    assert (three[:, :16] @ three[:, 64:80].T / 4).std() > 10_000
    assert different(*outputs("GPT2LMHeadModel", ours, theirs, inputs)) == []


# ----------------------------------------------------------------------------------------------------- the two heads

SUMMARIES: dict[str, dict[str, Any]] = {
    "default": {},
    "tanh": {"summary_activation": "tanh"},
    "no projection": {"summary_use_proj": False},
    "no projection, tanh": {"summary_use_proj": False, "summary_activation": "tanh"},
    "projection to the hidden size": {"summary_proj_to_labels": False},
    "no dropout": {"summary_first_dropout": 0.0},
    "much dropout": {"summary_first_dropout": 0.7},
}


@pytest.mark.parametrize("summary", SUMMARIES)
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("chosen", ["chosen token", "last token"])
def test_summaries(summary: str, training: bool, chosen: str) -> None:
    """Of the token that mc_token_ids picks, or of the last. Without labels: a summary may be a whole vector."""
    ours, theirs = pair("GPT2DoubleHeadsModel", **SUMMARIES[summary])
    inputs = inputs_for("GPT2DoubleHeadsModel", labels=False)
    if chosen == "last token":
        del inputs["mc_token_ids"]
    results = []
    for model in (ours, theirs):
        model.train(training)
        torch.manual_seed(2)
        output = model(**for_oracle(inputs)) if model is theirs else model(**inputs)
        (output.mc_logits * torch.linspace(-1, 1, output.mc_logits.numel()).view_as(output.mc_logits)).sum().backward()
        results.append({"mc_logits": output.mc_logits, "logits": output.logits})
    assert different(*results) == []
    vector = summary.startswith("no projection") or summary == "projection to the hidden size"
    assert results[0]["mc_logits"].shape == ((3, CHOICES, 64) if vector else (3, CHOICES))
    expected = gradients(theirs)
    for name, gradient in gradients(ours).items():
        assert gradient is not None, name
        assert torch.equal(gradient, expected[name]), name


@pytest.mark.parametrize("kind", ["last", "first", "mean"])
def test_summaries_of_a_fixed_place(kind: str) -> None:
    """Over the tokens of each choice. The oracle takes them over dimension 1, the choices, and so is none here."""
    ours, theirs = pair("GPT2DoubleHeadsModel", summary_type=kind)
    inputs = inputs_for("GPT2DoubleHeadsModel", labels=False, padding="none")
    del inputs["mc_token_ids"]
    with torch.no_grad():
        output = ours(**inputs, output_hidden_states=True)
        hidden = output.hidden_states[-1]
        assert hidden.shape == (3, CHOICES, 7, 64)
        place = {"last": hidden[:, :, -1], "first": hidden[:, :, 0], "mean": hidden.mean(2)}[kind]
        assert torch.equal(output.mc_logits, ours.multiple_choice_head.summary(place).squeeze(-1))
        assert output.mc_logits.shape == (3, CHOICES)
        assert theirs(**for_oracle(inputs)).mc_logits.shape == (3, 7)
        default, _ = pair("GPT2DoubleHeadsModel")
        by_index = torch.full((3, CHOICES), 6 if kind == "last" else 0)
        same = torch.equal(default(**inputs, mc_token_ids=by_index).mc_logits, output.mc_logits)
    assert same is (kind != "mean")


def test_the_number_of_labels_stays_the_users() -> None:
    """The oracle writes num_labels = 1 into the configuration that it is given; ours leaves it alone."""
    ours, theirs = pair("GPT2DoubleHeadsModel", num_labels=5)
    assert (ours.config.num_labels, theirs.config.num_labels) == (5, 1)
    assert ours.multiple_choice_head.summary.out_features == theirs.multiple_choice_head.summary.out_features == 1


@pytest.mark.parametrize("given", [("labels",), ("mc_labels",), ()], ids=str)
def test_either_loss_of_the_two_heads_alone(given: tuple[str, ...]) -> None:
    ours, theirs = pair("GPT2DoubleHeadsModel")
    every = inputs_for("GPT2DoubleHeadsModel")
    inputs = {name: value for name, value in every.items() if not name.endswith("labels") or name in given}
    mine, other = outputs("GPT2DoubleHeadsModel", ours, theirs, inputs)
    assert different(mine, other) == []
    assert {"loss", "mc_loss"} & mine.keys() == {{"labels": "loss", "mc_labels": "mc_loss"}[name] for name in given}


# ------------------------------------------------------------------------------------------------- the classification


def problem_types() -> list[Any]:
    yes_no = torch.tensor([[1.0, 0.0, 1.0, 0.0], [0.0, 0.0, 1.0, 1.0], [1.0, 1.0, 0.0, 0.0]])
    return [
        pytest.param({"num_labels": 1}, torch.tensor([0.3, -1.2, 2.0]), id="regression, one number"),
        pytest.param({"num_labels": 4, "problem_type": "regression"}, yes_no * 3 - 1, id="regression, four numbers"),
        pytest.param({"num_labels": 4}, torch.tensor([3, 0, 2]), id="one label of four"),
        pytest.param({"num_labels": 4}, torch.tensor([3, -100, 2]), id="one label of four, one not scored"),
        pytest.param({"num_labels": 4}, yes_no, id="several labels of four"),
        pytest.param({"num_labels": 2}, torch.tensor([[1], [0], [1]]), id="labels as a column"),
    ]


@pytest.mark.parametrize(("settings", "labels"), problem_types())
@pytest.mark.parametrize("padding", ["right", "left", "none"])
def test_sequence_classification_losses_by_problem_type(
    settings: dict[str, Any], labels: torch.Tensor, padding: str
) -> None:
    ours, theirs = pair("GPT2ForSequenceClassification", **settings)
    inputs = inputs_for("GPT2ForSequenceClassification", labels=False, padding=padding)
    mine, other = ours(**inputs, labels=labels), theirs(**inputs, labels=labels)
    assert different(mine, other) == []
    assert ours.config.problem_type == settings.get("problem_type")  # inferred for the call, not written to the config
    mine.loss.backward()
    other.loss.backward()
    assert torch.equal(ours.score.weight.grad, theirs.score.weight.grad)


def test_the_last_token_is_found_on_either_side() -> None:
    """Rows of different lengths, padded left, right, or alone, have the same logits."""
    ours, _ = pair("GPT2ForSequenceClassification", num_labels=3)
    rows = [[5, 6, 7, 8], [9, 10], [11, 12, 13]]
    with torch.no_grad():
        alone = torch.cat([ours(torch.tensor([row])).logits for row in rows])
        for side in ("left", "right"):
            padded = [([0] * (4 - len(row)) + row) if side == "left" else (row + [0] * (4 - len(row))) for row in rows]
            mask = (torch.tensor(padded) != 0).long()
            positions = (mask.cumsum(1) - 1).clamp(min=0)
            logits = ours(torch.tensor(padded), attention_mask=mask, position_ids=positions).logits
            torch.testing.assert_close(logits, alone, rtol=0, atol=1e-5)


def test_sequence_classification_without_a_padding_token() -> None:
    ours, theirs = pair("GPT2ForSequenceClassification", pad_token_id=None)
    inputs = inputs_for("GPT2ForSequenceClassification", labels=False, padding="none")
    with pytest.raises(ValueError, match=r"config\.pad_token_id, which is None: set it"):
        ours(**inputs)
    one = {name: value[:1] for name, value in inputs.items()}
    assert different(*outputs("GPT2ForSequenceClassification", ours, theirs, one)) == []
    states = ours.get_input_embeddings()(inputs.pop("input_ids")).detach()
    ours.config.pad_token_id = theirs.config.pad_token_id = 0
    embedded = {**inputs, "inputs_embeds": states}
    assert different(*outputs("GPT2ForSequenceClassification", ours, theirs, embedded)) == []


@pytest.mark.parametrize("dropout", [None, 0.0, 0.5])
def test_dropout_of_token_classification(dropout: float | None) -> None:
    settings = {} if dropout is None else {"classifier_dropout": dropout}
    ours, theirs = pair("GPT2ForTokenClassification", num_labels=5, **settings)
    assert ours.dropout.p == theirs.dropout.p == (0.1 if dropout is None else dropout)
    inputs = inputs_for("GPT2ForTokenClassification")
    results = []
    for model in (ours.train(), theirs.train()):
        torch.manual_seed(1)
        results.append(model(**inputs))
    assert different(*results) == []


@pytest.mark.parametrize("setting", ["embd_pdrop", "resid_pdrop", "attn_pdrop"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_each_dropout_in_its_own_place(setting: str, attention: str) -> None:
    names = ("embd_pdrop", "resid_pdrop", "attn_pdrop")
    ours, theirs = pair("GPT2Model", attention=attention, **{name: 0.6 if name == setting else 0.0 for name in names})
    inputs = inputs_for("GPT2Model")
    results = []
    for model in (ours.train(), theirs.train()):
        torch.manual_seed(1)
        results.append(model(**inputs))
    assert different(*results) == []
    assert different(results[0], ours.eval()(**inputs)) != []


@pytest.mark.parametrize("class_name", ["GPT2LMHeadModel", "GPT2DoubleHeadsModel", "GPT2ForQuestionAnswering"])
def test_gradient_checkpointing_changes_no_number(class_name: str) -> None:
    ours, theirs = pair(class_name)
    inputs = inputs_for(class_name)
    for model in (ours, theirs):
        model.train()
        model.gradient_checkpointing_enable()
        torch.manual_seed(4)
        output = model(**(inputs if model is ours else for_oracle(inputs)))
        objective(class_name, output, inputs["attention_mask"]).backward()
    expected = gradients(theirs)
    for name, gradient in gradients(ours).items():
        assert gradient is not None, name
        assert torch.equal(gradient, expected[name]), name
