"""Feature caches: layout on disk, reader, writer, and how one is built from the files of another tool."""
