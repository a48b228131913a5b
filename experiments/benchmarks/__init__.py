"""What `experiments.benchmark` times: one module a suite, and the clock they share."""
