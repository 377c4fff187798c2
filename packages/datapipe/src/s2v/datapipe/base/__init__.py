"""What every room of the house may import: records, ids, shards, assets, media, small nets.

Nothing here imports Ray or a production model.
"""
