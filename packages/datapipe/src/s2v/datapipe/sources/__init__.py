"""Where sources come from: files, folders, manifests, image banks, object stores, URLs.

``[[sources]]`` entries (:mod:`.spec`) are opened (:mod:`.expand`) and listed (:mod:`.listing`) as
rows of table ``sources``; a worker brings the bytes of a row onto its machine
(:mod:`.stager`, through :mod:`s2v.datapipe.staging`).
"""

from s2v.datapipe.sources.errors import SourceError
from s2v.datapipe.sources.listing import identity_of, list_sources
from s2v.datapipe.sources.spec import DownloadSettings, SourceSpec

__all__ = [
    "DownloadSettings",
    "SourceError",
    "SourceSpec",
    "identity_of",
    "list_sources",
]
