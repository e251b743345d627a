"""Graph passes: one a file, each leaves a valid graph; `pipeline` lists the order that types an export."""
