"""`python -m r1trt`: the same as the `r1trt` command."""

from r1trt.cli import entry_point

if __name__ == "__main__":
    entry_point()
