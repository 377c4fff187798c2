# ruff: noqa: N818  (the names say what is wrong with what; "Error" would say nothing more)
"""What can go wrong with an asset; every message is one line and names the way out."""


class AssetError(Exception):
    """Base of all asset errors. `str(error)` is one line, fit to print without a traceback."""


class AssetUnknown(AssetError):
    """No asset or group has this name."""


class AssetMissing(AssetError):
    """A pinned file is not in the cache."""


class AssetCorrupt(AssetError):
    """A file in the cache has another size or sha256 than the manifest pins."""


class FetchError(AssetError):
    """A fetch did not get what it was asked for."""


class NoClient(FetchError):
    """No package client (pip or npm) could be started."""


class NoNetwork(FetchError):
    """The package index could not be reached."""


class DiskFull(FetchError):
    """The cache's file system has too little room."""


class UpstreamChanged(FetchError):
    """The index offers a file whose digest differs from the pinned one, or none at all."""
