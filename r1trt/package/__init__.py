"""Model repositories of inference servers, written from builds."""
