"""What the toolchain leaves on the disk: directories described by a manifest, written whole or not at all."""
