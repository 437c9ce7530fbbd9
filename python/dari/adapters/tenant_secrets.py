"""The settings' secrets, such that each tenant reaches its own."""

from collections.abc import Mapping

from pydantic import SecretStr


class UnknownSecret(Exception):
    """A tenant has no secret of this name."""


class TenantSecrets:
    """A tenant has the secrets under its own prefix (`acme/flowise-main`); those without any are `own_tenant`'s.

    The names that models and sources give cannot hold the `/` (see `core.mapping` and `core.sources`): nobody reaches
    another's. Thread-safe.
    """

    def __init__(self, secrets: Mapping[str, SecretStr], own_tenant: str) -> None:
        self._secrets = secrets
        self._own_tenant = own_tenant

    def of(self, tenant: str, name: str) -> str | None:
        """The value; None where nothing is named. Raises UnknownSecret."""
        if not name:
            return None
        secret = self._secrets.get(f"{tenant}/{name}")
        if secret is None and tenant == self._own_tenant:
            secret = self._secrets.get(name)
        if secret is None:
            raise UnknownSecret
        return secret.get_secret_value()
