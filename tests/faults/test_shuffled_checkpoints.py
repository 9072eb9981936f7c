"""The loader is tested too: tensors that reach the wrong places fit in shape, and are noticed all the same.

The real checkpoint is used, because its tensors are trained: two of its layers differ, as two fresh ones hardly do.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import minitf
from minitf.pretrained import PreTrainedModel
from tests.parity import test_real_checkpoint
from tests.parity.bert_pairs import different
from tests.support import minilm_folder
from weights_tools import tables
from weights_tools.mapping import TRANSPOSE, Dialect, Row

BATCH = {
    "input_ids": torch.tensor([[101, 7592, 1010, 2088, 999, 102], [101, 6207, 102, 0, 0, 0]]),
    "attention_mask": torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]]),
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def exchanged(one: str, other: str) -> tuple[Row, ...]:
    return Row(one, other), Row(other, one)


# Rows that come before those of the current names. All of them keep every shape.
SHUFFLES: dict[str, tuple[Row, ...]] = {
    "query and key": exchanged("{path}attention.self.query.{rest}", "{path}attention.self.key.{rest}"),
    "query.bias and key.bias": exchanged("{path}attention.self.query.bias", "{path}attention.self.key.bias"),
    "key and value of one layer": exchanged(
        "{path}layer.3.attention.self.key.{rest}", "{path}layer.3.attention.self.value.{rest}"
    ),
    "two neighbouring layers": exchanged("{path}encoder.layer.2.{rest}", "{path}encoder.layer.3.{rest}"),
    "first and last layer": exchanged("{path}encoder.layer.0.{rest}", "{path}encoder.layer.5.{rest}"),
    "the LayerNorms of a layer": exchanged(
        "{path}layer.{layer}.attention.output.LayerNorm.{rest}", "{path}layer.{layer}.output.LayerNorm.{rest}"
    ),
    "weight and bias of a LayerNorm": exchanged("{path}embeddings.LayerNorm.weight", "{path}embeddings.LayerNorm.bias"),
    "a square matrix transposed": (
        Row("{path}attention.self.query.weight", "{path}attention.self.query.weight", TRANSPOSE),
    ),
}


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_parity_does_not_object_to_the_right_mapping(attention: str) -> None:
    test_real_checkpoint.test_last_hidden_state_and_pooler_output_have_the_oracles_bits(BATCH, attention)


@pytest.mark.parametrize("name", SHUFFLES)
def test_parity_of_the_real_checkpoint_objects_to_a_wrong_mapping(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loader itself finds nothing wrong: every name is explained and every shape fits."""
    right = tables.DIALECTS[-1]
    wrong = Dialect(right.name, (*SHUFFLES[name], *right.rows), right.description, right.recognise)
    monkeypatch.setattr(tables, "DIALECTS", (wrong,))
    assert minitf.BertModel.from_pretrained(minilm_folder()).load_report.ok
    with pytest.raises(AssertionError):
        test_real_checkpoint.test_last_hidden_state_and_pooler_output_have_the_oracles_bits(BATCH, "sdpa")


def rewritten(folder: Path, rows: tuple[Row, ...]) -> PreTrainedModel:
    """The real checkpoint, its tensors under other names, written to `folder` and loaded."""
    tensors = {}
    for name, tensor in load_file(minilm_folder() / "model.safetensors").items():
        row = next((row for row in rows if row.match(name)), None)
        target = row.match(name) if row is not None else name
        tensors[target] = (row.op.apply(tensor) if row is not None else tensor).contiguous()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_bytes((minilm_folder() / "config.json").read_bytes())
    return minitf.BertModel.from_pretrained(folder)


@pytest.mark.parametrize("name", [None, "query and key", "two neighbouring layers"])
def test_a_shuffled_file_is_noticed(name: str | None, tmp_path: Path) -> None:
    """The same in the file: ours reads the shuffled one, the oracle the published one. Unshuffled they are equal."""
    ours = rewritten(tmp_path, SHUFFLES[name] if name else ())
    theirs = transformers.BertModel.from_pretrained(minilm_folder())
    with torch.no_grad():
        mine, other = ours(**BATCH), theirs(**BATCH)
    assert different(mine, other) == ([] if name is None else ["last_hidden_state", "pooler_output"])
    if name is not None:
        assert (mine.last_hidden_state - other.last_hidden_state).abs().max() > 0.01
