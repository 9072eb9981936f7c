"""AdapterModel: the wording of the tutorials, from `add_adapter` to `load_adapter`, with heads by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers

from minitf.surgery import AdapterModel, Bottleneck, ClassificationHead, Lora, add_adapter, list_adapters, read_adapter
from tests.support import padded_batch
from tests.surgery.models import bert, gpt2

LABELS = torch.tensor([0, 1, 1])


def inputs(padding: str = "right") -> dict[str, torch.Tensor]:
    batch = padded_batch(padding=padding)
    return {name: batch[name] for name in ("input_ids", "attention_mask")}


TRUNKS: dict[str, Any] = {
    "minitf-bert": lambda: bert("BertModel"),
    "minitf-gpt2": lambda: gpt2("GPT2Model"),
    "transformers-bert": lambda: bert("BertModel", transformers),
    "transformers-gpt2": lambda: gpt2("GPT2Model", transformers),
}


@pytest.mark.parametrize("settings", [None, Bottleneck(size=4)], ids=["Lora", "Bottleneck"])
@pytest.mark.parametrize("name", TRUNKS)
def test_the_tutorial(name: str, settings: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = AdapterModel(TRUNKS[name]())
    base = {key: tensor.clone() for key, tensor in model.trunk.state_dict().items()}
    model.add_adapter("rotten_tomatoes", settings)
    model.add_classification_head("rotten_tomatoes", num_labels=2, id2label={0: "bad", 1: "good"})
    trainable = model.train_adapter("rotten_tomatoes")
    assert trainable.names == ("rotten_tomatoes", "heads.rotten_tomatoes")
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(20):
        loss = model(**inputs(), labels=LABELS).loss
        assert loss is not None
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
    assert all(torch.equal(p, base[key]) for key, p in model.trunk.state_dict().items() if ".adapters." not in key)

    model.eval()
    model.save_adapter(tmp_path, "rotten_tomatoes")
    fresh = AdapterModel(TRUNKS[name]())
    assert not fresh.training
    fresh.add_classification_head("another", num_labels=3)  # other heads of the model do not matter
    assert fresh.load_adapter(tmp_path) == "rotten_tomatoes"
    assert fresh.active_head == "rotten_tomatoes"
    assert fresh.heads["rotten_tomatoes"].id2label == {0: "bad", 1: "good"}
    assert torch.equal(fresh(**inputs()).logits, model(**inputs()).logits)
    fresh.delete_adapter("rotten_tomatoes")
    assert (list(fresh.heads), fresh.active_head, list_adapters(fresh)) == (["another"], None, [])
    assert all(torch.equal(p, base[key]) for key, p in fresh.trunk.state_dict().items())


def test_the_head_by_hand() -> None:
    torch.manual_seed(0)
    head = ClassificationHead(8, 3, token="first").eval()
    hidden = torch.randn(2, 5, 8)
    by_hand = F.linear(torch.tanh(head.dense(hidden[:, 0])), head.out_proj.weight, head.out_proj.bias)
    torch.testing.assert_close(head(hidden), by_hand)
    last = ClassificationHead(8, 3, token="last").eval()
    mask = torch.tensor([[1, 1, 1, 0, 0], [0, 0, 1, 1, 1]])
    chosen = torch.stack([hidden[0, 2], hidden[1, 4]])
    torch.testing.assert_close(last(hidden, mask), last.out_proj(torch.tanh(last.dense(chosen))))
    torch.testing.assert_close(last(hidden), last.out_proj(torch.tanh(last.dense(hidden[:, -1]))))
    assert last.train()(hidden).shape == (2, 3)


@pytest.mark.parametrize("name", ["minitf-gpt2", "minitf-bert"])
def test_padding_on_the_right_does_not_reach_the_scores(name: str) -> None:
    model = AdapterModel(TRUNKS[name]())
    model.add_classification_head("a")
    batch = inputs()
    together = model(**batch).logits
    for row in range(3):
        length = int(batch["attention_mask"][row].sum())
        torch.testing.assert_close(model(batch["input_ids"][row : row + 1, :length]).logits[0], together[row])


def test_the_trunk_computes_what_it_did_and_the_head_gets_its_output() -> None:
    trunk = bert("BertModel")
    hidden = trunk(**inputs()).last_hidden_state
    model = AdapterModel(trunk)
    model.add_classification_head("a", num_labels=4)
    assert torch.equal(model(**inputs()).logits, model.heads["a"](hidden))
    embeds = trunk.embeddings.word_embeddings(inputs()["input_ids"])
    given = model(inputs_embeds=embeds, attention_mask=inputs()["attention_mask"])
    torch.testing.assert_close(given.logits, model.heads["a"](hidden))
    assert given.loss is None


def test_adapters_and_heads_of_one_name_go_together() -> None:
    model = AdapterModel(bert("BertModel"))
    for name in "ab":
        model.add_adapter(name, Lora(r=2))
        model.add_classification_head(name, num_labels=2)
    assert model.active_head == "b"
    model.set_active_adapters("a")
    assert model.active_head == "a"
    model.train_adapter("b")
    assert model.active_head == "b"
    assert not any(p.requires_grad for p in model.heads["a"].parameters())
    assert all(p.requires_grad for p in model.heads["b"].parameters())
    model.set_active_adapters(None)
    assert model.active_head == "b"
    assert [info.active for info in list_adapters(model)] == [False, False]
    model.delete_head("b")
    assert model.active_head is None


def test_saving_without_a_head_and_a_head_that_would_be_forgotten(tmp_path: Path) -> None:
    model = AdapterModel(bert("BertModel"))
    model.add_adapter("a", Lora(r=2))
    model.save_adapter(tmp_path, "a")
    assert read_adapter(tmp_path).notes == {}
    model.add_classification_head("a")
    with pytest.raises(ValueError, match="the head 'a' was not trained with the adapter: call train_adapter before"):
        model.save_adapter(tmp_path, "a")
    with pytest.raises(ValueError, match="the model has no adapter 'b'"):
        model.save_adapter(tmp_path, "b")
    fresh = AdapterModel(bert("BertModel"))
    fresh.load_adapter(tmp_path)
    assert fresh.active_head is None


def test_a_failed_load_leaves_no_head(tmp_path: Path) -> None:
    model = AdapterModel(bert("BertModel"))
    model.add_adapter("a", Lora(r=2))
    model.add_classification_head("a")
    model.train_adapter("a")
    model.save_adapter(tmp_path, "a")
    other = AdapterModel(bert("BertModel", num_hidden_layers=1))
    other.add_classification_head("mine")
    with pytest.raises(ValueError, match="made for another model"):
        other.load_adapter(tmp_path)
    assert (list(other.heads), other.active_head) == (["mine"], "mine")
    with pytest.raises(ValueError, match="there is a head 'a' already"):
        model.load_adapter(tmp_path)


def test_errors() -> None:
    model = AdapterModel(bert("BertModel"))
    with pytest.raises(RuntimeError, match="no head is active: call add_classification_head"):
        model(**inputs())
    for name in ("", "a.b", "keys", 3):
        with pytest.raises(ValueError, match=f"a head cannot have the name {name!r}"):
            model.add_classification_head(name)
    for count in (0, -1, 2.0, True):
        with pytest.raises(ValueError, match=f"num_labels = {count!r}: expected a positive integer"):
            model.add_classification_head("a", num_labels=count)
    with pytest.raises(ValueError, match=r"id2label = .*: expected a name for each of 0 \.\.\. 1"):
        model.add_classification_head("a", num_labels=2, id2label={1: "good", 2: "bad"})
    model.add_classification_head("a")
    with pytest.raises(ValueError, match="there is a head 'a' already"):
        model.add_classification_head("a")
    old = model.heads["a"]
    model.add_classification_head("a", num_labels=3, overwrite_ok=True)
    assert model.heads["a"] is not old
    with pytest.raises(ValueError, match="there is no head 'b'; there is a"):
        model.delete_head("b")
    with pytest.raises(ValueError, match="labels"):
        model(**inputs(), labels=torch.tensor([0, 1, 3]))
    with pytest.raises(TypeError, match="attention_masks"):
        model(inputs()["input_ids"], attention_masks=inputs()["attention_mask"])


def test_the_trunk_inside_refuses_to_be_saved_with_an_adapter(tmp_path: Path) -> None:
    model = AdapterModel(bert("BertModel"))
    add_adapter(model, "a")
    with pytest.raises(RuntimeError, match="has adapters, which no plain checkpoint holds"):
        model.trunk.save_pretrained(tmp_path)
    model.delete_adapter("a")
    model.trunk.save_pretrained(tmp_path)


def test_a_head_has_the_dtype_of_its_trunk() -> None:
    model = AdapterModel(bert("BertModel").bfloat16())
    model.add_classification_head("a")
    assert model(**inputs()).logits.dtype == torch.bfloat16
