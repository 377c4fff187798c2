"""Curation of in-paired and cross-paired image-text-video triplets (Phantom, section 3.1)."""
