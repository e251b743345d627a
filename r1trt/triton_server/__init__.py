"""The bundled Triton server as a process on this machine."""
