"""Language models fine-tuned on text that they wrote."""
