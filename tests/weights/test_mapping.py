"""Names: patterns, invertible tables, and the plan in which every name is accounted for."""

from __future__ import annotations

import pytest
import torch

from tests.support import minilm_folder, shared_data
from weights_tools import tables
from weights_tools.files import WeightsError, open_checkpoint
from weights_tools.mapping import IDENTITY, TRANSPOSE, Dialect, Plan, Row, invert, matcher, plan

ENCODER = {
    "embeddings.word_embeddings.weight": (11, 4),
    "embeddings.LayerNorm.weight": (4,),
    "embeddings.LayerNorm.bias": (4,),
    "encoder.layer.0.attention.self.query.weight": (4, 4),
    "encoder.layer.1.attention.self.query.weight": (4, 4),
}
POOLER = {"pooler.dense.weight": (4, 4), "pooler.dense.bias": (4,)}
BARE = {**ENCODER, **POOLER}
HEAD = {"classifier.weight": (3, 4), "classifier.bias": (3,)}
CLS = {"cls.predictions.bias": (11,), "cls.predictions.transform.LayerNorm.weight": (4,)}
ALIASES = {
    "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}
HEADS = ["cls.{rest}", "classifier.{rest}", "pooler.{rest}"]


def prefixed(shapes: dict) -> dict:
    return {f"bert.{name}": shape for name, shape in shapes.items()}


CLASSIFIER = {**prefixed(BARE), **HEAD}
MASKED = {**prefixed(ENCODER), **CLS}


def bert_plan(source: dict, target: dict, **options) -> Plan:
    options = {"base_prefix": "bert", "other_heads": HEADS, "model_name": "BertX", **options}
    made = plan(source, target, **options)
    listed = [
        *{name for name, _ in made.sources.values()},  # a tied weight may serve two targets
        *[name for name, _ in made.dropped],
        *made.unexpected,
        *[name for name, _ in made.duplicates],
    ]
    # Every source name is in exactly one list (misshapen ones are listed by their target, and counted here).
    assert len(set(listed)) == len(listed)
    assert set(listed) <= set(source)
    assert len(listed) + len(made.misshapen) == len(source)
    assert sorted([*made.sources, *made.missing, *[name for name, _, _ in made.misshapen]]) == sorted(target)
    return made


@pytest.mark.parametrize(
    ("pattern", "name", "found"),
    [
        ("{path}LayerNorm.gamma", "LayerNorm.gamma", {"path": ""}),
        ("{path}LayerNorm.gamma", "bert.encoder.layer.0.LayerNorm.gamma", {"path": "bert.encoder.layer.0."}),
        ("{path}LayerNorm.gamma", "myLayerNorm.gamma", None),
        ("{path}LayerNorm.gamma", "LayerNorm.gamma.x", None),
        ("h.{layer}.attn.{rest}", "h.11.attn.c_attn.weight", {"layer": "11", "rest": "c_attn.weight"}),
        ("h.{layer}.attn.bias", "h.1.2.attn.bias", None),
        ("a.b", "axb", None),
    ],
)
def test_patterns(pattern: str, name: str, found: dict | None) -> None:
    assert matcher(pattern)(name) == found


def test_rows_refuse_what_has_no_inverse() -> None:
    with pytest.raises(ValueError, match="different placeholders: it has no inverse"):
        Row("a.{layer}", "b")
    with pytest.raises(ValueError, match="drops a name without saying why"):
        Row("a", None)


def test_ops_both_ways() -> None:
    tensor = torch.arange(6.0).view(2, 3)
    for op in (IDENTITY, TRANSPOSE):
        there = op.apply(tensor)
        assert tuple(there.shape) == op.shape((2, 3))
        assert torch.equal(op.invert(there), tensor)
        assert torch.equal(op.reversed().apply(there), tensor)


@pytest.mark.parametrize("dialect", tables.DIALECTS[-2:], ids=lambda dialect: dialect.name)
def test_tables_invert(dialect: Dialect) -> None:
    there = {}
    for name in (*prefixed(BARE), *CLS, *HEAD):
        back = Dialect("back", invert(dialect.rows), "", lambda names: None).translate(name)[0]
        assert back is not None
        there[back] = name
        assert dialect.translate(back)[0] == name
    assert len(there) == len(BARE) + len(CLS) + len(HEAD)


def test_identity() -> None:
    made = bert_plan(CLASSIFIER, CLASSIFIER)
    assert made.fits == len(CLASSIFIER)
    assert made.sources == {name: (name, IDENTITY) for name in CLASSIFIER}
    assert (made.dialect, made.prefix_note, made.renamed, made.dropped) == ("hf", "", [], [])


def test_prefix_added_for_a_head_class() -> None:
    made = bert_plan(BARE, CLASSIFIER)
    assert made.sources["bert.pooler.dense.bias"].name == "pooler.dense.bias"
    assert made.missing == ["classifier.weight", "classifier.bias"]
    assert made.unexpected == []
    assert made.prefix_note == "checkpoint has no 'bert.' prefix: added to all backbone names"
    assert made.renamed == []


def test_bare_names_beside_a_head() -> None:
    made = bert_plan({**BARE, **HEAD}, CLASSIFIER)
    assert made.missing == []
    assert made.sources["classifier.bias"].name == "classifier.bias"


def test_prefix_removed_for_the_bare_model() -> None:
    made = bert_plan({**MASKED, **prefixed(POOLER)}, BARE)
    assert made.missing == made.unexpected == []
    assert made.dropped == [(name, "weights of a task head that BertX does not have") for name in CLS]
    assert made.prefix_note == "checkpoint has the prefix 'bert.': removed from all backbone names"


def test_pooler_that_the_model_does_not_have() -> None:
    for source in (prefixed(BARE), BARE):
        made = bert_plan(source, MASKED)
        assert [name.removeprefix("bert.") for name, _ in made.dropped] == list(POOLER)
        assert made.missing == list(CLS)


def test_unknown_head_is_unexpected() -> None:
    made = bert_plan({**BARE, "cls_new.weight": (3, 4), "classifiers.weight": (3, 4)}, BARE)
    assert made.unexpected == ["cls_new.weight", "classifiers.weight"]


def test_mixed_prefixes_for_one_target() -> None:
    with pytest.raises(WeightsError) as caught:
        plan({**BARE, **prefixed(BARE)}, BARE, base_prefix="bert")
    assert "'embeddings.word_embeddings.weight' and 'bert.embeddings.word_embeddings.weight'" in str(caught.value)


def test_half_the_names_with_prefix_do_not_fit_silently() -> None:
    made = bert_plan({**prefixed(ENCODER), **POOLER}, {**prefixed(BARE)}, other_heads=[])
    assert made.unexpected == list(POOLER)
    assert made.missing == list(prefixed(POOLER))


def test_legacy_names() -> None:
    old = {name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): shape
           for name, shape in BARE.items()}  # fmt: skip
    made = bert_plan(old, CLASSIFIER)
    assert made.dialect == "hf-legacy"
    assert made.reason == "'embeddings.LayerNorm.gamma' and 1 more names say gamma or beta"
    assert made.renamed == [
        ("embeddings.LayerNorm.gamma", "bert.embeddings.LayerNorm.weight"),
        ("embeddings.LayerNorm.beta", "bert.embeddings.LayerNorm.bias"),
    ]
    assert made.missing == list(HEAD)


