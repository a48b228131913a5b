"""Variational autoencoders of images: the models, their training, what sees their images."""
