"""OpenAI's interface to a served model: HTTP to clients, gRPC to Triton; holds nothing between requests."""
