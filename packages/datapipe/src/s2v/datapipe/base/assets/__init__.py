"""Pinned weights and sample media of the embedded profile, fetched once and checked.

`asset("yunet")` gives the path of a file that is there and right, or raises `AssetMissing` or
`AssetCorrupt` with the command that helps. `fetch("demo")` brings what is missing.
"""

from s2v.datapipe.base.assets.cache import Listing, asset, cache_root, listing, verify
from s2v.datapipe.base.assets.errors import (
    AssetCorrupt,
    AssetError,
    AssetMissing,
    AssetUnknown,
    DiskFull,
    FetchError,
    NoClient,
    NoNetwork,
    UpstreamChanged,
)
from s2v.datapipe.base.assets.fetch import FetchReport, fetch
from s2v.datapipe.base.assets.manifest import GROUPS, Asset, load_manifest, lookup
from s2v.datapipe.base.assets.progress import Reporter, reporter

__all__ = [
    "GROUPS",
    "Asset",
    "AssetCorrupt",
    "AssetError",
    "AssetMissing",
    "AssetUnknown",
    "DiskFull",
    "FetchError",
    "FetchReport",
    "Listing",
    "NoClient",
    "NoNetwork",
    "Reporter",
    "UpstreamChanged",
    "asset",
    "cache_root",
    "fetch",
    "listing",
    "load_manifest",
    "lookup",
    "reporter",
    "verify",
]
