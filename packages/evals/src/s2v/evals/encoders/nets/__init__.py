"""Our own twins of published networks: the architectures alone, names as in their checkpoints."""
