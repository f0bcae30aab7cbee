"""Who asks, and which hub: from options, the environment, files; and sessions of users, kept in a file of their own.

A token comes from a file or the environment, never from the command line, which everybody on the machine can read. A
user signs in with a password, which is kept nowhere; what is kept is the session (a JWT of an hour, renewed until the
password was given a week ago), readable for its owner only, and it is sent to the hub that gave it and to no other.
"""

import contextlib
import datetime as dt
import os
import tempfile
import uuid
from collections.abc import Mapping
from pathlib import Path

import msgspec

from client.errors import NotAllowed, SettingsError
from client.hub import Hub

URL_VARIABLE = "METERGATE_HUB_URL"
TOKEN_VARIABLE = "METERGATE_HUB_TOKEN"  # noqa: S105 - the name of a variable
TOKEN_FILE_VARIABLE = "METERGATE_HUB_TOKEN_FILE"  # noqa: S105 - the name of a variable
CA_VARIABLE = "METERGATE_HUB_CA"
SESSION_VARIABLE = "METERGATE_HUB_SESSION"

_RENEWED = dt.timedelta(minutes=30)
"""A session that ends sooner is renewed."""

_LOCAL = ("localhost", "127.", "[::1]")


class Session(msgspec.Struct, kw_only=True):
    """A user's session at one hub, as it is kept."""

    url: str
    username: str
    organization: uuid.UUID
    expires_at: dt.datetime
    token: str

    def __repr__(self) -> str:
        return f"<Session of {self.username} at {self.url}>"


class _SignedIn(msgspec.Struct):
    token: str
    username: str
    organization: uuid.UUID
    expires_at: dt.datetime


def session_file(environment: Mapping[str, str]) -> Path:
    """Return where sessions are kept."""
    said = environment.get(SESSION_VARIABLE)
    if said:
        return Path(said)
    state = environment.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(state).expanduser() / "metergate" / "session.json"


def open_hub(
    environment: Mapping[str, str],
    *,
    url: str | None = None,
    token_file: Path | None = None,
    ca: Path | None = None,
    now: dt.datetime | None = None,
) -> Hub:
    """Return the hub that is meant, asked as whoever is meant: what is given counts before the environment.

    Raises:
        SettingsError: saying what is missing, and how it is given.
    """
    url = url or environment.get(URL_VARIABLE) or None
    ca = ca or (Path(said) if (said := environment.get(CA_VARIABLE)) else None)
    token = _token(environment, token_file)
    if token is not None:
        if url is None:
            raise SettingsError(f"which hub? give --url, or set {URL_VARIABLE}, such as https://hub.example.com")
        return Hub(url, token, ca=ca)
    file = session_file(environment)
    session = read_session(file)
    if session is None or (url is not None and _bare(url) != _bare(session.url)):
        raise SettingsError(
            f"who asks? set {TOKEN_FILE_VARIABLE} to a file with a token (or {TOKEN_VARIABLE} to the token), "
            "or sign in as a user: metergate-hub api login USERNAME"
        )
    return Hub(session.url, session=_fresh(session, file, ca, now or dt.datetime.now(dt.UTC)).token, ca=ca)


def _token(environment: Mapping[str, str], file: Path | None) -> str | None:
    said = file or environment.get(TOKEN_FILE_VARIABLE)
    if not said:
        return environment.get(TOKEN_VARIABLE) or None
    try:
        lines = Path(said).read_text("utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        cause = error.strerror if isinstance(error, OSError) else "it is no text"
        raise SettingsError(f"the token's file {said} cannot be read: {cause}") from None
    if not lines:
        raise SettingsError(f"the token's file {said} is empty")
    # What made a token may have said more; its last line is the key.
    return lines[-1]


def is_open_wire(url: str) -> bool:
    """Whether a token would be sent where others on the way can read it."""
    host = url.removeprefix("http://")
    return host != url and not host.startswith(_LOCAL)


def sign_in(url: str, username: str, password: str, organization: str | None, ca: Path | None) -> Session:
    """Give the hub a password for a session; ``organization`` is a name or an id, where the user has several.

    Raises:
        Refused: when the hub does not know the user, or the password.
        SettingsError: when the user does not belong to that organization.
    """
    with Hub(url, ca=ca) as hub:
        answer = hub.create("auth/jwt/token/", {"username": username, "password": password})
        signed_in = msgspec.convert(answer, _SignedIn)
        if organization is not None:
            chosen = [one["id"] for one in answer["organizations"] if organization in {one["id"], one["name"]}]
            if not chosen:
                names = ", ".join(one["name"] for one in answer["organizations"])
                raise SettingsError(f"{username} does not belong to {organization!r}; there are: {names}")
            with Hub(url, session=signed_in.token, ca=ca) as own:
                signed_in = msgspec.convert(
                    own.create("auth/jwt/change-organization/", {"organization": chosen[0]}), _SignedIn
                )
        return _session(hub.url, signed_in)


def _session(url: str, signed_in: _SignedIn) -> Session:
    return Session(
        url=url,
        username=signed_in.username,
        organization=signed_in.organization,
        expires_at=signed_in.expires_at,
        token=signed_in.token,
    )


def _fresh(session: Session, file: Path, ca: Path | None, now: dt.datetime) -> Session:
    if session.expires_at - now > _RENEWED:
        return session
    ended = SettingsError(f"the session of {session.username} has ended; sign in again: metergate-hub api login")
    if session.expires_at <= now:
        raise ended
    try:
        with Hub(session.url, session=session.token, ca=ca) as hub:
            renewed = _session(session.url, msgspec.convert(hub.get("auth/jwt/renew/"), _SignedIn))
    except NotAllowed:
        raise ended from None
    keep_session(renewed, file)
    return renewed


def read_session(file: Path) -> Session | None:
    """Return the session that is kept, if there is one.

    Raises:
        SettingsError: when the file cannot be read.
    """
    try:
        return msgspec.json.decode(file.read_bytes(), type=Session)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError):
        raise SettingsError(f"the session in {file} cannot be read: sign in again, or delete it") from None


def keep_session(session: Session, file: Path) -> None:
    """Keep a session where only its owner can read it.

    Raises:
        SettingsError: when it cannot be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # mkstemp makes files that nobody else can read (0600).
        handle, name = tempfile.mkstemp(dir=file.parent, prefix=".session-")
        try:
            with os.fdopen(handle, "wb") as new:
                new.write(msgspec.json.encode(session))
            Path(name).replace(file)
        except OSError:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise SettingsError(f"the session cannot be kept in {file}: {error.strerror}") from None


def forget_session(file: Path) -> bool:
    """Forget the session that is kept; return whether there was one."""
    with contextlib.suppress(FileNotFoundError):
        file.unlink()
        return True
    return False


def _bare(url: str) -> str:
    return url.rstrip("/").removesuffix("/v1").lower()
