"""What the keys of other trainers' files mean here: mapped to a field, ignored, or refused, each with the reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from luthier.core.errors import ExperimentError, nearest

COMPUTES = "how the machine computes, not what is learned: Luthier measures and decides it"
WRITES = "where results go and what is logged: a run folder holds all of it"
BITS = "the base stays in 16 or 32 bits while it is trained: nothing is lost, more memory is needed"
MANY = "for several machines or cards; batch sizes are taken as on one"
CODE = "code that comes with a model is never run"
LAYOUT = "turns are laid out by the base's own chat template (`User: …`, `Assistant: …` where it has none)"
SPLITS = "the rows are split here, and test rows are sealed: data.validation_share, data.test_share"
ANSWERS = "only answers are learned here, all of those in a conversation"


@dataclass
class KeyMap:
    """What became of a file's keys.

    Args:
        mapped: key → field, value and a note.
        ignored: key → why it changes nothing that is learned.
        refused: key → why it cannot be had here.
    """

    mapped: dict[str, tuple[str, Any, str]] = field(default_factory=dict)
    ignored: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)


FIELDS = {
    "learning_rate": "optimizer.lr", "weight_decay": "optimizer.weight_decay", "max_grad_norm": "optimizer.clip", "adam_epsilon": "optimizer.eps",
    "seed": "seed", "early_stopping_patience": "training.patience", "warmup_ratio": "schedule.warmup",
    "num_epochs": "training.epochs", "num_train_epochs": "training.epochs", "max_steps": "training.steps",
    "lora_r": "adaptation.rank", "lora_rank": "adaptation.rank", "lora_alpha": "adaptation.alpha", "lora_dropout": "adaptation.dropout",
    "rl_beta": "objective.beta", "dpo_beta": "objective.beta", "pref_beta": "objective.beta", "base_model": "model.base",
    "model_name_or_path": "model.base",
}  # fmt: skip
"""Keys whose value is a field's value, as it stands."""
ADAPTERS = ("lora_r", "lora_rank", "lora_alpha", "lora_dropout")
"""They say something only where adapters are trained."""
IGNORED = {
    COMPUTES: "sample_packing eval_sample_packing packing neat_packing pad_to_sequence_len group_by_length attn_implementation flash_attention flash_attn sdp_attention "
    "xformers_attention flex_attention flex_attn_compile_kwargs gradient_checkpointing gradient_checkpointing_kwargs disable_gradient_checkpointing use_reentrant_gc "
    "activation_offloading torch_compile torch_compile_backend use_kernels kernel_config lora_mlp_kernel lora_qkv_kernel lora_o_kernel tf32 fp16 float16 bfloat16 "
    "dataloader_num_workers dataloader_pin_memory dataloader_prefetch_factor preprocessing_num_workers dataset_processes dataset_num_proc remove_unused_columns "
    "low_cpu_mem_usage torchdistx_path enable_liger_kernel use_unsloth use_unsloth_gc upcast_layernorm fused_attn_kernel batching_strategy eval_batch_size "
    "per_device_eval_batch_size flash_attn_cross_entropy flash_attn_rms_norm flash_attn_fuse_mlp flash_attn_fuse_qkv flash_optimum gc_steps pure_bf16 "
    "gpu_memory_limit device_map max_memory use_cache kv_offload preprocessing_batch_size streaming shuffle_merged_datasets experimental_skip_move_to_device cut_cross_entropy tiled_mlp sample_packing_sequentially "
    "accelerator_config use_kernels_config",
    WRITES: "output_dir overwrite_output_dir overwrite_cache logging_steps logging_strategy logging_dir save_steps save_strategy saves_per_epoch save_total_limit "
    "save_only_model save_safetensors save_first_step plot_loss report_to run_name wandb_project wandb_entity wandb_watch wandb_name wandb_log_model wandb_run_id wandb_mode "
    "mlflow_experiment_name mlflow_tracking_uri trackio_project_name trackio_run_name trackio_space_id use_swanlab swanlab_project swanlab_mode use_tensorboard "
    "use_mlflow hub_model_id hub_strategy push_dataset_to_hub push_to_hub hub_private_repo dataset_prepared_path tokenized_path resume_from_checkpoint debug strict "
    "auto_resume_from_checkpoints do_train do_eval include_num_input_tokens_seen loss_watchdog_threshold loss_watchdog_patience evals_per_epoch eval_steps eval_strategy "
    "evaluation_strategy eval_table_size eval_max_new_tokens eval_causal_lm_metrics do_bench_eval load_best_model_at_end metric_for_best_model cache_dir local_rank",
    BITS: "load_in_4bit load_in_8bit gptq gptq_groupsize gptq_model_v1 quantization_bit quantization_method quantization_type double_quantization bnb_config_kwargs",
    MANY: "deepspeed fsdp fsdp_config fsdp_version fsdp_final_state_dict_type ddp_timeout ddp_find_unused_parameters ddp_bucket_cap_mb ray_num_workers ray_run_name "
    "ray_storage_path use_ray dist_config dp_shard_size dp_replicate_size tensor_parallel_size context_parallel_size expert_parallel_size sequence_parallel_degree "
    "tensor_model_parallel_size pipeline_model_parallel_size expert_model_parallel_size sequence_parallel",
    CODE: "trust_remote_code trust_remote_code_for_model",
    LAYOUT: "chat_template chat_template_jinja template tool_format enable_thinking",
    SPLITS: "val_set_size val_size eval_dataset test_datasets eval_on_each_dataset",
    "a base's own classes are found by its configuration": "model_type tokenizer_type tokenizer_config processor_type is_llama_derived_model is_mistral_derived_model "
    "is_falcon_derived_model is_qwen_derived_model base_model_config use_fast_tokenizer tokenizer_use_fast tokenizer_legacy tokenizer_use_mistral_common",
    "for answering, not for training": "infer_backend max_new_tokens top_p temperature predict_with_generate export_dir export_size export_device export_legacy_format",
    "a token is taken from the environment, never from a file": "hf_use_auth_token hf_hub_token ms_hub_token om_hub_token",
    "copies of rows are found here and stay in one part": "dataset_exact_deduplication",
}  # fmt: skip
"""Why → keys that change nothing that is learned."""
REFUSED = {
    "the other tokens would be new": "tokens added_tokens_overrides add_tokens add_special_tokens resize_vocab resize_token_embeddings_to_32x",
    "this kind of adapter is not made here": "lora_modules_to_save additional_target modules_to_save peft_use_dora use_dora peft_use_rslora use_rslora loraplus_lr_ratio "
    "loraplus_lr_embedding pissa_init pissa_convert lora_target_parameters peft relora relora_steps loftq lora_on_cpu lora_fan_in_fan_out peft_init_lora_weights "
    "oft_block_size oft_target lisa_n_layers lisa_step_interval num_layer_trainable create_new_adapter",
    "the loss would be another one": "label_smoothing_factor neftune_noise_alpha noisy_embedding_alpha pref_ftx dpo_label_smoothing simpo_gamma kto_chosen_weight "
    "kto_rejected_weight use_dft_loss use_asft_loss use_eaft_loss eaft use_diffusion_trainer reward_model process_reward_model orpo_alpha trl ebft "
    "rpo_alpha dpo_use_weighting dpo_norm_loss ref_model ref_model_adapters chunked_cross_entropy",
    ANSWERS: "train_on_inputs train_on_prompt train_on_eos roles_to_train mask_history",
    "this optimizer, or this way of moving parameters, is not here": "use_galore use_apollo use_badam use_adam_mini use_muon use_llama_pro galore_rank galore_target "
    "optim_args optim_target_modules lr_quadratic_warmup cosine_min_lr_ratio cosine_constant_lr_ratio lr_scheduler_kwargs unfrozen_parameters mixture_of_depths "
    "freeze_trainable_layers freeze_trainable_modules freeze_extra_modules eta_min embedding_lr loraplus_ratio",
    "models of this kind are not trained here": "image_max_pixels video_max_pixels freeze_vision_tower freeze_multi_modal_projector qat fp8 quantize_moe_experts "
    "rope_scaling shift_attn overrides_of_model_config model_config "
    "model_quantization_config mean_resizing_embeddings use_kt",
    "functions of another trainer are not run": "custom_trainer reward_funcs",
    "the context's length is the base's own": "max_packed_sequence_len rope_theta",
}  # fmt: skip
"""Why → keys that would change what is learned, and cannot be had here."""
SCHEDULES = {"cosine": "cosine", "linear": "linear", "constant": "constant", "constant_with_warmup": "constant"}
OPTIMIZERS = {"adamw": "adamw", "paged_adamw": "adamw", "adam": "adam", "sgd": "sgd", "adagrad": "adagrad"}
VARIANTS = ("_torch", "_fused", "_hf", "_8bit", "_32bit", "_bnb", "_anyprecision", "_npu", "_apex", "_xla", "_4bit")
"""Endings of optimizers' names that say how the same thing is computed."""
DEFAULTS = {
    "axolotl": {"lr_scheduler": "cosine", "optimizer": "adamw_torch", "num_epochs": 1, "weight_decay": 0.0, "max_grad_norm": 1.0, "seed": 42, "micro_batch_size": 1,
                "gradient_accumulation_steps": 1, "warmup_ratio": 0.03},
    "llamafactory": {"lr_scheduler_type": "linear", "optim": "adamw_torch", "num_train_epochs": 3, "weight_decay": 0.0, "max_grad_norm": 1.0, "seed": 42, "learning_rate": 5e-5,
                     "per_device_train_batch_size": 8, "gradient_accumulation_steps": 1, "warmup_ratio": 0.0},
}  # fmt: skip
"""What the trainers take where their file says nothing, as far as it decides what is learned."""
OWN = {
    "axolotl": ("adapter", "datasets", "rl", "sequence_len", "pretraining_dataset", "micro_batch_size", "optimizer", "lr_scheduler"),
    "llamafactory": ("finetuning_type", "stage", "cutoff_len", "dataset", "model_name_or_path", "lr_scheduler_type", "optim"),
}
"""Keys by which a trainer's file is recognised."""
HANDLED = (
    "adapter finetuning_type datasets dataset dataset_dir pretraining_dataset rl stage sequence_len cutoff_len micro_batch_size per_device_train_batch_size batch_size "
    "gradient_accumulation_steps optimizer optim lr_scheduler lr_scheduler_type warmup_steps adam_beta1 adam_beta2 bf16 lora_target_modules lora_target_linear lora_target "
    "lora_model_dir adapter_name_or_path default_system default_system_message max_samples pref_loss special_tokens eot_tokens plugins"
).split()
"""Keys that need a look at others."""


