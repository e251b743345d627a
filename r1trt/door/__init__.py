"""What passes to a model over HTTP, whichever protocol it is then spoken to in: sizes, times, JSON."""
