"""Model families, one file each: which architectures it reads, config.json -> ModelSpec, and its checkpoint names."""
