"""save_pretrained is all or nothing for the whole folder: configuration, weights, shards, settings of generation.

A folder holds one of two models that differ in every file; whatever happens to a save, what is read afterwards is one
of the two, whole, in minitf and in transformers.
"""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
import transformers

from minitf import BertConfig, BertForSequenceClassification, GPT2Config, GPT2LMHeadModel
from minitf.surgery import Lora, add_adapter
from tests.support import randomise_
from tests.weights.test_saving import steps_of
from weights_tools.files import open_checkpoint

SINGLE, SHARDS = "5GB", "2KB"
SETTINGS = {"single": (SINGLE, True), "shards": (SHARDS, True), "bin": (SINGLE, False), "bin shards": (SHARDS, False)}


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes die here, the machine does not: without flushing the tests are several times faster."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def gpt2(seed: int) -> GPT2LMHeadModel:
    """A model whose configuration, weights and settings of generation all tell `seed`."""
    config = GPT2Config(
        vocab_size=11,
        n_positions=8,
        n_embd=8,
        n_layer=2,
        n_head=2,
        n_inner=16 + seed,
        layer_norm_epsilon=(seed + 1) * 1e-5,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = randomise_(GPT2LMHeadModel(config).eval(), seed)
    with torch.no_grad():
        model.transformer.wte.weight.fill_(float(seed))
    model.generation_config.max_new_tokens = 10 + seed
    return model


def seed_of(model: GPT2LMHeadModel | transformers.GPT2LMHeadModel) -> int:
    """The model that these files are of; an error if they are of two."""
    of_config = round(model.config.layer_norm_epsilon / 1e-5) - 1
    of_weights = {int(value) for value in model.transformer.wte.weight.flatten().tolist()}
    assert of_weights == {of_config}
    assert model.generation_config.max_new_tokens == 10 + of_config
    assert model.transformer.h[1].mlp.c_fc.weight.shape == (8, 16 + of_config)
    return of_config


def save(folder: Path, seed: int, how: str) -> None:
    limit, safe = SETTINGS[how]
    gpt2(seed).save_pretrained(folder, max_shard_size=limit, safe_serialization=safe)


def names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


def weights_of(how: str, count: int) -> set[str]:
    stem, suffix = ("model", "safetensors") if SETTINGS[how][1] else ("pytorch_model", "bin")
    if count == 1:
        return {f"{stem}.{suffix}"}
    return {f"{stem}.{suffix}.index.json", *(f"{stem}-{i:05d}-of-{count:05d}.{suffix}" for i in range(1, count + 1))}


# ------------------------------------------------------------------------------------------------ one save over another


@pytest.mark.parametrize("new", list(SETTINGS))
@pytest.mark.parametrize("old", list(SETTINGS))
def test_no_stale_weights(tmp_path: Path, old: str, new: str) -> None:
    """transformers 5.23 reads the old weights after a sharded save over a single file."""
    save(tmp_path, 0, old)
    save(tmp_path, 1, new)
    assert seed_of(GPT2LMHeadModel.from_pretrained(tmp_path)) == 1
    assert seed_of(transformers.GPT2LMHeadModel.from_pretrained(tmp_path)) == 1
    with open_checkpoint(tmp_path) as checkpoint:
        files = {file.name for file in checkpoint.files}
        assert not [note for note in checkpoint.notes if "ignored" in note]
    assert files <= names(tmp_path)
    if SETTINGS[old][1] == SETTINGS[new][1] or not SETTINGS[new][1]:
        left = {name for name in names(tmp_path) if name.startswith(("model", "pytorch_model"))}
        assert left - {"model.safetensors.index.json", "pytorch_model.bin.index.json"} == files


def test_what_a_save_writes(tmp_path: Path) -> None:
    save(tmp_path / "a", 0, "single")
    assert names(tmp_path / "a") == {"config.json", "generation_config.json", "model.safetensors"}
    save(tmp_path / "b", 0, "bin")
    assert names(tmp_path / "b") == {"config.json", "generation_config.json", "pytorch_model.bin"}
    save(tmp_path / "c", 0, "shards")
    shards = {name for name in names(tmp_path / "c") if name.startswith("model-")}
    assert len(shards) > 1
    assert names(tmp_path / "c") == {"config.json", "generation_config.json", *weights_of("shards", len(shards))}
    assert not any(file.is_symlink() for file in tmp_path.rglob("*"))


def test_other_files_stay(tmp_path: Path) -> None:
    save(tmp_path, 0, "single")
    (tmp_path / "vocab.json").write_text("{}")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "model.safetensors").write_text("mine")
    save(tmp_path, 1, "shards")
    assert (tmp_path / "vocab.json").read_text() == "{}"
    assert (tmp_path / "runs" / "model.safetensors").read_text() == "mine"


