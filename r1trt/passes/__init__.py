"""Graph passes: one a file, each leaves a valid graph; `pipeline` has the list of every backend."""
