"""Files that appear whole or not at all: publishing, checksums, and the manifest of a folder."""
