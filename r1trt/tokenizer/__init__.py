"""Text to tokens and back: tokenizers and chat templates of checkpoints, in processes with limits."""
