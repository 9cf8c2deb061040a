"""Evaluation of trained models: likelihoods, classification, latent usage, tables and reports."""