def test_the_settings_of_another_model_go(tmp_path: Path) -> None:
    save(tmp_path, 0, "single")
    small = {"vocab_size": 11, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertForSequenceClassification(BertConfig(**small, intermediate_size=12)).save_pretrained(tmp_path)
    assert names(tmp_path) == {"config.json", "model.safetensors"}


def test_adapters_in_a_part_of_the_model(tmp_path: Path) -> None:
    """Surgery on the trunk alone, and a save of the model around it: the file would lose the adapter or not load."""
    model = gpt2(0)
    add_adapter(model.transformer, "songs", Lora(r=2))
    with pytest.raises(RuntimeError, match=r"transformer\.h\.0\.attn\.c_attn has adapters, .*surgery\.merge"):
        model.save_pretrained(tmp_path)
    assert names(tmp_path) == set()


def test_a_directory_in_the_way(tmp_path: Path) -> None:
    save(tmp_path, 0, "single")
    (tmp_path / "generation_config.json").unlink()
    (tmp_path / "generation_config.json").mkdir()
    before = {name: (tmp_path / name).read_bytes() for name in ("config.json", "model.safetensors")}
    with pytest.raises(IsADirectoryError, match=r"generation_config\.json: this is a directory; expected a file"):
        save(tmp_path, 1, "single")
    assert before == {name: (tmp_path / name).read_bytes() for name in before}
    assert names(tmp_path) == {*before, "generation_config.json"}


def test_saving_into_a_snapshot_of_the_hub(tmp_path: Path) -> None:
    """Its files are links into blobs, which other snapshots share: the links are replaced, the blobs stay."""
    save(tmp_path / "blobs", 0, "single")
    snapshot = tmp_path / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    for name in names(tmp_path / "blobs"):
        (snapshot / name).symlink_to(Path("../../blobs") / name)
    died = steps_of(lambda: save(snapshot, 1, "single"), 14)
    assert died
    assert seed_of(GPT2LMHeadModel.from_pretrained(snapshot)) in (0, 1)
    save(snapshot, 1, "single")
    assert seed_of(GPT2LMHeadModel.from_pretrained(snapshot)) == 1
    assert seed_of(GPT2LMHeadModel.from_pretrained(tmp_path / "blobs")) == 0
    assert not any((snapshot / name).is_symlink() for name in names(snapshot))


# ------------------------------------------------------------------------------------------------------------- kills


def read_after_a_kill(folder: Path, *, both: bool) -> int:
    seed = seed_of(GPT2LMHeadModel.from_pretrained(folder))
    if both:
        assert seed_of(transformers.GPT2LMHeadModel.from_pretrained(folder)) == seed
    return seed


@pytest.mark.slow
@pytest.mark.parametrize(("old", "new"), [("single", "single"), ("shards", "single"), ("bin", "shards")])
def test_killed_at_every_step(tmp_path: Path, old: str, new: str) -> None:
    outcomes = []
    for kill_at in range(1, 400):
        folder = tmp_path / str(kill_at)
        save(folder, 0, old)
        died = steps_of(lambda folder=folder: save(folder, 1, new), kill_at)
        outcomes.append(read_after_a_kill(folder, both=True))
        save(folder, 2, "single")  # whatever the kill left behind, the next save works, and clears it away
        assert read_after_a_kill(folder, both=False) == 2
        assert names(folder) - weights_of(old, 1) == {
            "config.json",
            "generation_config.json",
            "model.safetensors",
        } - weights_of(old, 1)
        if not died:
            break
    assert outcomes == sorted(outcomes)  # once new, always new
    assert {outcomes[0], outcomes[-1]} == {0, 1}
    assert len(outcomes) > 30


@pytest.mark.slow
def test_two_hundred_random_kills(tmp_path: Path) -> None:
    """SIGKILL at a random moment of a save over an existing folder, again and again over what the last kill left."""
    generator = random.Random(0)
    models = {seed: gpt2(seed) for seed in range(2)}
    models[0].save_pretrained(tmp_path)
    present, duration, outcomes = 0, 0.05, {"old": 0, "new": 0}
    for _ in range(200):
        limit, safe = SETTINGS[generator.choice([*SETTINGS])]
        child = os.fork()
        if not child:
            try:
                models[1 - present].save_pretrained(tmp_path, max_shard_size=limit, safe_serialization=safe)
            finally:
                os._exit(0)
        start = time.perf_counter()
        time.sleep(generator.uniform(0, 1.2 * duration))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):  # it had finished: the next kills shall come a little earlier
            duration = 0.9 * duration + 0.1 * (time.perf_counter() - start) / 1.2
        else:
            duration *= 1.02
        found = read_after_a_kill(tmp_path, both=generator.random() < 0.25)
        assert found in models
        outcomes["old" if found == present else "new"] += 1
        present = found
    assert min(outcomes.values()) >= 20, outcomes
    save(tmp_path, 5, "single")
    assert not [name for name in names(tmp_path) if name.startswith(".")]


