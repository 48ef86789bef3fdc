"""LLaMA-Factory's keys without an equivalent in a recipe, by reason."""

from __future__ import annotations

from collections.abc import Mapping

IGNORED_KEYS: Mapping[str, str] = {
    "LLaMA-Factory uses it only for other methods than ORPO.": "pref_bco_weight dpo_label_smoothing kto_chosen_weight "
    "kto_rejected_weight simpo_gamma ppo_buffer_size ppo_epochs ppo_score_norm ppo_target ppo_whiten_rewards ref_model "
    "ref_model_adapters ref_model_quantization_bit reward_model reward_model_adapters reward_model_quantization_bit "
    "reward_model_type ld_alpha use_dft_loss use_asft_loss asft_alpha use_eaft_loss eaft_alpha compute_accuracy packing "
    "neat_packing train_on_prompt mask_history predict_with_generate generation_max_length generation_num_beams "
    "generation_config eval_num_beams sortish_sampler dpo_beta dpo_loss dpo_ftx simpo_beta",
    "LLaMA-Factory uses it only for generation, not for training.": "infer_backend infer_dtype use_kv_cache do_sample "
    "temperature top_p top_k num_beams max_new_tokens repetition_penalty length_penalty skip_special_tokens "
    "vllm_maxlen vllm_gpu_util vllm_enforce_eager vllm_max_lora_rank vllm_config sglang_maxlen sglang_mem_fraction "
    "sglang_tp_size sglang_config sglang_lora_backend",
    "LLaMA-Factory uses it only for `finetuning_type: freeze`.": "freeze_trainable_layers freeze_trainable_modules "
    "freeze_extra_modules use_llama_pro",
    "LLaMA-Factory uses it only for `finetuning_type: oft`.": "module_dropout oft_rank oft_block_size oft_target",
}

UNSUPPORTED_KEYS: Mapping[str, str] = {
    "orpo-cli prepares and caches the pairs.": "overwrite_cache preprocessing_num_workers "
    "preprocessing_batch_size tokenized_path data_shared_file_system streaming buffer_size "
    "ignore_pad_token_for_loss cache_dir",
    "Use dataset.truncation_mode: which end of a long prompt is kept.": "truncation_side",
    "System messages and tool calls come from the data and are rendered by the chat template.": "default_system "
    "tool_format enable_thinking preserve_thinking",
    "orpo-cli trains text models only.": "media_dir image_max_pixels image_min_pixels image_do_pan_and_scan crop_to_patches "
    "video_max_pixels video_min_pixels video_fps video_maxlen use_audio_in_video audio_sampling_rate "
    "freeze_vision_tower freeze_multi_modal_projector freeze_language_model",
    "The tokenizer is not changed; only model.add_special_tokens adds tokens.": "resize_vocab add_tokens "
    "add_special_tokens new_special_tokens_config init_special_tokens split_special_tokens use_fast_tokenizer",
    "Training starts from the base model. Merge an adapter first (`orpo merge`).": "adapter_name_or_path "
    "adapter_folder create_new_adapter",
    "A recipe never contains a token. Set HF_TOKEN or run `hf auth login`.": "hf_hub_token ms_hub_token om_hub_token",
    "The `engine` section controls how a step is computed.": "use_unsloth use_unsloth_gc enable_liger_kernel "
    "use_v1_kernels booster block_diag_attn",
    "This optimizer is not supported; `optim` accepts those of transformers.": "use_galore galore_target galore_rank "
    "galore_update_interval galore_scale galore_proj_type galore_layerwise use_apollo apollo_target apollo_rank "
    "apollo_update_interval apollo_scale apollo_proj apollo_proj_type apollo_scale_type apollo_layerwise "
    "apollo_scale_front use_badam badam_mode badam_start_block badam_switch_mode badam_switch_interval "
    "badam_update_ratio badam_mask_mode badam_verbose use_adam_mini use_muon",
    "Plot the metrics from metrics.jsonl, which every run writes.": "plot_loss",
    "Early stopping is not supported; load_best_model_at_end keeps the checkpoint with the lowest evaluation loss.": "early_stopping_steps",
    "Tokens per second are always logged.": "include_effective_tokens_per_second",
    "Set the environment variables of the tracker.": "use_swanlab swanlab_project swanlab_workspace swanlab_run_name "
    "swanlab_mode swanlab_api_key swanlab_logdir swanlab_lark_webhook_url swanlab_lark_secret",
    "Use the commands `orpo merge` and `orpo export`.": "export_dir export_size export_device "
    "export_quantization_bit export_quantization_dataset export_quantization_nsamples export_quantization_maxlen "
    "export_legacy_format export_hub_model_id",
    "Use `model.rope_scaling`, whose factor does not depend on other settings.": "rope_scaling",
    "It has no equivalent here.": "quantization_device_map shift_attn mixture_of_depths moe_aux_loss_coef upcast_layernorm "
    "upcast_lmhead_output train_from_scratch offload_folder low_cpu_mem_usage print_param_status compute_dtype "
    "model_max_length disable_shuffling use_mca use_megatron_bridge megatron_bridge_args use_hyper_parallel "
    "hyper_parallel_args hyper_parallel_cp_size eval_on_each_dataset ray_num_workers ray_init_kwargs master_addr "
    "master_port enable_torch_profiler profiler_output_dir profiler_wait_steps profiler_warmup_steps "
    "profiler_active_steps profiler_repeat profiler_record_shapes profiler_profile_memory profiler_with_stack "
    "profile_modules fp8 fp8_backend fp8_enable_fsdp_float8_all_gather use_kt kt_cpu_activation kt_weight_path "
    "kt_non_expert_weight_path kt_expert_checkpoint_path kt_use_lora_experts kt_lora_expert_num "
    "kt_lora_expert_intermediate_size ray_run_name ray_storage_path resources_per_worker placement_strategy",
}