def test_old_and_new_name_for_one_weight() -> None:
    with pytest.raises(
        WeightsError, match=r"embeddings.LayerNorm.weight has two sources .*'embeddings.LayerNorm.gamma'"
    ):
        plan({**BARE, "embeddings.LayerNorm.gamma": (4,)}, BARE, base_prefix="bert")


def test_buffers_are_dropped_by_rule() -> None:
    made = bert_plan(
        {**prefixed(BARE), "bert.embeddings.position_ids": (1, 5), "embeddings.position_ids": (1, 5)}, BARE
    )
    assert made.dropped == [
        ("bert.embeddings.position_ids", "a constant (0, 1, 2, ...), not a weight"),
        ("embeddings.position_ids", "a constant (0, 1, 2, ...), not a weight"),
    ]
    wanted = bert_plan({"a.position_ids": (3,)}, {"a.position_ids": (3,)})
    assert wanted.fits == 1


GPT2 = {
    "wte.weight": (11, 4),
    "h.0.attn.c_attn.weight": (4, 12),
    "h.0.attn.c_attn.bias": (12,),
    "h.10.crossattention.c_proj.bias": (4,),
}
GPT2_BUFFERS = {
    "h.0.attn.bias": (1, 1, 8, 8),
    "h.0.attn.masked_bias": (),
    "h.10.attn.bias": (1, 1, 8, 8),
    "h.10.crossattention.bias": (1, 1, 8, 8),
    "h.10.crossattention.masked_bias": (),
}


