"""Janus-Pro: a LLaMA that looks through a SigLIP tower and draws with the codes of a VQ model."""
