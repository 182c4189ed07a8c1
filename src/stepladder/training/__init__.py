"""Fine-tuning: LoRA adapters, trained exactly, stopped by held-out rows, and safe from a kill at any moment."""
