"""Encoded samples beside the shards: made once, read by every run of the same encoders.

``identity``   what made them, as fields and as a fingerprint
``entry``      what a sample at a size needs, and what an entry says it is
``container``  one tar per shard with its index inside: written whole, read by ranges
``folder``     the reading side: an entry of a sample, or why there is none
``stored``     one entry as features, its rows read when they are asked for
``plan``       which samples in which sizes, and which process does which shard
``work``       what a shard's file lacks
``shard``      one shard's samples encoded
``encode``     all of it: resumable, counted
``estimate``   sizes before anything is made
``verify``     a folder against its digests and its shards
"""
