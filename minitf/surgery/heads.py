"""Adapters and heads by name around one trunk: the wording of tutorials for the `adapters` library, as methods.

    model = AdapterModel(BertModel.from_pretrained(folder))
    model.add_adapter("reviews")
    model.add_classification_head("reviews", num_labels=2, id2label={0: "bad", 1: "good"})
    model.train_adapter("reviews")                      # the adapter and the head of its name; the rest is frozen
    model(**batch, labels=labels).loss.backward()
    model.save_adapter(folder, "reviews")               # both, in one small file

Adapter and head of the same name belong together: they are chosen, trained, saved, loaded and deleted together. The
methods are the functions of `minitf.surgery.adapters` and `files`; what is added here is the head.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from minitf import losses
from minitf.outputs import SequenceClassifierOutput
from minitf.surgery import adapters, files
from minitf.surgery.pieces import Bottleneck, Lora

__all__ = ["AdapterModel", "ClassificationHead"]


class ClassificationHead(nn.Module):
    """A label for the sequence, from one token: dropout, dense, tanh, dropout, dense.

    These are the layers that BERT's pooler and classifier have, in one module (and those of the `adapters` library).

    Args:
        width: of the hidden states. num_labels: N.
        token: "first" ([CLS] of an encoder), or "last" (the last token of a decoder, which has seen all others).
        id2label: names of the labels; None = "LABEL_0", ...
    """

    beside_base = True  # other heads of the model do not matter to an adapter: minitf.surgery.files

    def __init__(
        self,
        width: int,
        num_labels: int,
        *,
        token: str,
        dropout: float = 0.1,
        id2label: Mapping[int, str] | None = None,
    ) -> None:
        super().__init__()
        if isinstance(num_labels, bool) or not isinstance(num_labels, int) or num_labels < 1:
            raise ValueError(f"num_labels = {num_labels!r}: expected a positive integer.")
        names = {int(number): label for number, label in (id2label or {}).items()}
        if names and sorted(names) != list(range(num_labels)):
            raise ValueError(f"id2label = {id2label!r}: expected a name for each of 0 ... {num_labels - 1}.")
        self.token, self.num_labels = token, num_labels
        self.id2label = names or {number: f"LABEL_{number}" for number in range(num_labels)}
        self.dropout = nn.Dropout(dropout)
        self.dense = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, num_labels)

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """`[B, T, C]` -> `[B, N]`; `attention_mask` `[B, T]` says where the last token is (None = at the end)."""
        chosen = hidden_states[:, 0 if self.token == "first" else -1]  # [B, C]
        if self.token == "last" and attention_mask is not None:
            count = torch.arange(attention_mask.shape[1], device=attention_mask.device)
            last = (attention_mask * count).argmax(dim=1)  # [B]; right whichever side is padded
            chosen = hidden_states[torch.arange(len(last), device=last.device), last]  # [B, C]
        logits: Tensor = self.out_proj(self.dropout(torch.tanh(self.dense(self.dropout(chosen)))))  # [B, N]
        return logits


class AdapterModel(nn.Module):
    """A trunk (`BertModel`, `GPT2Model`, or transformers' own) with adapters and heads by name.

    Args:
        trunk: a model whose output has `last_hidden_state`, and whose config `hidden_size`.

    Attributes:
        active_head: name of the head that `forward` uses; None = none.
    """

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.config: Any = trunk.config
        self.trunk = trunk
        self.heads = nn.ModuleDict()
        self.active_head: str | None = None
        self.train(trunk.training)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        *,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> SequenceClassifierOutput:
        """The scores of the active head, and the loss if there are `labels` (`losses.sequence_classification_loss`).

        Raises:
            RuntimeError: there is no active head.
        """
        if self.active_head is None:
            raise RuntimeError(
                "no head is active: call add_classification_head(name, num_labels=...), or set_active_adapters(name) "
                f"for one of {', '.join(self.heads) or 'none so far'}; without a head there is model.trunk(...)."
            )
        given = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "token_type_ids": token_type_ids,
            "position_ids": position_ids,
            "inputs_embeds": inputs_embeds,
        }
        outputs = self.trunk(**{name: value for name, value in given.items() if value is not None})
        logits = self.heads[self.active_head](outputs.last_hidden_state, attention_mask)  # [B, N]
        loss = losses.sequence_classification_loss(logits, labels) if labels is not None else None
        return SequenceClassifierOutput(loss=loss, logits=logits)

    # -- heads -----------------------------------------------------------------------------------------------------

    def add_classification_head(
        self, name: str, num_labels: int = 2, id2label: Mapping[int, str] | None = None, *, overwrite_ok: bool = False
    ) -> None:
        """A new head, which is the active one.

        Raises:
            ValueError: the name is taken (and not `overwrite_ok`) or impossible; labels that do not fit their number.
        """
        adapters.check_text("a head", name)
        if name in self.heads and not overwrite_ok:
            raise ValueError(f"there is a head {name!r} already: choose another name, or pass overwrite_ok=True.")
        decodes = getattr(self.config, "is_decoder", False) or getattr(self.trunk, "always_decodes", False)
        token = "last" if decodes or self.config.model_type == "gpt2" else "first"
        like = next(parameter for parameter in self.trunk.parameters() if parameter.is_floating_point())
        head = ClassificationHead(self.config.hidden_size, num_labels, token=token, id2label=id2label)
        self.heads[name] = head.to(like.device, like.dtype).train(self.training)
        self.active_head = name

    # -- adapters, with the head of the same name ------------------------------------------------------------------

    def add_adapter(self, name: str, settings: Lora | Bottleneck | None = None) -> adapters.AdapterInfo:
        """As the function `add_adapter`."""
        return adapters.add_adapter(self, name, settings)

    def set_active_adapters(self, names: str | Iterable[str] | None) -> None:
        """As the function; the head of the (last) name becomes the active one, if there is such a head."""
        wanted = [] if names is None else adapters.as_names(names)
        adapters.set_active_adapters(self, wanted)
        self._choose_head(wanted)

    def _choose_head(self, names: Iterable[str]) -> None:
        for name in names:
            if name in self.heads:
                self.active_head = name

    def train_adapter(self, names: str | Iterable[str]) -> adapters.Trainable:
        """As the function; heads of these names are trained along, and the last of them is the active one."""
        wanted = adapters.as_names(names)
        result = adapters.train_adapter(self, wanted, also=[f"heads.{name}" for name in wanted if name in self.heads])
        self._choose_head(wanted)
        return result

    def save_adapter(self, path: str | os.PathLike[str], name: str) -> Path:
        """As the function; the head that was trained along is in the same file, with its labels.

        Raises:
            ValueError: also if there is a head of this name that was not trained along.
        """
        pieces = adapters.pieces_named(self, name)
        notes: dict[str, Any] = {}
        if name in self.heads:
            head: Any = self.heads[name]
            notes["head"] = {"num_labels": head.num_labels, "id2label": head.id2label}
            if any(f"heads.{name}" not in piece.also for piece in pieces.values()):
                raise ValueError(
                    f"the head {name!r} was not trained with the adapter: call train_adapter before training, or "
                    "delete_head to save the adapter alone."
                )
        return files.save_adapter(self, path, name, notes=notes)

    def load_adapter(self, path: str | os.PathLike[str], *, other_base: bool = False) -> str:
        """As the function, under the name of the file, which is returned; a head in the file is made first.

        Raises:
            ValueError: also if there is a head of this name already.
        """
        content = files.read_adapter(path)
        head, before = content.notes.get("head"), self.active_head
        if head is not None:
            self.add_classification_head(content.name, head["num_labels"], head["id2label"])
        try:
            files.load_adapter(self, path, other_base=other_base)
        except BaseException:
            if head is not None:
                del self.heads[content.name]
                self.active_head = before
            raise
        return content.name

    def delete_adapter(self, name: str) -> None:
        """As the function; the head of this name goes too."""
        adapters.delete_adapter(self, name)
        if name in self.heads:
            self.delete_head(name)

    def delete_head(self, name: str) -> None:
        """Remove a head.

        Raises:
            ValueError: there is none of this name.
        """
        if name not in self.heads:
            raise ValueError(f"there is no head {name!r}; there is {', '.join(self.heads) or 'none'}.")
        del self.heads[name]
        self.active_head = None if self.active_head == name else self.active_head
