"""Signed tokens (JWT, RFC 7519, by the practices of RFC 8725): whose they are, if they hold."""

from dataclasses import dataclass
from typing import Any

import jwt

from dari.adapters.credentials.signing_keys import ALGORITHMS, KeySource
from dari.adapters.credentials.token_file import is_caller_name, is_tenant
from dari.core.callers import ROLES, Caller, Role
from dari.core.errors import Unauthenticated

_CODES: dict[type[Exception], str] = {
    jwt.ExpiredSignatureError: "token_expired",
    jwt.ImmatureSignatureError: "token_not_yet_valid",
    jwt.InvalidIssuedAtError: "token_not_yet_valid",
    jwt.InvalidAudienceError: "wrong_audience",
    jwt.InvalidIssuerError: "wrong_issuer",
    jwt.InvalidAlgorithmError: "wrong_algorithm",
    jwt.InvalidSignatureError: "bad_signature",
    jwt.MissingRequiredClaimError: "claim_missing",
}
"""Of PyJWT 2.15.1's errors; every other one of a token means that it is malformed."""


@dataclass(frozen=True, slots=True)
class TokenRules:
    """What a signed token must say."""

    issuer: str
    audience: str
    tenant_claim: str
    role_claim: str
    """Its value is a role, or a list from which the greatest role counts."""
    leeway_s: float
    """How far the issuer's clock may be from ours."""


def looks_signed(token: str) -> bool:
    """Whether a token has the form of a JWT; those of a tokens file have not."""
    return token.count(".") == 2


class SignedTokens:
    """Checks signed tokens. Thread-safe."""

    def __init__(self, keys: KeySource, rules: TokenRules) -> None:
        self._keys = keys
        self._rules = rules

    def caller(self, token: str) -> Caller:
        """Whose token it is. Raises Unauthenticated, and Unavailable where there are no keys yet."""
        claims = self._claims(token)
        name, tenant = claims.get("sub"), claims.get(self._rules.tenant_claim)
        role = _greatest_role(claims.get(self._rules.role_claim))
        if not is_caller_name(name) or not is_tenant(tenant) or role is None:
            raise Unauthenticated.of("wrong_claim")
        return Caller(str(name), str(tenant), role)

    def _claims(self, token: str) -> dict[str, Any]:
        try:
            header = jwt.get_unverified_header(token)
            # The header is anyone's word: it picks one of our keys, and the key brings the algorithm.
            if header.get("alg") not in ALGORITHMS:
                raise jwt.InvalidAlgorithmError
            key = self._keys.find(str(header.get("kid", "")))
            claims: dict[str, Any] = jwt.decode(
                token,
                key.key,
                algorithms=[key.algorithm_name],
                audience=self._rules.audience,
                issuer=self._rules.issuer,
                leeway=self._rules.leeway_s,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError) as error:
            raise Unauthenticated.of(_CODES.get(type(error), "token_malformed")) from None
        return claims


def _greatest_role(claim: object) -> Role | None:
    listed = claim if isinstance(claim, list) else [claim]
    return max((ROLES[each] for each in listed if isinstance(each, str) and each in ROLES), default=None)
