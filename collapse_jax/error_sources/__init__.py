"""The study of the three sources of error (Shumailov et al. 2024)."""
