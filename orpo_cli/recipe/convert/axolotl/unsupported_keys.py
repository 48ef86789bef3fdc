"""The keys of axolotl (0.18) that a recipe has nothing for, each with the reason."""

from __future__ import annotations

from collections.abc import Mapping

# Read by axolotl's builder for causal models only: under `rl: orpo` they do nothing.
IGNORED_KEYS: Mapping[str, str] = {
    "axolotl does not read it under `rl: orpo`.": "neftune_noise_alpha load_best_model_at_end metric_for_best_model "
    "greater_is_better ddp_timeout ddp_bucket_cap_mb ddp_broadcast_buffers ddp_find_unused_parameters "
    "dataloader_drop_last noisy_embedding_alpha evaluation_strategy save_safetensors",
    "axolotl stops early for causal models only, not under `rl: orpo`; here too the lowest eval loss is only kept "
    "(load_best_model_at_end).": "early_stopping_patience",
    "axolotl watches the loss for causal models only, not under `rl: orpo`; here a loss that is not finite stops the "
    "run.": "loss_watchdog_threshold loss_watchdog_patience",
    "axolotl does not read it under `rl: orpo`; it would change the step, so choose per_device_train_batch_size.": "auto_find_batch_size",
    "axolotl writes samples for causal models only, not under `rl: orpo`; `orpo generate --compare` shows answers.": "generate_samples "
    "num_generation_samples generation_max_new_tokens generation_temperature generation_top_p generation_top_k "
    "generation_prompt_ratio generation_do_sample eval_table_size eval_max_new_tokens",
    "axolotl does not read it under `rl: orpo`, where the prompt always counts in the likelihood term.": "train_on_inputs",
    "axolotl reads it for causal models only, not under `rl: orpo`.": "lr_quadratic_warmup jagged_restart_steps "
    "jagged_restart_warmup_steps jagged_restart_anneal_steps relora relora_prune_ratio relora_prune_method "
    "relora_cpu_offload lisa_n_layers lisa_step_interval lisa_layers_attribute do_causal_lm_eval "
    "eval_causal_lm_metrics do_bench_eval bench_dataset bench_split eval_sequence_len min_sample_len "
    "curriculum_sampling pad_to_sequence_len eval_sample_packing shuffle_before_merging_datasets",
    "axolotl reads it nowhere; here dataset.max_prompt_length limits prompts.": "max_prompt_len",
    "axolotl reads it for another method than ORPO.": "dpo_beta dpo_use_weighting dpo_label_smoothing "
    "precompute_ref_log_probs dpo_use_liger_kernel dpo_padding_free dpo_loss_type dpo_loss_weights "
    "dpo_use_logits_to_keep dpo_generate_during_eval dpo_norm_loss rpo_alpha simpo_gamma cpo_alpha "
    "kto_desirable_weight kto_undesirable_weight ebft vllm reward_model process_reward_model "
    "center_rewards_coefficient num_labels",
}

