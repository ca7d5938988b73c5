"""OpenVLA in plain PyTorch: openvla-7b, v0.1 and fine-tuned checkpoints in the official Hugging Face layout."""
