"""From a file to a sample: header, routing, decoding in a child process, shards."""