UNSUPPORTED_KEYS: Mapping[str, str] = {
    "The class is read from the model's own files.": "model_type type_of_model base_model_config cls_model_config "
    "tokenizer_type tokenizer_use_fast tokenizer_legacy tokenizer_use_mistral_common tokenizer_save_jinja_files "
    "processor_type processor_kwargs is_falcon_derived_model is_llama_derived_model is_mistral_derived_model "
    "is_qwen_derived_model",
    "ORPO trains text models here.": "freeze_mm_modules image_size image_resize_algorithm role_boundaries",
    "The pairs are prepared by this tool, and kept prepared.": "dataset_prepared_path dataset_processes dataset_num_proc "
    "dataset_shard_num dataset_shard_idx num_dataset_shards_to_save skip_prepare_dataset dataset_keep_in_memory "
    "push_dataset_to_hub is_preprocess preprocess_iterable shuffle_merged_datasets streaming "
    "streaming_multipack_buffer_size",
    "Pairs are shuffled and identical answers dropped; exact duplicates stay.": "dataset_exact_deduplication",
    "It is for pretraining.": "pretraining_dataset pretrain_multipack_buffer_size pretrain_multipack_attn "
    "pretraining_sample_concatenation use_pose pose_split_on_token_ids pose_max_context_len pose_num_chunks",
    "How a step is computed is decided by the `engine` section.": "sample_packing sample_packing_group_size "
    "sample_packing_bin_size sample_packing_sequentially sample_packing_mp_start_method sample_packing_eff_est "
    "multipack_real_batches batch_flattening pad_to_multiple_of total_num_tokens total_supervised_tokens "
    "chunked_cross_entropy chunked_cross_entropy_num_chunks tiled_mlp tiled_mlp_num_shards tiled_mlp_use_original_mlp "
    "lora_mlp_kernel lora_qkv_kernel lora_o_kernel lora_embedding_kernel flash_attn_cross_entropy flash_attn_fuse_mlp "
    "flash_attn_rms_norm fused_attn_kernel use_kernels deepcompile",
    "There is no such attention or kernel here.": "xformers_attention sage_attention s2_attention "
    "gemma4_hybrid_attn_impl large_head_attention flash_attn_d512 sdpa_varlen experts_implementation scaling_softmax "
    "scaling_softmax_factor scaling_softmax_bias flex_attn_compile_kwargs flash_optimum llama4_linearized_experts",
    "No token is replaced here, and the vocabulary grows by model.add_special_tokens alone.": "tokens "
    "added_tokens_overrides resize_token_embeddings_to_32x mean_resizing_embeddings shrink_embeddings "
    "fix_untrained_tokens embeddings_skip_upcast reinit_weights",
    "The end of an answer is what the chat template writes.": "eot_tokens default_system_message chat_template_kwargs",
    "Log in with `hf auth login`, or set HF_TOKEN.": "hf_use_auth_token",
    "Set the tracker's own environment variables.": "wandb_run_id wandb_mode wandb_watch mlflow_tracking_uri "
    "mlflow_experiment_name hf_mlflow_log_artifacts comet_api_key comet_workspace comet_project_name "
    "comet_experiment_key comet_mode comet_online comet_experiment_config use_otel_metrics otel_metrics_host "
    "otel_metrics_port",
    "Use `orpo train RECIPE --resume auto` or `--resume PATH`.": "resume_from_checkpoint auto_resume_from_checkpoints",
    "Merging is a command of its own: `orpo merge`.": "merge_lora merge_method lora_on_cpu",
    "Devices are found on the machine.": "device world_size local_rank ddp gpu_memory_limit low_cpu_mem_usage "
    "experimental_skip_move_to_device",
    "There is no Ray, Gradio or vLLM here.": "use_ray ray_run_name ray_num_workers resources_per_worker gradio_title "
    "gradio_share gradio_server_name gradio_server_port gradio_max_new_tokens gradio_temperature",
    "There is no such parallelism here.": "dp_shard_size dp_replicate_size sequence_parallel_degree "
    "context_parallel_size heads_k_stride ring_attn_func tensor_parallel_size fsdp_final_state_dict_type fp32_norms "
    "fp32_norm_classes qlora_sharded_model_loading",
    "There are no plugins here.": "plugins trainer_cls",
    "Training goes on from the base model; an adapter is merged first (`orpo merge`).": "lora_model_dir",
    "This quantization is not supported; bitsandbytes' is, in 4 and 8 bits.": "gptq fp8 "
    "fp8_enable_fsdp_float8_all_gather qat quantization model_quantization_config model_quantization_config_kwargs "
    "quantize_moe_experts use_onebitllms",
    "It belongs to an optimizer that is not supported.": "adam_beta3 adam_epsilon2 dion_lr dion_momentum "
    "dion_rank_fraction dion_rank_multiple_of qgalore_rank qgalore_update_proj_gap qgalore_scale qgalore_proj_type "
    "qgalore_proj_quant qgalore_proj_bits qgalore_proj_group_size qgalore_cos_threshold qgalore_gamma_proj "
    "qgalore_queue_size torchdistx_path",
    "All weights have one learning rate here, but for LoRA+.": "lr_groups embedding_lr embedding_lr_scale",
    "Write `lr_scheduler_type: cosine_with_min_lr` and `lr_scheduler_kwargs: {min_lr_rate: …}`.": "cosine_min_lr_ratio",
    "There is no such schedule here.": "cosine_constant_lr_ratio lr_div_factor",
    "Write it as `model.rope_scaling`, with rope_type instead of type.": "rope_scaling",
    "It has no equal here.": "strict activation_offloading layer_offloading selective_checkpointing unfrozen_parameters "
    "gc_steps gc_collect_steps save_first_step profiler_steps profiler_steps_start dynamic_checkpoint use_eaft "
    "eaft_alpha eaft_k axolotl_config_path include_tkps torch_compile_options max_packed_sequence_len "
    "peft_autocast_adapter_dtype",
    "Tokens per second are always logged.": "include_tokens_per_second",
}
