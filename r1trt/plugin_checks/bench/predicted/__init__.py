"""What each row of the bench should take by its kernels' tiles, bytes and instructions."""
