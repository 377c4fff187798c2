"""The models of a run, with the servers that the run starts for itself.

A vision-language model is served either by somebody else (``roles.<role>.urls``) or by the run
(section ``[serve]``): then the roles that name no address are given those of the run's servers,
which start when clips are to be measured and end with the run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from s2v.datapipe.backends import registry
from s2v.datapipe.base.settings import SettingsError
from s2v.datapipe.config import Settings
from s2v.datapipe.engine.execute import start_ray
from s2v.datapipe.engine.pools import Need
from s2v.datapipe.roles import Roles

#: Stands for servers that are not up yet: a model's id does not depend on its address.
NOT_UP = ("http://127.0.0.1:9",)


def make_roles(settings: Settings, urls: Sequence[str] = NOT_UP) -> Roles:
    """Fill the roles as the configuration says; no weights are loaded.

    Args:
        settings: the configuration.
        urls: addresses of the run's own servers.

    Raises:
        SettingsError, WeightsError, AssetMissing: one clear line each.
    """
    chosen = settings.roles.chosen()
    of_profile = registry.PROFILES[settings.roles.profile]
    for role, (backend, options) in chosen.items():
        if (backend or of_profile[role]) == "vlm" and "urls" not in options:
            chosen[role] = (backend, _served(settings, role, options, urls))
    return registry.fill(settings.roles.profile, chosen)


def _served(
    settings: Settings, role: str, options: dict[str, Any], urls: Sequence[str]
) -> dict[str, Any]:
    if settings.serve is None:
        raise SettingsError(
            f"roles.{role}: needs a vision-language model: give urls and model of a server that "
            "is up, or a section [serve] for one that the run starts"
        )
    own = {"model": settings.serve.name, "revision": settings.serve.revision}
    if settings.serve.api_key_env:
        own["api_key_env"] = settings.serve.api_key_env
    return {**own, **options, "urls": tuple(urls)}


def reserved(settings: Settings) -> list[Need]:
    """What the run's own servers are booked with."""
    if settings.serve is None:
        return []
    one = Need(cpus=max(settings.serve.cpus, 0.01), gpus=float(settings.serve.gpus))
    return [one] * settings.serve.count


@contextmanager
def roles_at_work(settings: Settings, roles: Roles) -> Iterator[Roles]:
    """The roles to measure with, while the run's own servers are up.

    Raises:
        ServerStartError: a server did not come up.
    """
    if settings.serve is None:
        yield roles
        return
    from s2v.datapipe.backends.vlm.fleet import serving

    start_ray(settings.engine.cpus)
    with serving(settings.serve, settings.serve.count) as urls:
        yield make_roles(settings, urls)
