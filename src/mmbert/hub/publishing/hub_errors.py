"""Errors of writing to the hub, as the user is told of them."""

from mmbert.errors import OutputError

# Packages, also under names such as httpx2.
_TRANSPORTS = ("httpx", "httpcore", "requests", "urllib3", "hf_xet")
_AGAIN = "run the same command again: finished revisions are kept"


def hub_error(place: str, error: BaseException) -> OutputError | None:
    """Return the error to raise instead of one that huggingface_hub or its transport raised.

    Args:
        place: the repository, and where it is.

    Returns:
        None for what is neither an answer of the hub nor a failure to reach it.
    """
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        status = None
        if isinstance(cause, HfHubHTTPError):
            status = getattr(cause.response, "status_code", None)
        if status is not None:
            return _answer(place, int(status), cause)
        offline = isinstance(cause, (OfflineModeIsEnabled, ConnectionError, TimeoutError))
        if offline or type(cause).__module__.startswith(_TRANSPORTS):
            return OutputError(
                f"{place} cannot be reached ({_first_line(cause)})",
                remedy=f"check the network, HF_ENDPOINT and HF_HUB_OFFLINE, then {_AGAIN}; or"
                " publish into a folder: mmbert publish RUN OUT",
            )
        cause = cause.__cause__ or cause.__context__
    return None


def _answer(place: str, status: int, error: BaseException) -> OutputError:
    if status == 401:
        return OutputError(
            f"{place} cannot be written without a login",
            remedy="run `hf auth login`, or set HF_TOKEN, with a token that may write",
        )
    if status == 403:
        return OutputError(
            f"{place} cannot be written by this account",
            remedy="use a token that may write there (`hf auth login`, HF_TOKEN), or another"
            " --repository",
        )
    if status in (409, 412):
        return OutputError(f"{place} was changed by somebody else meanwhile", remedy=_AGAIN)
    return OutputError(f"{place} answers {status}: {_first_line(error)}", remedy=_AGAIN)


def _first_line(error: BaseException) -> str:
    text = getattr(error, "server_message", None) or str(error)
    return (str(text).strip().splitlines() or [type(error).__name__])[0]