@pytest.mark.parametrize("file_prefix", ["", "transformer."])
@pytest.mark.parametrize("model_prefix", ["", "transformer."])
def test_the_masks_of_gpt2_are_dropped_by_rule(file_prefix: str, model_prefix: str) -> None:
    """With and without the prefix on either side; the biases of the layers beside them stay."""
    source = {f"{file_prefix}{name}": shape for name, shape in {**GPT2, **GPT2_BUFFERS}.items()}
    target = {f"{model_prefix}{name}": shape for name, shape in GPT2.items()}
    made = plan(source, target, base_prefix="transformer")
    assert [name for name, _ in made.dropped] == [f"{file_prefix}{name}" for name in GPT2_BUFFERS]
    assert {why for _, why in made.dropped} == {
        "GPT-2's causal mask, a constant and not a bias",
        "the number that GPT-2's mask put in, not a weight",
    }
    assert made.missing == made.unexpected == made.misshapen == []
    assert made.fits == len(GPT2)
    assert {target: source.name for target, source in made.sources.items()} == {
        f"{model_prefix}{name}": f"{file_prefix}{name}" for name in GPT2
    }


def test_only_these_masks_are_dropped() -> None:
    names = ["h.0.mlp.bias", "h.0.attn.mask", "attn.bias", "h.0.attn.bias.more", "h.0.attn.c_proj.masked_bias"]
    made = plan(dict.fromkeys(names, (4,)), GPT2, base_prefix="transformer")
    assert made.unexpected == names
    assert made.dropped == []
    wanted = plan({"h.0.attn.bias": (4,)}, {"h.0.attn.bias": (4,)})
    assert wanted.fits == 1  # a model that has a parameter of this name gets it


def test_misshapen() -> None:
    made = bert_plan({**CLASSIFIER, "classifier.weight": (7, 4)}, CLASSIFIER)
    assert made.misshapen == [("classifier.weight", (7, 4), (3, 4))]
    assert "classifier.weight" not in made.sources
    assert made.fits == len(CLASSIFIER) - 1


def test_nothing_is_inferred_from_a_shape() -> None:
    made = bert_plan({"pooler.dense.weight": (5, 4)}, {"pooler.dense.weight": (4, 5)})
    assert made.misshapen == [("pooler.dense.weight", (5, 4), (4, 5))]
    turned = Dialect("t", (Row("{rest}", "{rest}", TRANSPOSE),), "transposed", lambda names: None)
    made = bert_plan({"pooler.dense.weight": (5, 4)}, {"pooler.dense.weight": (4, 5)}, dialect=turned)
    assert made.sources == {"pooler.dense.weight": ("pooler.dense.weight", TRANSPOSE)}


