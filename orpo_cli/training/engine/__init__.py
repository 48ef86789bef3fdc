"""The fast path of a step: shared prompts, no padding, no full logits. It computes what trl's ORPOTrainer computes.

``layout`` cuts the pairs of a step into micro-batches, ``attention`` (and ``attention_on_gpu``) keeps the parts of a row apart,
``adapters``, ``pointwise`` and ``compiled`` take fewer passes over memory, ``head`` turns hidden states into log-probabilities,
``loss`` is ORPO's, ``step`` does one optimizer step or one evaluation batch, and ``check`` compares the first pairs with trl's
own path.
"""
