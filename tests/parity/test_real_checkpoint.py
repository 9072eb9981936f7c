"""The real MiniLM checkpoint, end to end: text -> tokens -> hidden states, equal to transformers bit for bit."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import minitf
from tests.parity.bert_pairs import CLASSES, HEADS, different
from tests.support import minilm_folder, shared_data

TEXTS = [
    "Here is some text to encode",
    "遇见被老师提问问题",
    "Emoji: 👩‍👩‍👧‍👦 and 🏳️‍🌈, naïve café",
    "",
    "long " * 600,
]


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def batch() -> dict[str, torch.Tensor]:
    """The texts above, padded to the longest, which is truncated to the model's 512 tokens."""
    tokenizer = minitf.BertTokenizer.from_pretrained(minilm_folder())
    encoded = tokenizer(TEXTS, padding=True, truncation=True, max_length=512, return_tensors="pt")
    theirs = transformers.AutoTokenizer.from_pretrained(minilm_folder())
    expected = theirs(TEXTS, padding=True, truncation=True, max_length=512, return_tensors="pt")
    assert {k: v.tolist() for k, v in encoded.items()} == {k: v.tolist() for k, v in expected.items()}
    assert encoded["input_ids"].shape == (5, 512)
    assert encoded["attention_mask"].sum(1).tolist()[3:] == [2, 512]
    return dict(encoded)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_last_hidden_state_and_pooler_output_have_the_oracles_bits(batch: Any, attention: str) -> None:
    ours = minitf.BertModel.from_pretrained(minilm_folder(), attn_implementation=attention)
    theirs = transformers.BertModel.from_pretrained(minilm_folder(), attn_implementation=attention)
    assert not ours.training
    with torch.no_grad():
        mine, other = ours(**batch), theirs(**batch)
    assert torch.equal(mine.last_hidden_state, other.last_hidden_state)
    assert torch.equal(mine.pooler_output, other.pooler_output)


def test_eager_and_sdpa_agree_within_1e_5(batch: Any) -> None:
    model = minitf.BertModel.from_pretrained(minilm_folder())
    results = []
    for attention in ("eager", "sdpa"):
        model.config.attn_implementation = attention
        with torch.no_grad():
            results.append(model(**batch))
    real = batch["attention_mask"].bool()
    for name in ("last_hidden_state", "pooler_output"):
        a, b = (result[name][real] if name == "last_hidden_state" else result[name] for result in results)
        assert (a - b).abs().max() < 1e-5


def test_mean_pooled_embeddings_rank_paraphrases_above_unrelated_sentences() -> None:
    tokenizer = minitf.BertTokenizer.from_pretrained(minilm_folder())
    model = minitf.BertModel.from_pretrained(minilm_folder())
    texts = [
        "A man is eating a piece of bread.", "Someone is having some bread.", "The stock market fell sharply today.",
        "How do I reset my password?", "I forgot my login, how can I change it?", "A cheetah chases its prey.",
    ]  # fmt: skip
    encoded = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = model(**encoded).last_hidden_state
    weights = encoded["attention_mask"].unsqueeze(-1).float()
    vectors = torch.nn.functional.normalize((hidden * weights).sum(1) / weights.sum(1), dim=-1)
    similarity = vectors @ vectors.T
    for a, b in ((0, 1), (3, 4)):
        unrelated = [similarity[a, i] for i in range(len(texts)) if i not in (a, b)]
        assert similarity[a, b] > 0.6
        assert similarity[a, b] > max(unrelated) + 0.3


def test_the_state_dict_loads_in_transformers_and_back() -> None:
    ours = minitf.BertModel.from_pretrained(minilm_folder())
    theirs = transformers.BertModel(transformers.BertConfig.from_pretrained(minilm_folder()))
    theirs.load_state_dict(ours.state_dict(), strict=True)
    fresh = minitf.BertModel(ours.config)
    fresh.load_state_dict(theirs.state_dict(), strict=True)
    assert all(torch.equal(a, b) for a, b in zip(fresh.parameters(), ours.parameters(), strict=True))


@pytest.mark.parametrize("safe", [True, False])
@pytest.mark.parametrize("shards", ["5GB", "30MB"])
def test_what_save_pretrained_writes_opens_in_transformers(tmp_path: Path, safe: bool, shards: str, batch: Any) -> None:
    ours = minitf.BertModel.from_pretrained(minilm_folder())
    ours.save_pretrained(tmp_path, max_shard_size=shards, safe_serialization=safe)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["BertModel"]
    theirs = transformers.BertModel.from_pretrained(tmp_path)
    again = minitf.BertModel.from_pretrained(f"{tmp_path}/")
    small = {name: tensor[:2, :16] for name, tensor in batch.items()}
    with torch.no_grad():
        mine = ours(**small)
        assert different(mine, theirs(**small)) == []
        assert different(mine, again(**small)) == []
    assert again.load_report.ok
    assert again.config == ours.config or again.config.architectures == ["BertModel"]


def test_what_transformers_saves_opens_here(tmp_path: Path) -> None:
    theirs = transformers.BertModel.from_pretrained(minilm_folder())
    theirs.save_pretrained(tmp_path)
    ours = minitf.BertModel.from_pretrained(tmp_path)
    assert ours.load_report.ok
    assert ours.load_report.config_unknown == {}
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


