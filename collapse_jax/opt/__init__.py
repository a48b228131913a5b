"""OPT (Zhang et al. 2022) in Flax: model, weights, tokenizer, fine-tuning and decoding."""
