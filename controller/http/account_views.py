"""What the API says and takes about accounts, as structs, for the server and the command line."""

from typing import Annotated, Final

import msgspec

from controller.accounts.passwords import MAX_LENGTH
from controller.accounts.roles import Role
from controller.accounts.views import AccountName
from controller.http.views import View, Wish

Password = Annotated[str, msgspec.Meta(max_length=MAX_LENGTH)]
MAX_DAYS: Final = 3660


class SessionView(View, frozen=True, kw_only=True):
    """Whoever asks: `user`, `token`, or `local` where nobody is asked who they are."""

    kind: str
    name: str
    role: Role


class LoginWish(Wish, frozen=True, kw_only=True):
    """Log in."""

    name: Annotated[str, msgspec.Meta(max_length=63)]
    password: Password


class OwnPasswordWish(Wish, frozen=True, kw_only=True):
    """Another password for oneself."""

    password: Password
    new_password: Password


class UserWish(Wish, frozen=True, kw_only=True):
    """A new account."""

    name: AccountName
    role: Role
    password: Password


class PasswordWish(Wish, frozen=True, kw_only=True):
    """Another password for an account."""

    password: Password


class RoleWish(Wish, frozen=True, kw_only=True):
    """Another role for an account."""

    role: Role


class TokenWish(Wish, frozen=True, kw_only=True):
    """A new token; without `expires_days` it has no end."""

    name: AccountName
    role: Role
    expires_days: Annotated[float, msgspec.Meta(gt=0, le=MAX_DAYS)] | None = None
