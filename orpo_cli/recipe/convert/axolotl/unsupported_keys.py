"""axolotl's keys (version 0.18) without an equivalent in a recipe, by reason."""

from __future__ import annotations

from collections.abc import Mapping

# With `rl: orpo`, axolotl does not use these keys: most are read only by its trainer for causal models.
IGNORED_KEYS: Mapping[str, str] = {
    "axolotl does not use it with `rl: orpo`.": "neftune_noise_alpha load_best_model_at_end metric_for_best_model "
    "greater_is_better ddp_timeout ddp_bucket_cap_mb ddp_broadcast_buffers ddp_find_unused_parameters "
    "dataloader_drop_last noisy_embedding_alpha evaluation_strategy save_safetensors",
    "axolotl does not use it with `rl: orpo`. For early stopping, set training.watchdogs.evaluation_worse to stop; "
    "load_best_model_at_end keeps the checkpoint with the lowest evaluation loss.": "early_stopping_patience",
    "axolotl does not use it with `rl: orpo`. orpo-cli stops the run if the loss is not finite, and training.watchdogs.loss_spike warns of a spike.": "loss_watchdog_threshold loss_watchdog_patience",
    "axolotl does not use it with `rl: orpo`. Set per_device_train_batch_size.": "auto_find_batch_size",
    "axolotl does not use it with `rl: orpo`. `orpo generate --compare` generates completions.": "generate_samples "
    "num_generation_samples generation_max_new_tokens generation_temperature generation_top_p generation_top_k "
    "generation_prompt_ratio generation_do_sample eval_table_size eval_max_new_tokens",
    "axolotl does not use it with `rl: orpo`: the NLL always includes the prompt.": "train_on_inputs",
    "axolotl uses it only for supervised fine-tuning, not with `rl: orpo`.": "lr_quadratic_warmup jagged_restart_steps "
    "jagged_restart_warmup_steps jagged_restart_anneal_steps relora relora_prune_ratio relora_prune_method "
    "relora_cpu_offload lisa_n_layers lisa_step_interval lisa_layers_attribute do_causal_lm_eval "
    "eval_causal_lm_metrics do_bench_eval bench_dataset bench_split eval_sequence_len min_sample_len "
    "curriculum_sampling pad_to_sequence_len eval_sample_packing shuffle_before_merging_datasets",
    "axolotl does not use it. Here, dataset.max_prompt_length limits prompts.": "max_prompt_len",
    "axolotl uses it only for other methods than ORPO.": "dpo_beta dpo_use_weighting dpo_label_smoothing "
    "precompute_ref_log_probs dpo_use_liger_kernel dpo_padding_free dpo_loss_type dpo_loss_weights "
    "dpo_use_logits_to_keep dpo_generate_during_eval dpo_norm_loss rpo_alpha simpo_gamma cpo_alpha "
    "kto_desirable_weight kto_undesirable_weight ebft vllm reward_model process_reward_model "
    "center_rewards_coefficient num_labels",
}