def recognise_trainer(config: Mapping[str, Any], file: str) -> str:
    """Which trainer a file is for.

    Args:
        config: its keys and values.
        file: its name, for the message.

    Raises:
        ExperimentError: it is neither's.
    """
    matches = {trainer: [key for key in keys if key in config] for trainer, keys in OWN.items()}
    best = max(matches, key=lambda trainer: len(matches[trainer]))
    if len(matches[best]) < 2:
        names = "; ".join(f"{trainer} by keys such as {', '.join(keys[:4])}" for trainer, keys in OWN.items())
        raise ExperimentError(
            f"{file} is neither Axolotl's nor LLaMA-Factory's: it has the keys {', '.join(map(str, list(config)[:8])) or 'of nothing'}",
            f"known are {names}",
        )
    return best


FASTER = ("LigerPlugin", "CutCrossEntropyPlugin", "KernelsPlugin")
"""Plugins of Axolotl that compute the same faster."""


def is_set(value: Any) -> bool:
    """Whether a key says anything: neither empty nor turned off."""
    return value is not None and value is not False and value not in ("", [], {})


def map_keys(config: Mapping[str, Any], trainer: str) -> KeyMap:
    """Sort a file's keys: those whose value is a field's, those that change nothing, and those that cannot be had. What needs a look at others is left.

    Args:
        config: the file's keys and values.
        trainer: whose file it is.
    """
    key_map = KeyMap()
    ignored = {key: why for why, keys in IGNORED.items() for key in keys.split()}
    refused = {key: why for why, keys in REFUSED.items() for key in keys.split()}
    for key, value in config.items():
        if not is_set(value):
            continue
        if key in FIELDS:
            if key not in ADAPTERS or trains_adapters(config):
                key_map.mapped[key] = (FIELDS[key], value, "")
            else:
                key_map.ignored[key] = "no adapters are trained"
        elif key in ignored or key.startswith(("liger_", "wandb_", "swanlab_", "mlflow_", "comet_", "use_wandb", "trackio_")):
            key_map.ignored[key] = ignored.get(key, WRITES if not key.startswith("liger_") else COMPUTES)
        elif key in refused:
            if value != 0 or isinstance(value, bool):
                key_map.refused[key] = refused[key]
        elif key not in HANDLED:
            key_map.refused[key] = (
                f"unknown here: nobody can say that it changes nothing; {nearest(str(key), [*FIELDS, *HANDLED]).partition('Known')[0]}".rstrip(
                    "; "
                )
            )
    for key, value in DEFAULTS[trainer].items():
        if key in FIELDS and config.get(key) is None and not (key == "warmup_ratio" and config.get("warmup_steps") is not None):
            key_map.mapped[key] = (FIELDS[key], value, f"{trainer}'s default")
    return key_map


def trains_adapters(config: Mapping[str, Any]) -> bool:
    """Whether a file trains adapters beside the base's layers. LLaMA-Factory does where nothing else is config."""
    if "finetuning_type" in config or "stage" in config:
        return config.get("finetuning_type", "lora") == "lora"
    return config.get("adapter") in ("lora", "qlora")
