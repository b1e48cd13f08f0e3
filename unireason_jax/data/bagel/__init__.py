"""What BAGEL reads: a sample as its training packer emits it, and latents made ahead."""