UNSUPPORTED_KEYS: Mapping[str, str] = {
    "The model's config.json determines the class.": "model_type type_of_model base_model_config cls_model_config "
    "tokenizer_type tokenizer_use_fast tokenizer_legacy tokenizer_use_mistral_common tokenizer_save_jinja_files "
    "processor_type processor_kwargs is_falcon_derived_model is_llama_derived_model is_mistral_derived_model "
    "is_qwen_derived_model",
    "orpo-cli trains text models only.": "freeze_mm_modules image_size image_resize_algorithm role_boundaries",
    "orpo-cli prepares and caches the pairs.": "dataset_prepared_path dataset_processes dataset_num_proc "
    "dataset_shard_num dataset_shard_idx num_dataset_shards_to_save skip_prepare_dataset dataset_keep_in_memory "
    "push_dataset_to_hub is_preprocess preprocess_iterable shuffle_merged_datasets streaming "
    "streaming_multipack_buffer_size",
    "orpo-cli keeps exact duplicates; it drops pairs with identical completions.": "dataset_exact_deduplication",
    "It is for pretraining.": "pretraining_dataset pretrain_multipack_buffer_size pretrain_multipack_attn "
    "pretraining_sample_concatenation use_pose pose_split_on_token_ids pose_max_context_len pose_num_chunks",
    "The `engine` section controls how a step is computed.": "sample_packing sample_packing_group_size "
    "sample_packing_bin_size sample_packing_sequentially sample_packing_mp_start_method sample_packing_eff_est "
    "multipack_real_batches batch_flattening pad_to_multiple_of total_num_tokens total_supervised_tokens "
    "chunked_cross_entropy chunked_cross_entropy_num_chunks tiled_mlp tiled_mlp_num_shards tiled_mlp_use_original_mlp "
    "lora_mlp_kernel lora_qkv_kernel lora_o_kernel lora_embedding_kernel flash_attn_cross_entropy flash_attn_fuse_mlp "
    "flash_attn_rms_norm fused_attn_kernel use_kernels deepcompile",
    "This attention implementation or kernel is not supported.": "xformers_attention sage_attention s2_attention "
    "gemma4_hybrid_attn_impl large_head_attention flash_attn_d512 sdpa_varlen experts_implementation scaling_softmax "
    "scaling_softmax_factor scaling_softmax_bias flex_attn_compile_kwargs flash_optimum llama4_linearized_experts",
    "No token is replaced; only model.add_special_tokens adds tokens.": "tokens "
    "added_tokens_overrides resize_token_embeddings_to_32x mean_resizing_embeddings shrink_embeddings "
    "fix_untrained_tokens embeddings_skip_upcast reinit_weights",
    "The chat template determines the end of a completion.": "eot_tokens default_system_message chat_template_kwargs",
    "Set HF_TOKEN or run `hf auth login`.": "hf_use_auth_token",
    "Set the environment variables of the tracker.": "wandb_run_id wandb_mode wandb_watch mlflow_tracking_uri "
    "mlflow_experiment_name hf_mlflow_log_artifacts comet_api_key comet_workspace comet_project_name "
    "comet_experiment_key comet_mode comet_online comet_experiment_config use_otel_metrics otel_metrics_host "
    "otel_metrics_port",
    "Use `orpo train RECIPE --resume auto` or `--resume PATH`.": "resume_from_checkpoint auto_resume_from_checkpoints",
    "Merge with `orpo merge`.": "merge_lora merge_method lora_on_cpu",
    "orpo-cli detects the devices.": "device world_size local_rank ddp gpu_memory_limit low_cpu_mem_usage "
    "experimental_skip_move_to_device",
    "Ray, Gradio and vLLM are not supported.": "use_ray ray_run_name ray_num_workers resources_per_worker gradio_title "
    "gradio_share gradio_server_name gradio_server_port gradio_max_new_tokens gradio_temperature",
    "This parallelism is not supported.": "dp_shard_size dp_replicate_size sequence_parallel_degree "
    "context_parallel_size heads_k_stride ring_attn_func tensor_parallel_size fsdp_final_state_dict_type fp32_norms "
    "fp32_norm_classes qlora_sharded_model_loading",
    "Plugins are not supported.": "plugins trainer_cls",
    "Training starts from the base model. Merge an adapter first (`orpo merge`).": "lora_model_dir",
    "Only bitsandbytes with 4 or 8 bits is supported.": "gptq fp8 "
    "fp8_enable_fsdp_float8_all_gather qat quantization model_quantization_config model_quantization_config_kwargs "
    "quantize_moe_experts use_onebitllms",
    "It is for an optimizer that is not supported.": "adam_beta3 adam_epsilon2 dion_lr dion_momentum "
    "dion_rank_fraction dion_rank_multiple_of qgalore_rank qgalore_update_proj_gap qgalore_scale qgalore_proj_type "
    "qgalore_proj_quant qgalore_proj_bits qgalore_proj_group_size qgalore_cos_threshold qgalore_gamma_proj "
    "qgalore_queue_size torchdistx_path",
    "All weights have the same learning rate, except with LoRA+.": "lr_groups embedding_lr embedding_lr_scale",
    "Use `lr_scheduler_type: cosine_with_min_lr` and `lr_scheduler_kwargs: {min_lr_rate: …}`.": "cosine_min_lr_ratio",
    "This schedule is not supported.": "cosine_constant_lr_ratio lr_div_factor",
    "Use `model.rope_scaling`, with rope_type instead of type.": "rope_scaling",
    "It has no equivalent here.": "strict activation_offloading layer_offloading selective_checkpointing unfrozen_parameters "
    "gc_steps gc_collect_steps save_first_step profiler_steps profiler_steps_start dynamic_checkpoint use_eaft "
    "eaft_alpha eaft_k axolotl_config_path include_tkps torch_compile_options max_packed_sequence_len "
    "peft_autocast_adapter_dtype",
    "Tokens per second are always logged.": "include_tokens_per_second",
}
