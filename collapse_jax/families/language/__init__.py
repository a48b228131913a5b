"""Language models fine-tuned on their own text."""
