"""Transformer language models: networks, weights, tokenizers, fine-tuning and decoding."""
