"""Checkpoints that are stored elsewhere than on this machine."""
