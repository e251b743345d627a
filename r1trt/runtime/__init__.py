"""Running what the toolchain makes: sessions that keep the KV cache, sampling, generation."""