@pytest.mark.parametrize("class_name", HEADS)
def test_every_head_takes_the_trunk_and_reports_its_own_weights_in_one_line(
    class_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    settings = {"is_decoder": True} if class_name == "BertLMHeadModel" else {}
    with caplog.at_level(logging.WARNING, logger="minitf"):
        torch.manual_seed(4)
        model = getattr(minitf, class_name).from_pretrained(minilm_folder(), **settings)
    lines = [record.getMessage() for record in caplog.records if "newly initialised" in record.getMessage()]
    assert len(lines) == 1
    assert lines[0].endswith("newly initialised: train before use.")
    missing = model.load_report.missing
    assert missing
    assert all(not name.startswith("bert.") for name in missing)
    trunk = minitf.BertModel.from_pretrained(minilm_folder()).state_dict()
    for name, tensor in model.bert.state_dict().items():
        assert torch.equal(tensor, trunk[name]), name
    model.check_ties()
    with pytest.raises(RuntimeError, match="strict=True"):
        getattr(minitf, class_name).from_pretrained(minilm_folder(), strict=True, **settings)
    # and the fresh weights are those that transformers draws for the same seed
    torch.manual_seed(4)
    theirs = getattr(transformers, class_name).from_pretrained(minilm_folder(), **settings)
    expected = theirs.state_dict()
    assert [name for name, tensor in model.state_dict().items() if not torch.equal(tensor, expected[name])] == []


def test_one_line_for_a_fresh_classifier(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="minitf"):
        minitf.BertForSequenceClassification.from_pretrained(minilm_folder(), num_labels=5)
    assert [record.getMessage() for record in caplog.records] == [
        "BertForSequenceClassification: classifier.weight, classifier.bias newly initialised: train before use."
    ]


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_the_trained_ticket_classifier(attention: str) -> None:
    """Logits equal bit for bit, and the accuracy on the author's data that is on record: 60/60, 11/18, 12/18."""
    folder = shared_data("checkpoints", "ticket-bert")
    tokenizer = minitf.BertTokenizerFast.from_pretrained(folder)  # a WordLevel model, which plain Python does not read
    ours = minitf.BertForSequenceClassification.from_pretrained(folder, attn_implementation=attention)
    theirs = transformers.BertForSequenceClassification.from_pretrained(folder, attn_implementation=attention)
    assert ours.load_report.ok
    correct = {}
    for split in ("train", "validation", "test"):
        rows = [
            json.loads(line) for line in (folder / "data" / f"{split}.jsonl").read_text().splitlines() if line.strip()
        ]
        texts = [row["text"] for row in rows]
        encoded = tokenizer(
            texts, padding=True, truncation=True, max_length=ours.config.max_position_embeddings, return_tensors="pt"
        )
        with torch.no_grad():
            mine, other = ours(**encoded), theirs(**encoded)
        assert torch.equal(mine.logits, other.logits)
        names = [ours.config.id2label[i] for i in mine.logits.argmax(-1).tolist()]
        labels = [row["label"] for row in rows]
        correct[split] = (sum(str(a) == str(b) for a, b in zip(names, labels, strict=True)), len(rows))
    assert correct == {"train": (60, 60), "validation": (11, 18), "test": (12, 18)}


def test_a_bare_bert_without_prefix() -> None:
    """AllenNLP's published dummy: a `.bin` of a bare BertModel, into the trunk and into a head class."""
    folder = shared_data("checkpoints", "bert-xsmall-dummy")
    ours = minitf.BertModel.from_pretrained(folder)
    theirs = transformers.BertModel.from_pretrained(folder)
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    head = minitf.BertForMaskedLM.from_pretrained(folder)
    assert torch.equal(head.bert.embeddings.word_embeddings.weight, ours.embeddings.word_embeddings.weight)
    assert "prefix" in " ".join(head.load_report.notes)


@pytest.mark.parametrize("source", CLASSES)
@pytest.mark.parametrize("target", CLASSES)
def test_any_class_loads_the_checkpoint_of_any_other(source: str, target: str, tmp_path: Path) -> None:
    """The trunk is exact; what the source's head holds and the target lacks is dropped by a rule and listed."""
    from tests.parity.bert_pairs import TINY
    from tests.support import randomise_

    saved = randomise_(getattr(minitf, source)(minitf.BertConfig(**TINY)))
    saved.save_pretrained(tmp_path)
    load = getattr(minitf, target).from_pretrained
    other_size = ("BertForMultipleChoice" in (source, target)) and source != target  # one score, not one a label
    if other_size and {source, target} & {"BertForSequenceClassification", "BertForTokenClassification"}:
        with pytest.raises(RuntimeError, match=r"classifier\.weight has the shape"):
            load(tmp_path)
        loaded = load(tmp_path, ignore_mismatched_sizes=True)
        assert [name for name, _, _ in loaded.load_report.misshapen] == ["classifier.weight", "classifier.bias"]
    else:
        loaded = load(tmp_path)
    expected = {name.removeprefix("bert."): tensor for name, tensor in saved.state_dict().items()}
    for name, tensor in loaded.base_model.state_dict().items():
        if name in expected:
            assert torch.equal(tensor, expected[name]), name
        else:
            assert name.startswith("pooler.")
    report = loaded.load_report
    assert report.unexpected == []
    assert any(source in note for note in report.notes) == (source != target)
    if source == target:
        assert report.ok
        assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), saved.parameters(), strict=True))
