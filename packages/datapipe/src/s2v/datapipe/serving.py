"""The models of a run, with the servers that the run starts for itself.

A vision-language model is served either by somebody else (``roles.<role>.urls``) or by the run
(section ``[serve]``): then the roles that name no address are given those of the run's servers,
which start when one of them is first needed, for clips or for pairs, and stay up until the last
question of the run is answered: weights take minutes to load.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Self

from s2v.datapipe.backends import registry
from s2v.datapipe.base.assets import AssetError
from s2v.datapipe.base.settings import SettingsError
from s2v.datapipe.config import Settings
from s2v.datapipe.engine.execute import start_ray
from s2v.datapipe.engine.pools import Need
from s2v.datapipe.roles import Roles, WeightsError

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
    return registry.fill(settings.roles.profile, _chosen(settings, urls))


@dataclass(frozen=True)
class Absent:
    """Stands for a model whose weights are not on this machine; it can be planned with."""

    model_id: str
    why: str

    def load(self) -> None:
        """Say again why it is not there."""
        raise WeightsError(self.why)


def roles_or_why_not(settings: Settings) -> Roles:
    """Fill the roles as :func:`make_roles` does; weights that are not here leave :class:`Absent`.

    Raises:
        SettingsError: the configuration is wrong, whatever lies on disk.
    """
    chosen = _chosen(settings, NOT_UP)
    filled: dict[str, Any] = {}
    for role, name in _backends(settings).items():
        try:
            alone = {role: (name, chosen[role][1])}
            filled[role] = getattr(registry.fill("embedded", alone), role)
        except (WeightsError, AssetError) as error:
            filled[role] = Absent(f"{name}, not on this machine", str(error))
    return Roles(**filled)


def _chosen(
    settings: Settings, urls: Sequence[str]
) -> dict[str, tuple[str | None, dict[str, Any]]]:
    chosen = settings.roles.chosen()
    for role in own(settings):
        backend, options = chosen[role]
        chosen[role] = (backend, _served(settings, role, options, urls))
    return chosen


def own(settings: Settings) -> frozenset[str]:
    """Roles that ask the run's own servers."""
    chosen = settings.roles.chosen()
    return frozenset(
        role for role, name in _backends(settings).items()
        if name == "vlm" and "urls" not in chosen[role][1]
    )  # fmt: skip


def untried(settings: Settings) -> frozenset[str]:
    """Roles whose weights or server are the user's: nobody has seen yet whether they work.

    The embedded models are pinned files, checked when they were fetched.
    """
    embedded = registry.PROFILES["embedded"]
    mine = {role for role, name in _backends(settings).items() if name != embedded[role]}
    return frozenset(mine) - own(settings)


def _backends(settings: Settings) -> dict[str, str]:
    of_profile = registry.PROFILES[settings.roles.profile]
    return {
        role: backend or of_profile[role]
        for role, (backend, _) in settings.roles.chosen().items()
    }  # fmt: skip


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
    """What the run's own servers are booked with; nothing when no role asks them."""
    if settings.serve is None or not own(settings):
        return []
    one = Need(cpus=max(settings.serve.cpus, 0.01), gpus=float(settings.serve.gpus))
    return [one] * settings.serve.count


def check_servers(settings: Settings) -> None:
    """See that the run's own servers can be started, before hours of work that needs them.

    Raises:
        ServerStartError, WeightsError: what is missing, and where.
    """
    if settings.serve is not None and own(settings):
        from s2v.datapipe.backends.vlm.fleet import check_serving

        check_serving(settings.serve, settings.serve.count)


class Servers:
    """The run's own servers: started when first asked for, ended with the block.

    Without any (no section ``[serve]``, or roles that name addresses) nothing is ever started.

    Args:
        settings: the configuration.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._held = ExitStack()
        self._urls: list[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        self._urls = None
        self._held.__exit__(*error)

    @property
    def up(self) -> bool:
        """Whether they are up; what is up need not be tried, and has its place already."""
        return self._urls is not None

    def roles(self) -> Roles:
        """The roles with the addresses of servers that are up.

        Raises:
            ServerStartError: a server did not come up.
        """
        serve = self._settings.serve
        if serve is None or not own(self._settings):
            return make_roles(self._settings)
        if self._urls is None:
            from s2v.datapipe.backends.vlm.fleet import serving

            start_ray(self._settings.engine.cpus)
            self._urls = self._held.enter_context(serving(serve, serve.count))
        return make_roles(self._settings, self._urls)

    def keep_for(self, roles: Collection[str]) -> None:
        """End them unless one of these roles asks them: others may want their GPUs."""
        if not own(self._settings) & set(roles):
            self.__exit__(None, None, None)
