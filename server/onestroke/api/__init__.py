"""One file per face of the server: openai, raw, stream, ops, page; and what they share."""
