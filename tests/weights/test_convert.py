"""`python -m weights_tools convert`: every container and dialect into the others and back, what is carried, cards."""

from __future__ import annotations

import hashlib
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import minitf
from tests.support import minilm_folder, shared_data
from tests.weights.dialect_forge import FOREIGN, bert, gpt2, same_outputs, weights
from tests.weights.forge import tensors
from weights_tools import tables
from weights_tools.__main__ import main
from weights_tools.convert import convert
from weights_tools.files import WeightsError, open_checkpoint, save_checkpoint


def load(place: Path) -> dict[str, torch.Tensor]:
    with open_checkpoint(place) as checkpoint:
        return {name: checkpoint.read(name) for name in checkpoint}


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return set(left) == set(right) and all(
        left[name].dtype == right[name].dtype and torch.equal(left[name], right[name]) for name in left
    )


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder with pytorch_model.bin and files beside it."""
    folder = tmp_path / "source"
    save_checkpoint(folder, tensors(), format="pytorch")
    (folder / "config.json").write_bytes(b'{"model_type":  "bert", "torch_dtype": "float32"}\r\n')
    (folder / "vocab.txt").write_bytes(b"[PAD]\r\n\xff")
    (folder / "notes.md").write_text("mine")
    return folder


# ------------------------------------------------------------------------------------------------ containers, dialects


def test_through_every_container_and_back(tmp_path: Path, source: Path) -> None:
    last = source
    for index, (name, options) in enumerate(
        [
            ("a", []),
            ("b.npz", []),
            ("c", ["--to", "bin"]),
            ("d", ["--max-shard-size", "100"]),
            ("e", ["--to", "bin", "--max-shard-size", "100"]),
            ("f", ["--to", "npz"]),
            ("g.bin", []),
            ("h.safetensors", []),
        ]
    ):
        assert main(["convert", str(last), str(tmp_path / name), *options]) == 0, index
        last = tmp_path / name
        assert same(load(last), tensors())
    with np.load(tmp_path / "f" / "model.npz") as arrays:
        assert list(arrays) == sorted(tensors())  # in the order of the file that was read
        assert all(np.array_equal(arrays[name], tensor.numpy()) for name, tensor in tensors().items())
    read = torch.load(tmp_path / "g.bin", weights_only=True)
    assert same(read, tensors())
    assert len(list((tmp_path / "d").glob("*.safetensors"))) == 3
    assert names(tmp_path / "f") == ["README.md", "model.npz"]


@pytest.mark.parametrize("dialect", [dialect.name for dialect in tables.DIALECTS])
@pytest.mark.parametrize("to", ["safetensors", "bin", "npz"])
def test_into_every_dialect_and_back(dialect: str, to: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    foreign = FOREIGN[dialect]
    model = foreign.make()
    hf = {foreign.base + name: tensor for name, tensor in weights(model).items()}
    save_checkpoint(tmp_path / "hf", hf)
    model.config.save_pretrained(tmp_path / "hf")
    assert main(["convert", str(tmp_path / "hf"), str(tmp_path / "there"), "--to-dialect", dialect, "--to", to]) == 0
    there = load(tmp_path / "there")
    by_hand = foreign.by_hand(weights(model))
    wrapper = "module." if dialect == "hf-wrapped" else ""  # which is not put on again
    for name, tensor in there.items():
        assert torch.equal(tensor, by_hand[wrapper + name]), name
    assert main(["convert", str(tmp_path / "there"), str(tmp_path / "back"), "--dialect", dialect]) == 0
    assert same(load(tmp_path / "back"), hf)
    capsys.readouterr()
    assert main(["diff", str(tmp_path / "hf"), str(tmp_path / "there"), "--dialect-b", dialect]) == 0
    assert capsys.readouterr().out.endswith(f"the same: {len(hf)} of {len(hf)} tensors identical\n")


@pytest.mark.parametrize("dialect", FOREIGN)
def test_the_other_programs_own_file_becomes_one_that_loads(dialect: str, tmp_path: Path) -> None:
    foreign = FOREIGN[dialect]
    model = foreign.make()
    save_checkpoint(tmp_path / "there", foreign.by_hand(weights(model)))
    model.config.save_pretrained(tmp_path / "there")
    found = convert(tmp_path / "there", tmp_path / "here", dialect=dialect)
    assert found.dialect == dialect
    again = type(model).from_pretrained(tmp_path / "here", strict=True, **foreign.settings)
    assert again.load_report.dialect == "hf"
    assert same_outputs(again, model)


def test_biases_that_a_program_computes_without_are_written_as_zeros(tmp_path: Path) -> None:
    file = shared_data("checkpoints", "gpt-by-hand-nanogpt", "ckpt.pt")
    found = convert(file, tmp_path / "hf.safetensors")
    read = load(tmp_path / "hf.safetensors")
    assert ("", "transformer.h.1.attn.c_attn.bias", "0: its program has none") in found.renamed
    assert torch.equal(read["transformer.h.1.attn.c_attn.bias"], torch.zeros(48))
    assert "(not in the file) -> transformer.h.{0..1}.attn.c_attn.bias  [0: its program has none]" in str(found)
    config = minitf.GPT2Config(vocab_size=32, n_positions=8, n_embd=16, n_head=2, n_layer=2, activation_function="gelu",
                               bos_token_id=None, eos_token_id=None, tie_word_embeddings=False)  # fmt: skip
    before = minitf.GPT2LMHeadModel.from_pretrained(file, config=config, strict=True)
    after = minitf.GPT2LMHeadModel.from_pretrained(tmp_path / "hf.safetensors", config=config, strict=True)
    ids = torch.tensor([[0, 31, 5]])
    with torch.no_grad():
        assert torch.equal(before(ids).logits, after(ids).logits)


def test_real_files_of_tensorflow(tmp_path: Path) -> None:
    index = shared_data("checkpoints", "keras-bert-toy-tf1", "bert_model.ckpt.index")
    prefix = index.with_suffix("")  # as TensorFlow's users give it
    found = convert(prefix, tmp_path / "bert")
    assert found.carried == ["bert_config.json", "vocab.txt"]
    assert len(found.dropped) == 93
    assert found.notes == ["bert_config.json is copied as it is, not translated: there is no config.json in the result"]
    before = minitf.BertForPreTraining.from_pretrained(index, config=index.with_name("bert_config.json"))
    after = minitf.BertForPreTraining.from_pretrained(
        tmp_path / "bert" / "model.safetensors", config=tmp_path / "bert" / "bert_config.json", strict=True
    )
    assert all(torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True))
    text = (tmp_path / "bert" / "README.md").read_text()
    for name in ("bert_model.ckpt.index", "bert_model.ckpt.data-00000-of-00001"):
        file = index.with_name(name)
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        assert f"| read | `{name}` | {file.stat().st_size:,} | `{digest}` |" in text


def test_transformers_reads_what_is_written(tmp_path: Path) -> None:
    import transformers

    model = bert("BertForMaskedLM")
    model.save_pretrained(tmp_path / "ours")
    convert(tmp_path / "ours", tmp_path / "google.npz", into="google-bert")
    convert(tmp_path / "google.npz", tmp_path / "hf", to="bin")
    model.config.save_pretrained(tmp_path / "hf")
    theirs = transformers.BertForMaskedLM.from_pretrained(tmp_path / "hf")
    mine = dict(model.named_parameters())
    assert all(torch.equal(parameter, mine[name]) for name, parameter in theirs.named_parameters())


def test_two_names_of_one_weight(tmp_path: Path) -> None:
    """A tied weight under both its names: other programs have one, so the second is left out if it is equal."""
    state = weights(gpt2())
    state["lm_head.weight"] = state["transformer.wte.weight"].clone()
    save_file(state, tmp_path / "tied.safetensors")
    found = convert(tmp_path / "tied.safetensors", tmp_path / "openai.npz", into="openai-gpt2")
    why = "the same numbers as transformer.wte.weight, and the dialect 'openai-gpt2' has one name for both"
    assert found.dropped == [("lm_head.weight", why)]
    state["lm_head.weight"][0, 0] += 1
    save_file(state, tmp_path / "untied.safetensors")
    with pytest.raises(
        WeightsError, match=r"1 name\(s\) have no counterpart: the dialect 'openai-gpt2' has no name for"
    ):
        convert(tmp_path / "untied.safetensors", tmp_path / "other.npz", into="openai-gpt2")
    assert not (tmp_path / "other.npz").exists()
    # Under Hugging Face's names both stay.
    convert(tmp_path / "untied.safetensors", tmp_path / "hf.safetensors")
    assert same(load(tmp_path / "hf.safetensors"), state)


def test_names_without_a_counterpart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = {"bert/pooler/dense/kernel": torch.arange(6.0).view(2, 3), "bert/pooler/more": torch.ones(2)}
    save_file(state, tmp_path / "a.safetensors")
    source = str(tmp_path / "a.safetensors")
    assert main(["convert", source, str(tmp_path / "b.safetensors")]) == 1
    assert capsys.readouterr().err == (
        f"error: {source}: 1 name(s) have no counterpart: the dialect 'google-bert' does not know: bert/pooler/more. "
        "Keep such tensors as they are (--keep-unknown), or leave them out (--drop-unknown).\n"
    )
    assert main(["convert", source, str(tmp_path / "b.safetensors"), "--keep-unknown"]) == 0
    kernel = state["bert/pooler/dense/kernel"]
    expected = {"bert.pooler.dense.weight": kernel.T.contiguous(), "bert/pooler/more": torch.ones(2)}
    assert same(load(tmp_path / "b.safetensors"), expected)
    assert main(["convert", source, str(tmp_path / "c.safetensors"), "--drop-unknown"]) == 0
    assert set(load(tmp_path / "c.safetensors")) == {"bert.pooler.dense.weight"}
    assert (
        "left out (1): bert/pooler/more: left out as asked: the dialect 'google-bert' does not know"
        in capsys.readouterr().out
    )


def test_heads_come_from_the_configuration_or_the_caller(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_checkpoint(tmp_path / "hf", weights(gpt2()))
    there = ["convert", str(tmp_path / "hf"), str(tmp_path / "lens.npz"), "--to-dialect", "transformer-lens-gpt2"]
    assert main(there) == 2
    assert "keeps every attention head apart, and neither the file nor a config.json" in capsys.readouterr().err
    for text in ("{", "[" * 100_000, '{"n_head": true}', "[]"):
        (tmp_path / "hf" / "config.json").write_text(text)
        assert main(there) == (1 if text[:2] in ("{", "[[") else 2)
        assert "(num_heads=, --heads)" in capsys.readouterr().err
    assert main([*there, "--heads", "4"]) == 0
    assert load(tmp_path / "lens.npz")["blocks.0.attn.W_Q"].shape == (4, 32, 8)
    assert main(["convert", str(tmp_path / "hf"), str(tmp_path / "x.npz"), "--heads", "4"]) == 2
    assert "num_heads=4 has no effect: the dialect 'hf' does not keep" in capsys.readouterr().err


# -------------------------------------------------------------------------------------------------------------- dtypes


@pytest.mark.parametrize("old", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("new", ["float32", "float16", "bfloat16", "float64"])
def test_dtypes_are_torchs(old: torch.dtype, new: str, tmp_path: Path) -> None:
    special = torch.tensor([math.nan, math.inf, -math.inf, 0.0, -0.0, 1e-7, 60000.0, -60000.0, 1 / 3])
    state = {"weight": torch.cat([special, torch.randn(1000)]).to(old), "steps": torch.arange(5)}
    state["scalar"] = torch.tensor(0.1, dtype=old)
    save_file(state, tmp_path / "a.safetensors")
    found = convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors", dtype=new)
    read = load(tmp_path / "b.safetensors")
    for name, tensor in state.items():
        expected = tensor.to(getattr(torch, new)) if name != "steps" else tensor
        assert read[name].dtype == expected.dtype
        assert torch.equal(read[name].view(torch.uint8), expected.view(torch.uint8)) if expected.dim() else True
        assert torch.equal(read[name].nan_to_num(), expected.nan_to_num())
    changed = str(old) != f"torch.{new}"
    assert [(a, b, set(names)) for a, b, names in found.dtypes] == (
        [(str(old).removeprefix("torch."), new, {"weight", "scalar"})] if changed else []
    )


@pytest.mark.parametrize("number", [65520.0, -1e5, 3e38])
def test_a_number_that_would_become_infinite_is_an_error(number: float, tmp_path: Path) -> None:
    save_file({"w": torch.tensor([1.0, math.inf, number, math.nan])}, tmp_path / "a.safetensors")
    with pytest.raises(WeightsError, match=r"w holds numbers beyond the largest of float16, 65504, which would become"):
        convert(tmp_path / "a.safetensors", tmp_path / "b", dtype="float16")
    assert names(tmp_path) == ["a.safetensors"]
    convert(tmp_path / "a.safetensors", tmp_path / "c.safetensors", dtype="bfloat16")
    # The largest number that is rounded down is none.
    save_file({"w": torch.tensor([65519.0])}, tmp_path / "d.safetensors")
    convert(tmp_path / "d.safetensors", tmp_path / "e.safetensors", dtype="float16")
    assert load(tmp_path / "e.safetensors")["w"].item() == 65504


def test_npz_has_no_bfloat16(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_file({"w": torch.ones(2, dtype=torch.bfloat16)}, tmp_path / "a.safetensors")
    assert main(["convert", str(tmp_path / "a.safetensors"), str(tmp_path / "b.npz")]) == 1
    assert capsys.readouterr().err == (
        "error: w has dtype bfloat16, which npz cannot hold. Convert it (--dtype float32 holds every bfloat16 and "
        "8-bit number exactly), or choose another format.\n"
    )
    assert main(["convert", str(tmp_path / "a.safetensors"), str(tmp_path / "b.npz"), "--dtype", "float32"]) == 0
    assert names(tmp_path) == ["a.safetensors", "b.npz"]


# -------------------------------------------------------------------------------------------- what lies beside, cards


def test_files_beside_the_weights(tmp_path: Path, source: Path) -> None:
    found = convert(source, tmp_path / "b", dtype="float16")
    assert found.carried == ["config.json", "vocab.txt"]
    assert found.left_behind == ["notes.md"]
    for name in found.carried:
        assert (tmp_path / "b" / name).read_bytes() == (source / name).read_bytes()
    assert found.notes == [
        "config.json is copied as it is and says dtype float32: programs that follow it convert to float32 again"
    ]
    # From the file as from the folder.
    again = convert(source / "pytorch_model.bin", tmp_path / "c")
    assert again.carried == found.carried
    assert again.left_behind == found.left_behind
    # A single file is a single file.
    single = convert(source, tmp_path / "d" / "e.safetensors")
    assert (single.carried, single.card, names(tmp_path / "d")) == ([], None, ["e.safetensors"])


def test_a_link_that_leads_out_is_not_followed(tmp_path: Path, source: Path) -> None:
    (tmp_path / "secret").write_text("of mine")
    (source / "merges.txt").symlink_to(tmp_path / "secret")
    with pytest.raises(WeightsError, match=r"merges.txt: this link leads out of the folder"):
        convert(source, tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_the_card(tmp_path: Path, source: Path) -> None:
    state = {"bert.x.LayerNorm.gamma": torch.ones(2), "bert.embeddings.position_ids": torch.arange(3)}
    save_checkpoint(source, state, format="pytorch")
    found = convert(source, tmp_path / "b", dtype="bfloat16")
    text = (tmp_path / "b" / "README.md").read_text()
    assert text.startswith("---\nlibrary_name: transformers\ntags:\n- bert\n---\n\n# source, converted\n")
    for verb, file in (("read", source / "pytorch_model.bin"), ("written", tmp_path / "b" / "model.safetensors")):
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        assert f"| {verb} | `{file.name}` | {file.stat().st_size:,} | `{digest}` |" in text
    for line in (
        "- source: `source`, pytorch",
        "- names in the source: hf-legacy ('bert.x.LayerNorm.gamma' and 0 more names say gamma or beta)",
        "- `bert.x.LayerNorm.gamma` -> `bert.x.LayerNorm.weight`",
        "- `bert.embeddings.position_ids`: a constant (0, 1, 2, ...), not a weight",
        "- float32 to bfloat16: `bert.x.LayerNorm.weight`",
        "- copied byte for byte: `config.json`, `vocab.txt`",
    ):
        assert f"{line}\n" in text
    assert str(tmp_path) not in text
    assert str(Path.home()) not in text
    # The same conversion writes the same bytes: no date, no place.
    convert(source, tmp_path / "c", dtype="bfloat16")
    for name in names(tmp_path / "b"):
        assert (tmp_path / "b" / name).read_bytes() == (tmp_path / "c" / name).read_bytes()
    assert found.card == "README.md"


def test_an_authors_card_is_carried_and_the_provenance_stands_beside(tmp_path: Path, source: Path) -> None:
    (source / "README.md").write_text("# by its author")
    found = convert(source, tmp_path / "b")
    assert found.card == "CONVERSION.md"
    assert (tmp_path / "b" / "README.md").read_text() == "# by its author"
    assert (tmp_path / "b" / "CONVERSION.md").read_text().startswith("## Where these weights come from\n")
    # A second conversion: what is known of the first follows.
    convert(tmp_path / "b", tmp_path / "c.d", dtype="float16")
    text = (tmp_path / "c.d" / "CONVERSION.md").read_text()
    assert text.count("## Where these weights come from") == 2
    assert text.index("source: `b`, safetensors") < text.index("source: `source`, pytorch")


def test_what_is_known_of_earlier_conversions_follows(tmp_path: Path, source: Path) -> None:
    convert(source, tmp_path / "b", to="bin")
    convert(tmp_path / "b", tmp_path / "c", to="npz")
    found = convert(tmp_path / "c", tmp_path / "d")
    assert (found.card, found.carried) == ("README.md", ["config.json", "vocab.txt"])
    text = (tmp_path / "d" / "README.md").read_text()
    places = [text.index(f"source: `{name}`") for name in ("c", "b", "source")]
    assert places == sorted(places)
    assert text.count("\n---\n") == 1


def test_no_card_and_stale_cards(tmp_path: Path, source: Path) -> None:
    convert(source, tmp_path / "b")
    convert(source, tmp_path / "b", dtype="float64", overwrite=True)
    assert "float32 to float64" in (tmp_path / "b" / "README.md").read_text()
    convert(source, tmp_path / "b", overwrite=True, write_card=False)
    assert not (tmp_path / "b" / "README.md").exists()
    (tmp_path / "b" / "README.md").write_text("somebody's")
    found = convert(source, tmp_path / "b", overwrite=True)
    assert (found.card, (tmp_path / "b" / "README.md").read_text()) == ("CONVERSION.md", "somebody's")
    assert found.notes == ["already in b and left as they were: README.md"]


def test_names_are_not_markup(tmp_path: Path) -> None:
    names = ["a|b`c", "x\n# y", "<script>", "[l](http://x)"]
    save_file({name: torch.ones(1) for name in names}, tmp_path / "a.safetensors")
    convert(tmp_path / "a.safetensors", tmp_path / "b", dtype="float16")
    text = (tmp_path / "b" / "README.md").read_text()
    assert "\n# y" not in text
    assert "<script>" not in re.sub(r"`[^`\n]*`", "", text)
    assert same(load(tmp_path / "b"), {name: torch.ones(1).half() for name in names})


# ------------------------------------------------------------------------------------------------------ the hub's cache


def test_a_name_in_the_hubs_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: Path) -> None:
    snapshot = tmp_path / "cache" / "models--org--name" / "snapshots" / "0123"
    snapshot.parent.mkdir(parents=True)
    source.rename(snapshot)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    assert main(["convert", "org/name", "out"]) == 0
    assert same(load(tmp_path / "out"), tensors())
    assert "- source: `org/name`, pytorch\n" in (tmp_path / "out" / "README.md").read_text()


def test_the_folder_of_a_sentence_transformer(tmp_path: Path, source: Path) -> None:
    outer = tmp_path / "sentences"
    outer.mkdir()
    source.rename(outer / "0_Transformer")
    module = {"idx": 0, "name": "0", "path": "0_Transformer", "type": "sentence_transformers.models.Transformer"}
    (outer / "modules.json").write_text(json.dumps([module]))
    found = convert(outer, tmp_path / "b")
    assert found.carried == ["config.json", "vocab.txt"]
    assert any("modules.json of sentences is a SentenceTransformer's" in note for note in found.notes)
    assert same(load(tmp_path / "b"), tensors())
    with pytest.raises(FileExistsError, match="is the source itself"):
        convert(outer, outer / "0_Transformer", overwrite=True)


def test_a_real_model(tmp_path: Path) -> None:
    found = convert(minilm_folder(), tmp_path / "bin", to="bin")
    assert {"config.json", "tokenizer.json", "vocab.txt"} <= set(found.carried)
    assert found.dropped == [("embeddings.position_ids", "a constant (0, 1, 2, ...), not a weight")]
    expected = load(minilm_folder())
    del expected["embeddings.position_ids"]
    assert same(load(tmp_path / "bin"), expected)
    model = minitf.BertModel.from_pretrained(tmp_path / "bin", strict=True)
    assert model.load_report.ok
