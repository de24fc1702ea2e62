//! Single-flight and the shared count, over every interleaving.