def test_readers_during_saves(tmp_path: Path) -> None:
    """A loader never sees the configuration of one save with the weights of another."""
    models = {seed: gpt2(seed) for seed in range(3)}
    models[0].save_pretrained(tmp_path)
    stop = threading.Event()
    failures: list[BaseException] = []

    def keep_saving() -> None:
        try:
            for turn in range(30):
                limit = SHARDS if turn % 2 else SINGLE
                models[turn % 3].save_pretrained(tmp_path, max_shard_size=limit)
        except BaseException as error:
            failures.append(error)
        finally:
            stop.set()

    writer = threading.Thread(target=keep_saving)
    writer.start()
    seen = []
    while not stop.is_set() or not seen:
        seen.append(seed_of(GPT2LMHeadModel.from_pretrained(tmp_path)))
    writer.join()
    assert not failures
    assert set(seen) <= set(models)


def test_two_writers(tmp_path: Path) -> None:
    threads = [
        threading.Thread(target=lambda seed=seed, how=how: [save(tmp_path, seed, how) for _ in range(5)])
        for seed, how in enumerate(SETTINGS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seed_of(GPT2LMHeadModel.from_pretrained(tmp_path)) in range(4)
    assert not [name for name in names(tmp_path) if name.startswith(".")]


# --------------------------------------------------------------------------------------------- failures of the system


def test_disk_full_at_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(1, 200):
        folder = tmp_path / str(number)
        save(folder, 0, "single")
        count = [0]
        with monkeypatch.context() as patch:
            for owner, name in ((os, "fsync"), (Path, "replace"), (Path, "symlink_to"), (Path, "mkdir")):
                plain = getattr(owner, name)

                def full(*arguments, plain=plain, count=count, number=number, **keywords):
                    count[0] += 1
                    if count[0] == number:
                        raise OSError(28, "No space left on device")
                    return plain(*arguments, **keywords)

                patch.setattr(owner, name, full)
            try:
                save(folder, 1, "shards")
                failed = False
            except OSError:
                failed = True
        seed = read_after_a_kill(folder, both=False)
        if not failed:
            assert number > 15
            return
        assert seed in (0, 1)
        save(folder, 2, "single")
        assert names(folder) == {"config.json", "generation_config.json", "model.safetensors"}
    raise AssertionError("unreachable")


def test_a_file_system_without_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    save(tmp_path, 0, "shards")
    monkeypatch.setattr(Path, "symlink_to", refuse)
    save(tmp_path, 1, "single")
    assert "no links can be made here" in caplog.text
    assert seed_of(GPT2LMHeadModel.from_pretrained(tmp_path)) == 1
    assert names(tmp_path) == {"config.json", "generation_config.json", "model.safetensors"}


def test_a_folder_of_another_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux refuses hard links to files that one may not write."""

    def refuse(self: Path, target: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    save(tmp_path, 0, "single")
    monkeypatch.setattr(Path, "hardlink_to", refuse)
    save(tmp_path, 1, "single")
    assert seed_of(GPT2LMHeadModel.from_pretrained(tmp_path)) == 1
    assert names(tmp_path) == {"config.json", "generation_config.json", "model.safetensors"}


# ------------------------------------------------------------------------------------------------------- state_dict=


def test_state_dict_in_place_of_the_own(tmp_path: Path) -> None:
    model, other = gpt2(0), gpt2(0)
    with torch.no_grad():
        other.transformer.ln_f.bias.add_(1)
    average = {name: (tensor + other.state_dict()[name]) / 2 for name, tensor in model.state_dict().items()}
    model.save_pretrained(tmp_path, state_dict=average)
    read = GPT2LMHeadModel.from_pretrained(tmp_path)
    assert torch.equal(read.transformer.ln_f.bias, average["transformer.ln_f.bias"])
    del average["lm_head.weight"]  # a shared parameter has two names, either will do
    average["lm_head.weight"] = average.pop("transformer.wte.weight")
    model.save_pretrained(tmp_path / "alias", state_dict=average)
    assert torch.equal(GPT2LMHeadModel.from_pretrained(tmp_path / "alias").lm_head.weight, average["lm_head.weight"])
    half = {name: tensor.half() for name, tensor in model.state_dict().items()}
    model.save_pretrained(tmp_path / "half", state_dict=half)
    assert GPT2LMHeadModel.from_pretrained(tmp_path / "half").dtype == torch.float16


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda s: s.pop("transformer.ln_f.bias"), ValueError, r"lacks transformer\.ln_f\.bias: a folder"),
        (
            lambda s: s.update({"transformer.ln_f.bais": torch.ones(8)}),
            ValueError,
            r"has the name 'transformer\.ln_f\.bais', which the model does not have.*transformer\.ln_f\.bias",
        ),
        (lambda s: s.update({"transformer.ln_f.bias": torch.ones(9)}), ValueError, r"has the shape \[9\], in the"),
        (lambda s: s.update({"transformer.ln_f.bias": 3}), TypeError, "is a int; expected a dense torch.Tensor"),
        (lambda s: s.update({"transformer.ln_f.bias": torch.ones(8).to_sparse()}), TypeError, "expected a dense"),
        (lambda s: s.update({"transformer.ln_f.bias": torch.ones(8, device="meta")}), TypeError, "meta.; expected"),
        (
            lambda s: s.update({"transformer.ln_f.bias": torch.ones(8).int()}),
            TypeError,
            r"has the dtype torch\.int32; w",
        ),
        (lambda s: s.update({3: torch.ones(8)}), TypeError, "3 is a Tensor .*; expected"),
        (lambda s: s.update({"lm_head.weight": torch.ones(11, 8)}), ValueError, "are one parameter and hold different"),
    ],
)
def test_a_state_dict_of_something_else(tmp_path: Path, change: Callable, error: type, message: str) -> None:
    model = gpt2(0)
    state = model.state_dict()
    change(state)
    with pytest.raises(error, match=message):
        model.save_pretrained(tmp_path, state_dict=state)
    assert names(tmp_path) == set()


def test_other_wrong_arguments_of_a_save(tmp_path: Path) -> None:
    model = gpt2(0)
    with pytest.raises(TypeError, match=r"save_pretrained is a list; expected a mapping of names to tensors"):
        model.save_pretrained(tmp_path, state_dict=[1])
    with pytest.raises(TypeError, match="safe_serialization = 'no': expected True or False"):
        model.save_pretrained(tmp_path, safe_serialization="no")
    assert names(tmp_path) == set()


def test_a_state_dict_with_nan(tmp_path: Path) -> None:
    model = gpt2(0)
    state = {name: torch.full_like(tensor, torch.nan) for name, tensor in model.state_dict().items()}
    model.save_pretrained(tmp_path, state_dict=state)
    assert GPT2LMHeadModel.from_pretrained(tmp_path).lm_head.weight.isnan().all()


def test_loading_a_state_dict(tmp_path: Path) -> None:
    model = gpt2(1)
    read = GPT2LMHeadModel.from_pretrained(None, config=model.config, state_dict=model.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(read.state_dict().values(), model.state_dict().values(), strict=True))
    assert not read.training
    assert read.load_report.format == "memory"
    with torch.no_grad():
        read.transformer.wte.weight.zero_()
    assert model.transformer.wte.weight.any()  # the model owns its memory
    save(tmp_path, 0, "single")
    both = GPT2LMHeadModel.from_pretrained(tmp_path, config=model.config, state_dict=model.state_dict())
    assert both.transformer.wte.weight[0, 0] == 1  # the folder's weights were not asked for
    linear = {
        name: tensor.t() if name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")) else tensor
        for name, tensor in model.state_dict().items()
    }
    other = GPT2LMHeadModel.from_pretrained(None, config=model.config, state_dict=linear, dialect="nanogpt")
    assert all(torch.equal(a, b) for a, b in zip(other.state_dict().values(), model.state_dict().values(), strict=True))


def test_loading_a_wrong_state_dict() -> None:
    model = gpt2(0)
    state = model.state_dict()
    with pytest.raises(TypeError, match="give a name or a path, or config= and state_dict="):
        GPT2LMHeadModel.from_pretrained(None, state_dict=state)
    with pytest.raises(TypeError, match="give a name or a path, or config= and state_dict="):
        GPT2LMHeadModel.from_pretrained(None, config=model.config)
    with pytest.raises(TypeError, match="state_dict is a list; expected a mapping"):
        GPT2LMHeadModel.from_pretrained(None, config=model.config, state_dict=[1])
    with pytest.raises(TypeError, match="state_dict: 'a' is a int"):
        GPT2LMHeadModel.from_pretrained(None, config=model.config, state_dict={"a": 1})
    del state["transformer.wpe.weight"]
    with pytest.raises(RuntimeError, match=r"missing in the file: transformer\.wpe\.weight"):
        GPT2LMHeadModel.from_pretrained(None, config=model.config, state_dict=state)
    with pytest.raises(ValueError, match="Leave mmap out"):
        GPT2LMHeadModel.from_pretrained(None, config=model.config, state_dict=model.state_dict(), mmap=True)


@pytest.mark.parametrize(
    "idle",
    [{"subfolder": "a"}, {"variant": "fp16"}, {"revision": "v1"}, {"cache_dir": "x"}, {"local_files_only": True}],
)
def test_nothing_to_look_for(tmp_path: Path, idle: dict[str, object]) -> None:
    model = gpt2(0)
    given = {"config": model.config, "state_dict": model.state_dict(), **idle}
    with pytest.raises(TypeError, match=f"^{next(iter(idle))} would have no effect: the weights are given"):
        GPT2LMHeadModel.from_pretrained(None, **given)
    model.save_pretrained(tmp_path / "a")
    if "variant" in idle:
        with pytest.raises(TypeError, match="variant would have no effect"):
            GPT2LMHeadModel.from_pretrained(tmp_path, **given)
    else:  # where the configuration is
        place = tmp_path if "subfolder" in idle else tmp_path / "a"
        assert seed_of(GPT2LMHeadModel.from_pretrained(place, state_dict=model.state_dict(), **idle)) == 0


# ------------------------------------------------------------------------------------------- the safetensors library


def test_save_model_and_load_model_of_safetensors(tmp_path: Path) -> None:
    """The library stores a shared parameter once, under the name it prefers, and restores it in a model of ours."""
    model, target = gpt2(1), gpt2(1)
    file = tmp_path / "model.safetensors"
    safetensors.torch.save_model(model, str(file))
    with torch.no_grad():
        target.transformer.wte.weight.zero_()
    assert safetensors.torch.load_model(target, str(file)) == (set(), [])
    assert seed_of_weights(target) == 1
    assert target.lm_head.weight is target.transformer.wte.weight
    (tmp_path / "config.json").write_text(json.dumps(model.config.to_dict()))
    assert seed_of_weights(GPT2LMHeadModel.from_pretrained(tmp_path)) == 1
    save(tmp_path / "ours", 1, "single")
    loaded = gpt2(1)
    with torch.no_grad():
        loaded.transformer.wte.weight.zero_()
    assert safetensors.torch.load_model(loaded, str(tmp_path / "ours" / "model.safetensors")) == (set(), [])
    assert seed_of_weights(loaded) == 1


def seed_of_weights(model: GPT2LMHeadModel) -> float:
    assert torch.equal(model.lm_head.weight, model.transformer.wte.weight)
    return model.lm_head.weight[0, 0].item()
