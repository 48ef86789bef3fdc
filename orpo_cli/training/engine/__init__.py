"""Packed ORPO step: the loss and gradients of trl's ORPOTrainer, with shared prompts, no padding and no full logits.

``packing`` packs the pairs of a step into micro-batches, ``packed_attention`` (``packed_attention_cuda`` on CUDA,
``block_attention`` elsewhere) keeps the sequences of a row apart, ``fused_lora``, ``lora_groups``, ``shared_input``,
``fused_norms_and_gates``, ``fused_rotary``, ``compiled_kernels`` and ``recompute`` save passes over memory, kernels and memory
itself, ``lm_head`` turns hidden states into log-probabilities, ``orpo_loss`` is the loss, ``packed_step``
computes an optimizer step or an evaluation batch, and ``parity_check`` compares the first pairs with trl's own path.
"""
