"""`model.generate(...)`: what every model that scores next words inherits.

    settings      defaults <- model.generation_config <- generation_config= <- keywords     config.py
    strategy      one table of what chooses which loop                                       strategies.py
    preparation   prompt, lengths, padding, processors, stopping criteria                    prepare.py
    the loop      sampling.py, beams.py, groups.py, constrained.py, contrastive.py, assisted.py

The loops see the model through `run.Steps` and know nothing of its architecture.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, ParamSpec, TypeVar

import torch
from torch import Tensor

from minitf.keywords import nearest_name

if TYPE_CHECKING:  # at run time these are imported where they are used: a model that only encodes does not pay for them
    from minitf.cache import KVCache
    from minitf.generation.config import GenerationConfig
    from minitf.generation.outputs import GenerateBeamDecoderOnlyOutput, GenerateDecoderOnlyOutput

__all__ = ["GenerationMixin"]

P = ParamSpec("P")
R = TypeVar("R")


def streamer_hears_errors(function: Callable[P, R]) -> Callable[P, R]:
    """Decorator: an exception goes to `streamer.fail` too, or a thread that waits for text would wait forever."""

    @functools.wraps(function)
    def hearing(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except BaseException as error:
            fail = getattr(kwargs.get("streamer"), "fail", None)
            if fail is not None:
                fail(error)
            raise

    return hearing


class GenerationMixin:
    """Adds `generate` to a model whose forward returns `logits` `[B, T, V]` and takes `past_key_values`."""

    config: Any  # these two are the model's, see PreTrainedModel
    always_decodes: ClassVar[bool]

    @property
    def generation_config(self) -> GenerationConfig:
        """The settings that hold where a call says nothing: of `generation_config.json`, or of the configuration."""
        from minitf.generation.config import GenerationConfig
        from minitf.generation.prepare import say_old_settings

        held: GenerationConfig | None = self.__dict__.get("_generation_config")
        if held is None:
            held = GenerationConfig.from_model_config(self.config)
            self.__dict__["_generation_config"] = held
            say_old_settings(held)
        return held

    @generation_config.setter
    def generation_config(self, value: GenerationConfig) -> None:
        from minitf.generation.config import GenerationConfig

        if not isinstance(value, GenerationConfig):
            raise TypeError(f"generation_config is a {type(value).__name__}; expected a minitf GenerationConfig.")
        self.__dict__["_generation_config"] = value

    @property
    def settings_of_generation(self) -> tuple[str, ...]:
        """Names that mean something in a `config.json` though they are no keys of the model's configuration."""
        from minitf.generation.config import GenerationConfig

        return (*GenerationConfig.__dataclass_fields__, *GenerationConfig._REFUSED)

    def can_generate(self) -> bool:
        """Whether each token is scored by what stands before it."""
        return bool(self.always_decodes or self.config.is_decoder)

    def read_beside(self, folder: Path) -> None:
        """Read `generation_config.json`, if there is one beside the weights; part of `from_pretrained`."""
        from minitf.generation.config import GENERATION_CONFIG_NAME, GenerationConfig

        if not (folder / GENERATION_CONFIG_NAME).is_file():
            return
        try:
            self.generation_config = GenerationConfig.from_pretrained(folder)
        except ValueError as error:
            raise ValueError(
                f"{error} The file holds defaults of generate() and no weights: mend it, or take it away."
            ) from error

    def files_beside(self) -> dict[str, bytes | None]:
        """The content of `generation_config.json`; part of `save_pretrained`."""
        from minitf.generation.config import GENERATION_CONFIG_NAME

        text = self.generation_config.to_json_string() if self.can_generate() else None
        return {GENERATION_CONFIG_NAME: None if text is None else text.encode()}

    @streamer_hears_errors
    @torch.no_grad()
    def generate(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        *,
        logits_processor: Sequence[Any] | None = None,
        stopping_criteria: Sequence[Any] | None = None,
        prefix_allowed_tokens_fn: Callable[[int, Tensor], Sequence[int]] | None = None,
        streamer: Any = None,
        tokenizer: Any = None,
        assistant_model: Any = None,
        negative_prompt_ids: Tensor | None = None,
        negative_prompt_attention_mask: Tensor | None = None,
        generator: torch.Generator | None = None,
        inputs_embeds: Tensor | None = None,
        past_key_values: KVCache | Sequence[Any] | None = None,
        position_ids: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        head_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        **settings: Any,
    ) -> Tensor | GenerateDecoderOnlyOutput | GenerateBeamDecoderOnlyOutput:
        """Continue a prompt. The strategy follows from the settings: see the table in `minitf.generation.strategies`.

        Args:
            input_ids: `[B, T]`; None = one sequence that starts from `bos_token_id`. Rows of different lengths are
                padded on the left.
            attention_mask: `[B, T]`, 1 = token and 0 = padding; None = `pad_token_id` in the prompt is padding, if it
                is no end token.
            generation_config: settings of this call as an object; keywords win over it.
            logits_processor: functions `(ids [B, T], scores [B, V]) -> scores` that run after those of the settings.
            stopping_criteria: functions `(ids [B, T], scores) -> bool [B]`, True = this row ends.
            prefix_allowed_tokens_fn: `(row, ids [T]) -> the tokens that may come next`.
            streamer: gets the prompt and then each token as it is chosen; one row, one beam.
            tokenizer: for `stop_strings`.
            assistant_model: a smaller model with the same vocabulary that drafts tokens, which this one checks.
            negative_prompt_ids, negative_prompt_attention_mask: `[B, T']`, what `guidance_scale` moves away from;
                None = the last token of the prompt alone.
            generator: a private random state for sampling, an error without it; None = torch's own
                (`torch.manual_seed`).
            inputs_embeds: `[B, T, C]` in place of `input_ids`; only new tokens are returned then.
            past_key_values: the cache of earlier turns, which is extended in place: by the prompt and the new tokens,
                with beams by the prompt only. `input_ids` and `attention_mask` are those of the whole conversation.
            position_ids, token_type_ids: `[B, T]`; they go on by one, and with the last type.
            head_mask, encoder_hidden_states, encoder_attention_mask: as in the model's forward.
            **settings: the settings of `GenerationConfig` by name: `max_new_tokens=50, do_sample=True, top_p=0.9`.

        Returns:
            `[B * num_return_sequences, T + new tokens]`, what ended early filled with `pad_token_id`; or, with
            `return_dict_in_generate`, an output of `minitf.generation.outputs`.

        Raises:
            UnknownSettingError: a name that does not exist. ValueError: a setting that would have no effect, two
            settings that exclude each other, no room for a new token, scores with nan or inf.
        """
        from minitf.generation import prepare
        from minitf.generation.config import GenerationConfig
        from minitf.generation.strategies import check_settings, choose

        call = self._settings_of(generation_config, settings)
        joined = GenerationConfig().joined(self.generation_config, call)
        strategy = choose(joined, assisted=assistant_model is not None)
        check_settings(strategy, call, self.generation_config)
        prepare.check_model(self)
        prepare.check_outputs(call, joined)
        prepare.check_generator(joined, generator)

        model: Any = self
        prepare.check_special_tokens(call, model.config.vocab_size)
        others = {
            "inputs_embeds": inputs_embeds, "token_type_ids": token_type_ids, "position_ids": position_ids,
            "head_mask": head_mask, "encoder_hidden_states": encoder_hidden_states,
            "encoder_attention_mask": encoder_attention_mask,
        }  # fmt: skip
        prompt = prepare.prompt(model, joined, input_ids, attention_mask, past_key_values, others)
        limits = prepare.limits(call, self.generation_config, prompt, model.config.max_position_embeddings)
        prepare.check_forced_bos(call, joined, limits.start)
        guidance = prepare.guidance_for(model, joined, prompt, negative_prompt_ids, negative_prompt_attention_mask)
        processors = prepare.processors_for(
            joined, limits, prompt.mask, guidance=guidance, prefix_allowed_tokens_fn=prefix_allowed_tokens_fn,
            custom=logits_processor,
        )  # fmt: skip
        stopping = prepare.stopping_for(joined, stopping_criteria, tokenizer)
        run = prepare.run_for(
            model, joined, strategy.name, prompt, limits, processors, stopping, generator=generator,
            streamer=streamer, draft=assistant_model,
        )  # fmt: skip
        output = strategy.run(run)  # Any: a loop is found by its name
        if past_key_values is not None and past_key_values is prompt.cache and "beam" in strategy.name:
            prepare.back_to_prompt(prompt, joined.num_beams)
        return output if joined.return_dict_in_generate else output.sequences  # type: ignore[no-any-return]

    def _settings_of(self, given: GenerationConfig | None, settings: dict[str, Any]) -> GenerationConfig:
        """What this call says: its GenerationConfig, and over it its keywords."""
        from minitf.generation.config import GenerationConfig, UnknownSettingError

        if given is not None and not isinstance(given, GenerationConfig):
            raise TypeError(
                f"generation_config is a {type(given).__module__}.{type(given).__qualname__}; expected a minitf "
                "GenerationConfig (GenerationConfig.from_dict(config.to_dict()))."
            )
        known = [*GenerationConfig.__dataclass_fields__, *GenerationConfig._REFUSED]
        for name in settings:
            if name not in known:
                arguments = [n for n in inspect.signature(GenerationMixin.generate).parameters if n != "settings"]
                near = nearest_name(name, [*known, *arguments])
                raise UnknownSettingError(f"{type(self).__name__}.generate() has no setting {name!r}{near}")
        fields = GenerationConfig.__dataclass_fields__
        settings = {  # None = not given, except where it is a value: eos_token_id=None = no end token
            name: value
            for name, value in settings.items()
            if value is not None or (name in fields and fields[name].metadata["rule"].accepts(None))
        }
        return (given or GenerationConfig()).joined(GenerationConfig(**settings))

    def compute_transition_scores(
        self,
        sequences: Tensor,
        scores: Sequence[Tensor] | None,
        beam_indices: Tensor | None = None,
        normalize_logits: bool = False,
    ) -> Tensor:
        """What each new token scored when it was chosen; see `minitf.generation.transitions`."""
        from minitf.generation.transitions import compute_transition_scores

        return compute_transition_scores(sequences, scores, beam_indices, normalize_logits)

    # -- the strategies by name ------------------------------------------------------------------------------------

    def greedy_search(self, *args: Any, **settings: Any) -> Any:
        """`generate(num_beams=1, do_sample=False, ...)`: always the best token."""
        return self._by_name("greedy_search", args, {"num_beams": 1, "do_sample": False}, settings)

    def sample(self, *args: Any, **settings: Any) -> Any:
        """`generate(num_beams=1, do_sample=True, ...)`: draw each token."""
        return self._by_name("sample", args, {"num_beams": 1, "do_sample": True}, settings)

    def beam_search(self, *args: Any, **settings: Any) -> Any:
        """`generate(num_beams=4, do_sample=False, ...)`: keep the most probable beginnings."""
        return self._by_name("beam_search", args, {"num_beams": 4, "do_sample": False}, settings)

    def beam_sample(self, *args: Any, **settings: Any) -> Any:
        """`generate(num_beams=4, do_sample=True, ...)`: draw the beginnings that are kept."""
        return self._by_name("beam_sample", args, {"num_beams": 4, "do_sample": True}, settings)

    def group_beam_search(self, *args: Any, **settings: Any) -> Any:
        """`generate(num_beams=4, num_beam_groups=2, ...)`: groups of beams that avoid each other's tokens."""
        return self._by_name("group_beam_search", args, {"num_beams": 4, "num_beam_groups": 2}, settings)

    def constrained_beam_search(self, *args: Any, **settings: Any) -> Any:
        """`generate(num_beams=4, force_words_ids=..., ...)`: beams that must contain given words."""
        return self._by_name("constrained_beam_search", args, {"num_beams": 4}, settings)

    def contrastive_search(self, *args: Any, **settings: Any) -> Any:
        """`generate(penalty_alpha=0.6, top_k=4, ...)`: probable, but unlike what was said."""
        return self._by_name("contrastive_search", args, {"penalty_alpha": 0.6, "top_k": 4}, settings)

    def assisted_decoding(self, *args: Any, **settings: Any) -> Any:
        """`generate(assistant_model=..., ...)`, or `prompt_lookup_num_tokens=`: drafts, which this model checks."""
        looks_up = settings.get("prompt_lookup_num_tokens") is not None
        return self._by_name("prompt_lookup" if looks_up else "assisted_decoding", args, {}, settings)

    def _by_name(self, name: str, args: tuple[Any, ...], chosen_by: dict[str, Any], settings: dict[str, Any]) -> Any:
        """`generate` with the settings that choose this strategy.

        Raises:
            ValueError: the caller's settings choose another one.
        """
        from minitf.generation.config import GenerationConfig
        from minitf.generation.strategies import choose

        joined = {**chosen_by, **settings}
        arguments = inspect.signature(GenerationMixin.generate).parameters
        known = {key: value for key, value in joined.items() if key not in arguments}
        call = self._settings_of(args[2] if len(args) > 2 else settings.get("generation_config"), known)
        assisted = settings.get("assistant_model") is not None
        found = choose(GenerationConfig().joined(self.generation_config, call), assisted=assisted)
        if found.name != name:
            raise ValueError(f"{name}() with these settings would be {found.name}: see minitf.generation.strategies.")
        return self.generate(*args, **joined)