class TestTies:
    DECODER = {"cls.predictions.decoder.weight": (11, 4)}  # noqa: RUF012

    def test_alias_beside_its_canonical_name(self) -> None:
        made = bert_plan({**MASKED, **self.DECODER}, MASKED, aliases=ALIASES)
        assert made.duplicates == [("cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight")]
        assert made.fits == len(MASKED)
        assert made.unexpected == made.missing == []

    def test_alias_alone(self) -> None:
        source = {name: shape for name, shape in MASKED.items() if "word_embeddings" not in name}
        made = bert_plan({**source, **self.DECODER}, MASKED, aliases=ALIASES)
        assert made.sources["bert.embeddings.word_embeddings.weight"].name == "cls.predictions.decoder.weight"
        assert made.missing == made.duplicates == []

    def test_canonical_name_alone_serves_the_alias(self) -> None:
        target = {**MASKED, **self.DECODER}
        made = plan(MASKED, target, base_prefix="bert", aliases=ALIASES)
        assert made.missing == []
        assert made.sources["cls.predictions.decoder.weight"] == made.sources["bert.embeddings.word_embeddings.weight"]

    def test_alias_of_a_class_that_is_not_built(self) -> None:
        made = bert_plan({**prefixed(BARE), **CLS, **self.DECODER}, BARE, aliases=ALIASES)
        assert [name for name, _ in made.dropped] == [*CLS, *self.DECODER]

    def test_without_ties_both_are_needed(self) -> None:
        made = bert_plan({**MASKED}, {**MASKED, **self.DECODER})
        assert made.missing == ["cls.predictions.decoder.weight"]
        made = bert_plan({**MASKED, **self.DECODER}, MASKED, other_heads=[])
        assert made.unexpected == ["cls.predictions.decoder.weight"]


def test_unrelated_architectures_do_not_fit() -> None:
    gpt2 = {"transformer.wte.weight": (11, 4), "transformer.h.0.attn.c_attn.weight": (4, 12)}
    roberta = {f"roberta.{name}": shape for name, shape in BARE.items()}
    for source in (gpt2, roberta):
        for target in (BARE, CLASSIFIER):
            made = bert_plan(source, target)
            assert made.fits == 0
            assert made.unexpected == list(source)


def test_dialect_by_name() -> None:
    assert bert_plan(BARE, BARE, dialect="hf-legacy").reason == "chosen by the caller"
    with pytest.raises(ValueError, match=r"dialect is 'keras'; expected one of 'keras-bert', .*'hf-legacy', 'hf'"):
        plan(BARE, BARE, dialect="keras")


def test_closed_table_leaves_unknown_names_unexpected() -> None:
    closed = Dialect("closed", (Row("a.{rest}", "{rest}"),), "", lambda names: None)
    made = bert_plan({"a.x": (1,), "b.x": (1,)}, {"x": (1,)}, dialect=closed)
    assert (made.unexpected, made.renamed) == (["b.x"], [("a.x", "x")])


class TestRealFiles:
    """Targets are the oracle's own names."""

    @staticmethod
    def target(name: str, folder) -> dict[str, tuple[int, ...]]:
        import transformers

        with torch.device("meta"):
            model = getattr(transformers, name)(transformers.BertConfig.from_pretrained(folder))
        return {key: tuple(value.shape) for key, value in model.state_dict().items()}

    def test_minilm(self) -> None:
        folder = minilm_folder()
        with open_checkpoint(folder) as checkpoint:
            made = plan(checkpoint, self.target("BertModel", folder), base_prefix="bert")
            assert made.fits == 103
            assert [name for name, _ in made.dropped] == ["embeddings.position_ids"]
            assert made.missing == made.unexpected == made.misshapen == []
            made = plan(checkpoint, self.target("BertForSequenceClassification", folder), base_prefix="bert")
            assert made.fits == 103
            assert made.missing == ["classifier.weight", "classifier.bias"]

    def test_ticket_bert(self) -> None:
        folder = shared_data("checkpoints", "ticket-bert")
        with open_checkpoint(folder) as checkpoint:
            made = bert_plan(checkpoint, self.target("BertModel", folder))
            assert [name for name, _ in made.dropped] == ["classifier.bias", "classifier.weight"]
            assert made.missing == made.unexpected == []
            made = bert_plan(checkpoint, self.target("BertForMaskedLM", folder), aliases=ALIASES)
            assert [name for name, _ in made.dropped][-2:] == ["classifier.bias", "classifier.weight"]
            assert all(name.startswith("cls.predictions") for name in made.missing)

    def test_xsmall(self) -> None:
        folder = shared_data("checkpoints", "bert-xsmall-dummy")
        with open_checkpoint(folder) as checkpoint:
            made = plan(checkpoint, self.target("BertModel", folder), base_prefix="bert")
            assert made.fits == 23
            assert made.missing == made.unexpected == []
