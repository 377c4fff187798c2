"""The small real nets of the embedded profile, one per file; weights come from the asset cache.

Every class is built by `from_assets()` (or with explicit paths), loads its weights on `load()` or
at the first call, runs on one CPU thread, gives the same answer for the same input, and has a
`model_id` that changes with its weights.

They are small. What they cannot do is said in each file's head and in docs/assets.md.
"""
