"""Study of the three error sources of model collapse (Shumailov et al. 2024)."""
